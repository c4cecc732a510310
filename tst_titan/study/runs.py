"""One run of a grid: its values resolved and checked against each other, and its name."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from tst_titan.errors import UserError
from tst_titan.study import catalogue
from tst_titan.study.corpus import Corpus
from tst_titan.study.defaults import ARM_DEFAULTS, TRAINING_DEFAULTS
from tst_titan.study.definition import Study
from tst_titan.study.recipe import Shape
from tst_titan.study.yaml_file import StudySource

KeyPath = tuple[str | int, ...]
# How a field shows in a run's name, where a run differs by it.
_TAGS = {
    "learning_rate": "lr",
    "warmup_steps": "warmup",
    "weight_decay": "wd",
    "precision": "",
    "attention": "",
}


@dataclass(frozen=True)
class RunDefinition:
    """One run, resolved: what the plan turns into a trajectory.

    Where `superposition_steps` is 0 the run is plain (`bag_size` 1, no weighting). `training` holds every field of
    `definition.Training`; `own_fields` are those that its arm sets itself, of superposition too.
    """

    name: str
    arm: str
    model: str
    steps: int
    seed: int
    bag_size: int
    step_ratio: float
    superposition_steps: int
    decay_start: int
    bag_weighting: str
    superpose: str
    reinit_embeddings: bool
    training: dict[str, Any]
    own_fields: tuple[str, ...]
    shape: Shape
    corpus: Corpus

    @property
    def science(self) -> tuple[Any, ...]:
        """What makes two runs of one study the same run."""
        phase = (
            self.bag_size,
            self.superposition_steps,
            self.bag_weighting,
            self.superpose,
            self.reinit_embeddings,
        )
        return (self.model, self.steps, self.seed, phase, tuple(self.training.items()))


@dataclass(frozen=True)
class Point:
    """One point of a grid: an arm's values for a model, one a field, and where each was written.

    `tagged`: the fields that a run's name shows. `own`: those that the arm sets itself.
    """

    arm: str
    model: str
    values: dict[str, Any]
    paths: dict[str, KeyPath]
    tagged: list[str]
    own: tuple[str, ...]

    @property
    def steps(self) -> int:
        return self.values["steps"]

    @property
    def decay_start(self) -> int:
        """The step at which the decay begins: the last steps are the decay's, rounded to whole ones."""
        return self.steps - round(self.values["decay_fraction"] * self.steps)

    @property
    def timed_by(self) -> str:
        """The field that says how long superposition lasts."""
        return "step_ratio" if self.values["superposition_steps"] is None else "superposition_steps"

    @property
    def superposition_steps(self) -> int:
        """The steps of superposition, 0 where there is none."""
        exact, ratio = self.values["superposition_steps"], self.values["step_ratio"] or 0.0
        if self.values["bag_size"] == 1:
            return 0
        if exact is not None:
            return exact
        steps = round(ratio * self.steps)
        if ratio + self.values["decay_fraction"] <= 1 + 1e-9:
            # Where both phases round up (0.9 and 0.1 of 595 steps) they would overlap by a step: the decay keeps it.
            return min(steps, self.decay_start)
        return steps


def make_run(source: StudySource, study: Study, point: Point) -> RunDefinition:
    """The run at ``point``. Raises `UserError` where its phases do not fit into its steps."""
    _check_phases(source, point)
    values, steps = point.values, point.superposition_steps
    plain = steps == 0
    exact = values["superposition_steps"]
    phase = {**ARM_DEFAULTS, "step_ratio": 0.0} if plain else values
    return RunDefinition(
        name=_name(point),
        arm=point.arm,
        model=point.model,
        steps=point.steps,
        seed=values["seeds"],
        bag_size=phase["bag_size"],
        step_ratio=phase["step_ratio"] if plain or exact is None else exact / point.steps,
        superposition_steps=steps,
        decay_start=point.decay_start,
        bag_weighting=phase["bag_weighting"],
        superpose=phase["superpose"],
        reinit_embeddings=phase["reinit_embeddings"],
        training={field: values[field] for field in (*TRAINING_DEFAULTS, "learning_rate")},
        own_fields=point.own,
        shape=study.models[point.model].shape or _known_shape(point.model),
        corpus=study.models[point.model].corpus or study.corpus,
    )


def _check_phases(source: StudySource, point: Point) -> None:
    values, warmup = point.values, point.values["warmup_steps"]
    superposition_steps, decay_start = point.superposition_steps, point.decay_start

    def refuse(field: str, message: str) -> UserError:
        run = f"(arm {point.arm!r}, model {point.model!r}, {point.steps} steps)"
        return UserError(source.complain(point.paths[field], values[field], f"{message} {run}"))

    if warmup > decay_start:
        raise refuse(
            "warmup_steps",
            f"the warmup must end before the decay begins at step {decay_start}: at most {decay_start}",
        )
    if superposition_steps == 0:
        if values["step_ratio"] and values["bag_size"] > 1:
            raise refuse(
                "step_ratio",
                f"gives no step of superposition: at least {1 / point.steps:g}, or 0 for the baseline",
            )
        return
    end = f"superposition would end at step {superposition_steps}, inside the"
    if superposition_steps < warmup:
        raise refuse(point.timed_by, f"{end} warmup of {warmup} steps")
    if superposition_steps >= point.steps:
        raise refuse(point.timed_by, f"superposition must leave steps for recovery: at most {decay_start}")
    if superposition_steps > decay_start:
        raise refuse(point.timed_by, f"{end} decay that begins at step {decay_start}")


def _name(point: Point) -> str:
    """``2M-tst-s4-r0.3-1200-seed0``: readable, and unique within a study."""
    values = point.values
    parts = [point.model, point.arm]
    if values["bag_size"] > 1:
        parts.append(f"s{values['bag_size']}")
        exact = values["superposition_steps"] is not None
        # An exact count has no short ratio: 12483of49983.
        parts.append(f"{point.superposition_steps}of{point.steps}" if exact else f"r{values['step_ratio']:g}")
        if values["superpose"] != "both":
            parts.append(f"{values['superpose']}-only")
        if values["bag_weighting"] != "uniform":
            parts.append(re.sub("[^A-Za-z0-9.]+", "-", values["bag_weighting"]).strip("-"))
        if values["reinit_embeddings"]:
            parts.append("reinit")
    for field in point.tagged:
        value = values[field]
        parts.append(
            f"{_TAGS.get(field, field.replace('_', '-'))}{f'{value:g}' if isinstance(value, float) else value}"
        )
    # The exact count has named the budget already.
    if values["bag_size"] == 1 or values["superposition_steps"] is None:
        parts.append(str(point.steps))
    return "-".join([*parts, f"seed{values['seeds']}"])


@cache
def _known_shape(model: str) -> Shape:
    return Shape.model_validate(catalogue.MODELS[model]["shape"])
