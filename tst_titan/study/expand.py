"""A definition's runs: grids written out, values resolved, and every run checked by itself and against the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from tst_titan.bounds import Bound
from tst_titan.errors import UserError
from tst_titan.study import catalogue
from tst_titan.study.defaults import ARM_DEFAULTS, TRAINING_DEFAULTS
from tst_titan.study.definition import Arm, Exclude, Include, Study, superposition_mistake
from tst_titan.study.fields import choices
from tst_titan.study.runs import KeyPath, Point, RunDefinition, make_run
from tst_titan.study.yaml_file import StudySource

MAX_EVALUATIONS = 1000
# Runs of one study: a slip in one file's grid stalls no command that reads the folder.
MAX_RUNS = Bound("TST_TITAN_MAX_RUNS", 10_000)


def expand(source: StudySource, study: Study) -> tuple[RunDefinition, ...]:
    """All runs of ``study``: the grid, less `exclude`, plus `include`. Raises `UserError`."""
    _check_names(source, study)
    grids = [
        grid for name, arm in study.arms.items() for grid in _grids_of_arm(source, study, name, arm, ("arms", name))
    ]
    included: list[_Grid] = []
    for index, entry in enumerate(study.include):
        path = ("include", index)
        arm = _changed_arm(study.arms[entry.arm], entry)
        mistake = superposition_mistake(arm)
        if mistake:
            raise UserError(source.complain(path, source.data["include"][index], mistake))
        included += _grids_of_arm(source, study, entry.arm, arm, path, entry)
    _check_size(source, [*grids, *included])
    runs = [run for grid in grids for run in _runs(source, study, grid)]
    runs = _without_excluded(source, study, runs)
    runs += [run for grid in included for run in _runs(source, study, grid)]
    if not runs:
        raise UserError(source.complain(("exclude",), source.data.get("exclude"), "leaves no run in the study"))
    _refuse_duplicates(source, runs)
    longest = max(run.steps for run in runs)
    count = study.evaluate.at.count(longest)
    if count > MAX_EVALUATIONS:
        message = f"evaluates a run of {longest} steps {count} times: at most {MAX_EVALUATIONS}"
        raise UserError(source.complain(("evaluate", "at"), str(study.evaluate.at), message))
    return tuple(runs)


def _check_names(source: StudySource, study: Study) -> None:
    mentions: list[tuple[KeyPath, str, dict[str, Any]]] = []
    for name, arm in study.arms.items():
        mentions += [(("arms", name, "models"), model, dict(study.models)) for model in arm.models or ()]
    for key, entries in (("include", study.include), ("exclude", study.exclude)):
        for index, entry in enumerate(entries):
            for field, allowed in (
                ("arm", dict(study.arms)),
                ("model", dict(study.models)),
                ("models", dict(study.models)),
            ):
                value = getattr(entry, field, None) or ()
                mentions += [
                    ((key, index, field), name, allowed) for name in ((value,) if isinstance(value, str) else value)
                ]
    for path, name, allowed in mentions:
        if name not in allowed:
            raise UserError(source.complain(path, name, f"not in this study; {choices(name, allowed)}"))
    corpora = {
        "": study.corpus,
        **{name: entry.corpus for name, entry in study.models.items() if entry.corpus},
    }
    for name, corpus in corpora.items():
        if study.validation.tokens is not None and study.validation.tokens > corpus.validation_tokens:
            path = ("models", name, "corpus") if name else ("corpus",)
            raise UserError(
                source.complain(
                    (*path, "validation_tokens"),
                    corpus.validation_tokens,
                    f"less is held out than validation.tokens ({study.validation.tokens}) would read",
                )
            )


def _changed_arm(arm: Arm, entry: Include) -> Arm:
    changes = {field: getattr(entry, field) for field in entry.model_fields_set if field in Arm.model_fields}
    if "superposition_steps" in changes:
        changes["step_ratio"] = None
    elif "step_ratio" in changes:
        changes["superposition_steps"] = None
    return arm.model_copy(update=changes)


@dataclass(frozen=True)
class _Grid:
    """The runs of an arm for one model, not yet written out: the values of each field, and where they were written."""

    arm: str
    model: str
    values: dict[str, tuple[Any, ...]]
    paths: dict[str, KeyPath]
    tagged: list[str]
    own: tuple[str, ...]


def _check_size(source: StudySource, grids: list[_Grid]) -> None:
    """`UserError` for a study of too many runs, counted before any is written out."""
    most = MAX_RUNS.most()
    num_runs = sum(prod(map(len, grid.values.values())) for grid in grids)
    if num_runs <= most:
        return
    count, path = max((len(values), grid.paths[field]) for grid in grids for field, values in grid.values.items())
    raise UserError(
        source.complain(
            path, None, f"{count:,} values of a study of {num_runs:,} runs: at most {most:,} runs; divide it into several, or "  # noqa: E501
            + MAX_RUNS.mend, show_value=False,
        )
    )  # fmt: skip


def _grids_of_arm(
    source: StudySource, study: Study, name: str, arm: Arm, path: KeyPath, entry: Include | None = None
) -> Iterator[_Grid]:
    """The grid of one arm (or of one entry of `include`, which changes the arm ``name``), for each of its models."""
    definition = entry if entry is not None else arm
    base: KeyPath = ("arms", name)
    recipe = (*ARM_DEFAULTS, *TRAINING_DEFAULTS, "learning_rate")
    own = tuple(field for field in recipe if getattr(arm, field) is not None)
    models = (entry.model,) if entry is not None and entry.model else arm.models or tuple(study.models)
    for model in models:
        grids: dict[str, tuple[Any, ...]] = {}
        paths: dict[str, KeyPath] = {}
        tagged = []
        for field in (*recipe, "steps", "seeds"):
            values, paths[field] = _resolve(
                study, model, arm, field, path if field in definition.model_fields_set else base
            )
            if values is None:
                raise UserError(
                    source.complain((field,), None, f"is missing: model {model!r} has no {field}", show_value=False)
                )
            grids[field] = values
            if field not in ("steps", "seeds", *ARM_DEFAULTS) and (len(values) > 1 or getattr(arm, field) is not None):
                tagged.append(field)
        yield _Grid(name, model, grids, paths, tagged, own)


def _runs(source: StudySource, study: Study, grid: _Grid) -> Iterator[RunDefinition]:
    for values in product(*grid.values.values()):
        chosen = dict(zip(grid.values, values, strict=True))
        point = Point(grid.arm, grid.model, chosen, grid.paths, grid.tagged, grid.own)
        yield make_run(source, study, point)


def _resolve(study: Study, model: str, arm: Arm, field: str, arm_path: KeyPath) -> tuple[Any, KeyPath]:
    """The values of a field, and where they were written: arm, then model, then study, then what is published."""
    defaults = {key: (value,) for key, value in (TRAINING_DEFAULTS | ARM_DEFAULTS).items()}
    if model in catalogue.MODELS:
        defaults["learning_rate"] = (catalogue.MODELS[model]["learning_rate"],)
    places: list[tuple[Any, KeyPath]] = [
        (getattr(arm, field, None), (*arm_path, field)),
        (getattr(study.models[model], field, None), ("models", model, field)),
        (getattr(study, field, None), (field,)),
        (getattr(study.training, field, None), ("training", field)),
    ]
    return next(((value, path) for value, path in places if value is not None), (defaults.get(field), (field,)))


def _matches(rule: Exclude, run: RunDefinition) -> bool:
    for field in rule.model_fields_set:
        wanted = getattr(rule, field)
        value = run.training[field] if field in run.training else getattr(run, field)
        if wanted is not None and value not in wanted:
            return False
    return True


def _without_excluded(source: StudySource, study: Study, runs: list[RunDefinition]) -> list[RunDefinition]:
    for index, rule in enumerate(study.exclude):
        path, written = ("exclude", index), source.data["exclude"][index]
        if not rule.model_fields_set:
            raise UserError(
                source.complain(path, written, "must name what to leave out, such as {model: 600M, steps: 100000}")
            )
        kept = [run for run in runs if not _matches(rule, run)]
        if len(kept) == len(runs):
            raise UserError(source.complain(path, written, "leaves out nothing: no run of the grid matches all of it"))
        runs = kept
    return runs


def _refuse_duplicates(source: StudySource, runs: list[RunDefinition]) -> None:
    by_science: dict[Any, RunDefinition] = {}
    by_name: dict[str, RunDefinition] = {}
    for run in runs:
        for twin in (by_science.get(run.science), by_name.get(run.name)):
            if twin is not None:
                where = f"arms.{twin.arm}" if twin.arm == run.arm else f"arms.{twin.arm} and arms.{run.arm}"
                raise UserError(
                    f"{where}: the same run stands twice in the study ({twin.name} and {run.name}): leave one out",
                    where=source.origin(("arms", run.arm)),
                )
        by_science[run.science] = by_name[run.name] = run
