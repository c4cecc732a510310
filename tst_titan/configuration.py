"""The workflow's configuration: every key of `workflow/config.yaml`, the site file, `--configfile` and `--config`,
checked.

Later sources win, mappings join. Each source is checked by itself, so that a mistake is told with the place that it
stands in.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from tst_titan.cluster.site import Site, parse_site
from tst_titan.errors import UserError
from tst_titan.study.fields import choices
from tst_titan.study.yaml_file import read_yaml
from tst_titan.train.hardware_section import check_section

DEFAULTS_FILE = Path("workflow/config.yaml")
SITE_FILE = Path("site.yaml")
# Names another site file.
SITE_VARIABLE = "TST_TITAN_SITE"
COMMAND_LINE = "--config"


@dataclass(frozen=True)
class Source:
    """Settings of one place. `name` is what messages call it: a file's path, or --config."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The section `evaluation`: `processes` share one evaluation, each with a GPU of its own where there are GPUs.

    `trust_tasks`: task definitions in studies/tasks may bring code (SECURITY.md).
    """

    processes: int = 1
    trust_tasks: bool = False


@dataclass(frozen=True, kw_only=True)
class Tokenizing:
    """The section `data`: training tokens of one job, and the most jobs that a corpus is shared out to."""

    tokens_per_job: int = 1_000_000_000
    most_jobs: int = 400


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Where things lie and how the machine is used; nothing here is part of any identity.

    `hardware` is a section that `tst_titan.train.hardware_section` has checked. `max_segment_steps` None: no segment is
    split.
    """

    studies: Path = Path("studies")
    results: Path = Path("results")
    hardware: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)
    max_segment_steps: int | None = None
    site: Site = field(default_factory=Site)
    data: Tokenizing = field(default_factory=Tokenizing)


_SECTIONS: dict[str, type[Any]] = {"evaluation": Evaluation, "data": Tokenizing}


def site_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The site's own file, if there is one. `UserError` where it is named and missing, empty or no mapping."""
    named = environment.get(SITE_VARIABLE)
    path = SITE_FILE if named is None else Path(named)
    if not path.exists():
        if named is not None:
            raise UserError(f"no such file (named by {SITE_VARIABLE})", where=named)
        return None
    file_source(path)
    return path


def file_source(path: Path) -> Source:
    """The settings of a configuration file."""
    return Source(str(path), read_yaml(path, example="results: /scratch/me/results"))


def sources_of(
    site: Path | None, more_files: Iterable[Path] = (), command_line: Mapping[str, Any] | None = None
) -> list[Source]:
    """All sources in their order: the workflow's defaults, the site file, `--configfile`, `--config`."""
    files = [DEFAULTS_FILE, *([site] if site else []), *more_files]
    return [*map(file_source, files), Source(COMMAND_LINE, command_line or {})]


def read_configuration(sources: Sequence[Source]) -> Configuration:
    """The configuration that these sources make together.

    Raises `UserError` with one line for each wrong section: source, key, value, what is allowed.
    """
    mistakes: list[str] = []
    merged: dict[str, Any] = {}
    for source in sources:
        settings = _numbers_from_text(source.settings) if source.name == COMMAND_LINE else source.settings
        for key, value in settings.items():
            try:
                _parse(key, value)
            except UserError as error:
                mistakes.append(f"{source.name}: {error}")
        _merge(merged, settings)
    if mistakes:
        raise UserError("\n".join(mistakes))
    return Configuration(**{key: _parse(key, value) for key, value in merged.items()})


def check_models(sources: Iterable[Source], models: Iterable[str]) -> None:
    """`UserError` for hardware of a model that is none of `models`, in the source that names it."""
    known = list(models)
    for source in sources:
        with _named(source.name):
            check_section(source.settings.get("hardware") or {}, known)


@contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}", where=place) from None


def checkout_configuration() -> Configuration:
    """The configuration of the checkout in the working directory; `UserError` where it is none."""
    if not (Path("Snakefile").is_file() and DEFAULTS_FILE.is_file()):
        raise UserError("not a checkout of tst-titan: go to the folder of its Snakefile", where=Path.cwd())
    return read_configuration(sources_of(site_file()))


def _parse(key: str, value: Any) -> Any:
    """One setting of the top level as `Configuration` has it."""
    names = [item.name for item in fields(Configuration)]
    if key not in names:
        raise UserError(f"unknown key; {choices(key, names)}", where=key)
    if key in ("studies", "results"):
        return _path(key, value)
    if key == "max_segment_steps":
        # --config has no other word for nothing.
        return None if value in (None, "null", "") else _whole(key, value, " (null: never split)")
    if key == "hardware":
        section = {} if value is None else value
        check_section(section)
        return section
    if value is None:
        raise UserError("is empty; write its settings below it, indented, or remove the line", where=key)
    if key == "site":
        return parse_site(value)
    return _section(key, value, _SECTIONS[key])


def _path(key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{key} = {value!r}: must be a folder's path in text, such as {key}: ./mine")
    if set("{}") & set(value):
        # Snakemake takes them for wildcards.
        raise UserError(f"{key} = {value!r}: braces cannot be part of this path; choose another folder")
    return Path(value)


def _section(key: str, value: Any, kind: type[Any]) -> Any:
    """A section of whole numbers and truth values."""
    known = {item.name: item.default for item in fields(kind)}
    if not isinstance(value, Mapping):
        example, number = next(iter(known.items()))
        assert number is not MISSING
        raise UserError(f"{key} = {value!r}: must be a mapping of settings, such as {key}: {{{example}: {number}}}")
    for name in value:
        if name not in known:
            raise UserError(f"{key}.{name}: unknown key; {choices(name, known)}")
    checks: dict[str, Callable[[str, Any], Any]] = {
        name: _truth if isinstance(default, bool) else _whole for name, default in known.items()
    }
    return kind(**{name: checks[name](f"{key}.{name}", setting) for name, setting in value.items()})


def _truth(key: str, value: Any) -> bool:
    """True or false, by these words alone: --config makes text of both."""
    if str(value).lower() not in ("true", "false"):
        raise UserError(f"{key} = {value!r}: must be true or false")
    return str(value).lower() == "true"


def _whole(key: str, value: Any, more: str = "") -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9][0-9_]{0,20}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():  # 1e9
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{key} = {value!r}: must be a whole number from 1{more}")
    return value


def _numbers_from_text(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The command line's settings, of which Snakemake leaves everything within a mapping text: those of `site` of their
    types."""
    site = settings.get("site")
    if not isinstance(site, Mapping):
        return settings
    kinds = {item.name: type(getattr(Site(), item.name)) for item in fields(Site)}
    typed = dict(site)
    for key, value in site.items():
        if isinstance(value, str):
            typed[key] = _from_text(value, kinds.get(key, str))
    return {**settings, "site": typed}


def _from_text(text: str, kind: type) -> Any:
    """The text as `kind`; what is none stays text, and is refused as such."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError):
        return text


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """As Snakemake merges: mappings join, everything else is replaced."""
    for key, value in new.items():
        if isinstance(value, Mapping):
            below = into.get(key)
            into[key] = dict(below) if isinstance(below, Mapping) else {}
            _merge(into[key], value)
        else:
            into[key] = value
