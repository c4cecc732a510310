"""The configuration's section `hardware`: what every training job has, and what those of single models have instead.

    hardware:
      layout: one-node               # a named layout of each model (tst_titan.train.layouts), or nothing
      checkpoint_minutes: 20         # fields of Hardware, over the layout
      models:                        # the same two for single models, over all of the above
        10B-A1B: {layout: several-nodes}

What is more particular wins. A named layout sets how a model is computed and nothing else: when checkpoints are saved
and what is logged stays as it was.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import yaml

from tst_titan.errors import UserError
from tst_titan.study.fields import choices
from tst_titan.train.hardware import Hardware
from tst_titan.train.layouts import layout

_NO_LAYOUTS_BUSINESS = {
    "checkpoint_steps",
    "checkpoint_minutes",
    "async_checkpoints",
    "stop_seconds",
    "tensorboard",
    "wandb",
}
_DEFAULTS: dict[str, Any] = vars(Hardware())
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


def read_section(text: str) -> dict[str, Any]:
    """The section as the command line has it: YAML's, so JSON's too."""
    try:
        section = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--hardware {text}: is no YAML mapping such as '{{processes: 2}}'") from error
    check_section(section)
    return section


def check_section(section: Any, models: Iterable[str] | None = None) -> None:
    """`UserError` for an unknown key, a value of a wrong type, or a model that is none of `models` (None: any may
    be)."""
    _check_part(section, "hardware", more=("layout", "models"))
    known = None if models is None else sorted(set(models))
    of_models = section.get("models") or {}
    if not isinstance(of_models, Mapping):
        raise UserError(f"hardware.models = {of_models!r}: must be a mapping, such as models: {{3B: {{nodes: 4}}}}")
    for model, part in of_models.items():
        if known is not None and model not in known:
            raise UserError(f"hardware.models.{model}: no study has a model of that name; {choices(model, known)}")
        _check_part(part, f"hardware.models.{model}", more=("layout",))


def hardware_of(section: Mapping[str, Any], model: str, defaults: Mapping[str, Any] = MappingProxyType({})) -> Hardware:
    """The hardware of a model's training jobs, from a section that `check_section` has passed.

    `defaults`: fields of Hardware that neither the section nor a layout sets.
    """
    values: dict[str, Any] = dict(defaults)
    own = (section.get("models") or {}).get(model) or {}
    for where, part in (("hardware", section), (f"hardware.models.{model}", own)):
        if name := part.get("layout"):
            try:
                chosen = vars(layout(model, name).hardware)
            except UserError as error:
                raise UserError(f"{where}.layout: {error}") from error
            values |= {key: value for key, value in chosen.items() if key not in _NO_LAYOUTS_BUSINESS}
        values |= _fields(part, where)
    return Hardware(**values)


def _fields(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of Hardware in a part of the section, each of its type: Snakemake's --config gives all of them as
    text."""
    values = {}
    for key, value in part.items():
        if key in ("layout", "models"):
            continue
        kind = type(_DEFAULTS[key])
        try:
            if kind is bool:
                values[key] = {"true": True, "false": False}[str(value).lower()]
            elif isinstance(value, bool) or (kind is int and isinstance(value, float)):
                raise ValueError
            else:
                values[key] = kind(value)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where}.{key} = {value!r}: must be {_KINDS[kind]}") from None
    return values


def _check_part(part: Any, where: str, *, more: tuple[str, ...]) -> None:
    if not isinstance(part, Mapping):
        raise UserError(f"{where} = {part!r}: must be a mapping of settings, such as {{processes: 8}}")
    for key in part:
        if key not in (*_DEFAULTS, *more):
            raise UserError(f"{where}.{key}: unknown key; {choices(key, (*_DEFAULTS, *more))}")
    _fields(part, where)
