"""The study definition: what a user may write, as one pydantic model. Its JSON schema is generated from here.

A definition says what is computed, never where or how. Runs are arms x models x steps x seeds x whatever a list in
any field makes a grid of; an arm's value beats a model's, a model's beats the study's `training`.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tst_titan.names import RULE, is_name
from tst_titan.study import catalogue
from tst_titan.study.corpus import Corpus
from tst_titan.study.evaluation_points import At
from tst_titan.study.fields import (
    Fraction,
    Grid,
    Name,
    NotNegative,
    Positive,
    Rate,
    Strict,
    Tokens,
    choices,
    defaulted,
    named,
    nearest,
)
from tst_titan.study.recipe import Shape, Training
from tst_titan.superposition.settings import BAG_WEIGHTINGS, Superpose


def _weighting(value: Any) -> Any:
    """A validator for a known weighting, or `mutual_information(C0, a, k)` with a fit of one's own, spaces dropped."""
    if not (isinstance(value, str) and value.startswith("mutual_information(")):
        return named("bag weighting", BAG_WEIGHTINGS)(value)
    try:
        c0, a, k = (float(part) for part in value.removeprefix("mutual_information(").removesuffix(")").split(","))
    except ValueError:
        c0 = a = k = float("nan")
    # A weight at each distance, none below zero, none that grows.
    if not (value.endswith(")") and 0 <= c0 < 1e6 and 0 <= a < 1e6 and -100 < k <= 0 and c0 + a > 0):
        raise ValueError(
            "needs the three numbers of I(d) = C0 + a * d**k, as in mutual_information(3.63, 1.35, -1.25): C0 and a "
            "zero or more, k zero or less (`tst-titan data stats CORPUS` fits them)"
        )
    return f"mutual_information({c0:g},{a:g},{k:g})"


BagWeighting = Annotated[
    str,
    BeforeValidator(_weighting),
    Field(
        json_schema_extra={
            "anyOf": [
                {"enum": list(BAG_WEIGHTINGS)},
                {"pattern": r"^mutual_information\(.*,.*,.*\)$"},
            ]
        }
    ),
]
Comparison = Annotated[
    str,
    BeforeValidator(named("comparison", catalogue.COMPARISONS)),
    Field(json_schema_extra={"enum": list(catalogue.COMPARISONS)}),
]


class ModelEntry(Training):
    """What differs for one model; `shape` makes it a model of one's own."""

    shape: Shape | None = None
    steps: Grid[Positive] | None = None
    corpus: Corpus | None = Field(default=None, description="Another corpus for this model, whole.")


class ArmFields(Training):
    """What an arm may set; see `Arm`."""

    bag_size: Grid[Positive] | None = Field(default=None, description="Data tokens in a bag; 1 is ordinary training.")
    step_ratio: Grid[Fraction] | None = Field(
        default=None,
        description="Share of the steps, from the first, spent in superposition: at least 0, below 1.",
    )
    superposition_steps: Grid[Positive] | None = Field(
        default=None, description="The exact number, instead of step_ratio."
    )
    bag_weighting: Grid[BagWeighting] | None = defaulted("bag_weighting", "Weights of a bag's targets.")
    superpose: Grid[Superpose] | None = defaulted("superpose", "Bags at the input, the output or both.")
    reinit_embeddings: Grid[bool] | None = defaulted(
        "reinit_embeddings", "Re-initialize embedding and head when superposition ends (an ablation)."
    )
    models: Grid[str] | None = Field(default=None, description="Only these of the study's models. Default: all.")
    steps: Grid[Positive] | None = None
    seeds: Grid[NotNegative] | None = None


class Arm(ArmFields):
    """One way to train: `{}` is the baseline; `bag_size` with `step_ratio` is token superposition."""

    @model_validator(mode="after")
    def _superposition_is_whole(self) -> "Arm":
        mistake = superposition_mistake(self)
        if mistake:
            raise ValueError(mistake)
        return self


def superposition_mistake(arm: ArmFields) -> str | None:
    """Why an arm's superposition fields do not belong together, if they do not."""
    exact = arm.superposition_steps is not None
    if arm.step_ratio is not None and exact:
        return "give step_ratio or superposition_steps, not both"
    if arm.bag_size not in (None, (1,)) and arm.step_ratio is None and not exact:
        return "bag_size needs step_ratio (or superposition_steps) beside it"
    if (exact or arm.step_ratio not in (None, (0.0,))) and arm.bag_size is None:
        return "step_ratio and superposition_steps need bag_size beside them"
    for field in ("bag_weighting", "superpose", "reinit_embeddings"):
        if getattr(arm, field) is not None and arm.bag_size is None:
            return f"{field} means nothing without bag_size and step_ratio"
    if arm.superpose and "input" in arm.superpose and set(arm.bag_weighting or ()) - {"uniform"}:
        return "superpose: input predicts one token, so it has no bag_weighting: make it an arm of its own"
    return None


class Include(ArmFields):
    """Runs beyond the grid: an arm, with any of its fields changed."""

    arm: str
    model: str | None = None


class Exclude(Strict):
    """Runs of the grid that are left out: those that match every key given."""

    arm: Grid[str] | None = None
    model: Grid[str] | None = None
    steps: Grid[Positive] | None = None
    seed: Grid[NotNegative] | None = None
    bag_size: Grid[Positive] | None = None
    step_ratio: Grid[Fraction] | None = None
    bag_weighting: Grid[BagWeighting] | None = None
    superpose: Grid[Superpose] | None = None
    learning_rate: Grid[Rate] | None = None


def _task(value: Any) -> Any:
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"must be the name of an lm-eval task or of a group (offline, paper); {RULE}")
    if value not in catalogue.KNOWN_TASKS:
        neighbour = nearest(value, catalogue.KNOWN_TASKS, cutoff=0.85)
        # Real neighbours differ by a suffix (arc_easy_mt, mmlu_abstract_algebra): only slips are refused.
        if neighbour and not value.startswith(neighbour):
            raise ValueError(f"no known task; did you mean {neighbour!r}?")
    return value


class Evaluate(Strict):
    """Which tasks, and at which steps of a run."""

    tasks: Grid[Annotated[str, BeforeValidator(_task)]] | None = Field(
        default=None, description="Task names of lm-eval, or the groups offline and paper."
    )
    at: At = Field(default="final", validate_default=True, description="final, every 10%, or every 1000 steps.")


class Validation(Strict):
    """Plain next-token loss on held-out text while a run trains (no part of any identity)."""

    every: NotNegative | None = Field(default=None, description="Steps between validations; 0: at the end only.")
    tokens: Tokens | None = Field(
        default=None, description="Held-out tokens read each time. Default: all that is held out."
    )


class Study(Strict):
    """A tst-titan study: arms x models x steps x seeds, and how to judge them."""

    extends: Grid[str] | None = Field(default=None, description="Study files to start from; what is written here wins.")
    description: str = ""
    corpus: Corpus
    models: dict[Name, ModelEntry] = Field(min_length=1)
    steps: Grid[Positive] | None = Field(default=None, description="Budgets: total optimizer steps of a run.")
    arms: dict[Name, Arm] = Field(min_length=1)
    seeds: Grid[NotNegative] = (0,)
    training: Training = Training()
    include: list[Include] = Field(default=[])
    exclude: list[Exclude] = Field(default=[])
    evaluate: Evaluate = Evaluate()
    compare: Grid[Comparison] = ("equal_flops",)
    validation: Validation = Validation()
    log_every: Positive = 10

    @field_validator("models", mode="before")
    @classmethod
    def _models_by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, list):
            for item in value:
                if not isinstance(item, str):
                    raise ValueError("must be a model's name, a list of names, or a mapping of names to what differs")
                if value.count(item) > 1:
                    raise ValueError(f"the model {item!r} is given twice")
            return {item: {} for item in value}
        return value

    @field_validator("models")
    @classmethod
    def _known_models(cls, value: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        for name, entry in value.items():
            if name in catalogue.MODELS and entry.shape is not None:
                raise ValueError(f"{name!r} has a shape of its own: give the new shape another name")
            if name not in catalogue.MODELS and entry.shape is None:
                raise ValueError(f"no such model {name!r}; {choices(name, catalogue.MODELS)}, or give it a shape")
        return value
