"""The study definition: what a user may write, as one pydantic model. Its JSON schema is generated from here.

A definition says what is computed, never where or how. Runs are arms x models x steps x seeds x whatever a list in
any field makes a grid of; an arm's value beats a model's, a model's beats the study's `training`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from tst_titan.study import catalogue
from tst_titan.study.fields import (
    Fraction,
    NotNegative,
    NotNegativeNumber,
    Positive,
    Rate,
    Strict,
    Tokens,
    choices,
    grid,
    named,
    nearest,
    number,
)

Precision = Literal["float32", "bfloat16", "float8"]
Attention = Literal["causal", "document"]
Superpose = Literal["both", "input", "output"]
BagWeighting = Annotated[
    str,
    BeforeValidator(named("bag weighting", catalogue.BAG_WEIGHTINGS)),
    Field(json_schema_extra={"enum": list(catalogue.BAG_WEIGHTINGS)}),
]
Comparison = Annotated[
    str,
    BeforeValidator(named("comparison", catalogue.COMPARISONS)),
    Field(json_schema_extra={"enum": list(catalogue.COMPARISONS)}),
]
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")


def _name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError(
            "a name is letters, digits, dots, dashes and underscores, and starts with a letter or digit"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]


class Training(Strict):
    """The recipe: what is not given here is as published. A list makes a grid."""

    seq_len: grid(Positive) | None = Field(None, description="Latent positions in a sequence. Default 2048.")
    sequences_per_step: grid(Positive) | None = Field(
        None, description="Sequences in one optimizer step, over all ranks. Default 1024."
    )
    learning_rate: grid(Rate) | None = Field(
        None, description="Peak learning rate. Default: the model's own."
    )
    warmup_steps: grid(NotNegative) | None = Field(None, description="Steps of linear warmup. Default 2000.")
    decay_fraction: grid(Fraction) | None = Field(
        None, description="Share of the steps, at the end, over which the rate falls linearly. Default 0.1."
    )
    decay_to: grid(Fraction) | None = Field(
        None, description="Learning rate at the last step, as a share of the peak. Default 0."
    )
    beta1: grid(Fraction) | None = Field(None, description="AdamW's beta 1. Default 0.9.")
    beta2: grid(Fraction) | None = Field(None, description="AdamW's beta 2. Default 0.95.")
    adam_eps: grid(Rate) | None = Field(None, description="AdamW's epsilon. Default 1e-8.")
    weight_decay: grid(NotNegativeNumber) | None = Field(
        None, description="AdamW's weight decay. Default 0.1."
    )
    max_grad_norm: grid(Rate) | None = Field(None, description="Gradient clipping norm. Default 1.")
    precision: grid(Precision) | None = Field(None, description="Matmul precision. Default bfloat16.")
    attention: grid(Attention) | None = Field(
        None, description="causal, or document: positions see their own document only. Default causal."
    )
    block_tokens: grid(Positive) | None = Field(
        None, description="Data tokens of a block, the unit in which the stream is shuffled. Default 2048."
    )


TRAINING_DEFAULTS: dict[str, Any] = {
    "seq_len": 2048,
    "sequences_per_step": 1024,
    "warmup_steps": 2000,
    "decay_fraction": 0.1,
    "decay_to": 0.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "adam_eps": 1e-8,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "precision": "bfloat16",
    "attention": "causal",
    "block_tokens": 2048,
}


class Experts(Strict):
    """Routed experts of every layer."""

    num_experts: Positive
    top_k: Positive
    expert_ffn_dim: Positive
    load_balance_coeff: NotNegativeNumber = 1e-3


class Shape(Strict):
    """The shape of a model of one's own; the vocabulary is the tokenizer's."""

    architecture: Literal["llama3", "qwen3_moe"] = "llama3"
    dim: Positive
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive
    head_dim: Positive
    ffn_dim: NotNegative = 0
    tied_embeddings: bool = False
    rope_theta: Rate = 500000.0
    norm_eps: Rate = 1e-5
    moe: Experts | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Shape":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, for rotary positions")
        if self.architecture == "llama3" and (self.moe is not None or self.ffn_dim == 0):
            raise ValueError("a llama3 model needs ffn_dim and has no moe")
        if self.architecture == "qwen3_moe" and (self.moe is None or self.ffn_dim != 0):
            raise ValueError("a qwen3_moe model needs moe and has no ffn_dim")
        if self.moe is not None and self.moe.top_k > self.moe.num_experts:
            raise ValueError(f"top_k ({self.moe.top_k}) cannot exceed num_experts ({self.moe.num_experts})")
        return self


class Source(Strict):
    """A source of documents of one's own."""

    kind: Literal["files", "hub"]
    path: str = Field(
        min_length=1, description="files: a file, folder or glob; hub: the dataset's repository."
    )
    revision: str = ""
    subset: str = ""
    split: str = "train"
    file_pattern: str = ""
    text_column: str = "text"


class Tokenizer(Strict):
    """`llama3`, `qwen3`, `bpe-4096` (trained on the corpus), or a mapping for any other."""

    kind: Literal["bpe", "file", "hub"]
    vocab_size: Annotated[int, Field(ge=257, le=2**24)]
    name: str = Field("", description="file: path of the tokenizer.json; hub: the repository.")
    revision: str = ""
    model_vocab_size: Positive | None = Field(
        None, description="Rows of the models' embeddings where they are more than the tokenizer's ids."
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value in catalogue.TOKENIZERS:
            known = catalogue.TOKENIZERS[value]
            return {"kind": "hub", **vars(known)}
        match = re.fullmatch(r"bpe-([0-9]+)(k?)", value)
        if match:
            return {"kind": "bpe", "vocab_size": int(match[1]) * (1024 if match[2] else 1)}
        raise ValueError(
            f"no such tokenizer; {choices(value, [*catalogue.TOKENIZERS, 'bpe-4096'])}, or a mapping"
        )

    @model_validator(mode="after")
    def _consistent(self) -> "Tokenizer":
        if self.kind != "bpe" and not self.name:
            raise ValueError(f"a tokenizer of kind {self.kind} needs its name")
        if self.model_vocab_size is not None and self.model_vocab_size < self.vocab_size:
            raise ValueError(
                f"model_vocab_size ({self.model_vocab_size}) cannot be less than vocab_size ({self.vocab_size})"
            )
        return self


class Corpus(Strict):
    """The text: one `source` or a `mix` of several by weight, its tokenizer, and what is held out."""

    source: str | None = Field(None, description="One source by name; see also `mix`.")
    mix: dict[Name, Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]] | None = Field(
        None, description="Sources and their shares of the training tokens; the shares sum to 1."
    )
    sources: dict[Name, Source] = Field(
        {}, description="Sources of one's own, by the name that source or mix uses."
    )
    tokenizer: Tokenizer
    validation_tokens: Tokens = Field(10_000_000, description="Held-out tokens, at least (whole documents).")
    max_document_tokens: Tokens = Field(
        0, description="Cut documents into pieces of at most this many tokens; 0: never."
    )
    max_tokens: Tokens = Field(0, description="Training tokens taken from each source; 0: all.")

    @field_validator("source", "mix")
    @classmethod
    def _mix_sums(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict) and abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"the weights must sum to 1, but sum to {sum(value.values()):g}")
        return value

    @model_validator(mode="after")
    def _known_sources(self) -> "Corpus":
        if (self.source is None) == (self.mix is None):
            raise ValueError("needs either source (one name) or mix (names with weights)")
        known = [*catalogue.SOURCES, *self.sources]
        for name in self.weights:
            if name not in known:
                raise ValueError(
                    f"no such source {name!r}; {choices(name, known)}, or describe it under corpus.sources"
                )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Share of the training tokens by source."""
        return self.mix if self.mix is not None else {str(self.source): 1.0}


class ModelEntry(Training):
    """What differs for one model; `shape` makes it a model of one's own."""

    shape: Shape | None = None
    steps: grid(Positive) | None = None
    corpus: Corpus | None = Field(None, description="Another corpus for this model, whole.")


class Arm(Training):
    """One way to train: `{}` is the baseline; `bag_size` with `step_ratio` is token superposition."""

    bag_size: grid(Positive) | None = Field(None, description="Data tokens in a bag; 1 is ordinary training.")
    step_ratio: grid(Fraction) | None = Field(
        None, description="Share of the steps, from the first, spent in superposition: at least 0, below 1."
    )
    superposition_steps: grid(Positive) | None = Field(
        None, description="The exact number, instead of step_ratio."
    )
    bag_weighting: grid(BagWeighting) | None = Field(
        None, description="Weights of a bag's targets. Default uniform."
    )
    superpose: grid(Superpose) | None = Field(
        None, description="Bags at the input, the output or both. Default both."
    )
    reinit_embeddings: grid(bool) | None = Field(
        None,
        description="Re-initialize embedding and head when superposition ends (an ablation). Default false.",
    )
    models: grid(str) | None = Field(None, description="Only these of the study's models. Default: all.")
    steps: grid(Positive) | None = None
    seeds: grid(NotNegative) | None = None

    @model_validator(mode="after")
    def _superposition_is_whole(self) -> "Arm":
        if self.step_ratio is not None and self.superposition_steps is not None:
            raise ValueError("give step_ratio or superposition_steps, not both")
        bags = self.bag_size is not None and self.bag_size != (1,)
        timed = self.step_ratio is not None and self.step_ratio != (0.0,)
        if bags and self.step_ratio is None and self.superposition_steps is None:
            raise ValueError("bag_size needs step_ratio (or superposition_steps) beside it")
        if (timed or self.superposition_steps is not None) and self.bag_size is None:
            raise ValueError("step_ratio and superposition_steps need bag_size beside them")
        for field in ("bag_weighting", "superpose", "reinit_embeddings"):
            if getattr(self, field) is not None and self.bag_size is None:
                raise ValueError(f"{field} means nothing without bag_size and step_ratio")
        if self.superpose and "input" in self.superpose and set(self.bag_weighting or ()) - {"uniform"}:
            raise ValueError(
                "superpose: input predicts one token, so it has no bag_weighting: make it an arm of its own"
            )
        return self


class Include(Arm):
    """Runs beyond the grid: an arm, with any of its fields changed."""

    arm: str
    model: str | None = None


class Exclude(Strict):
    """Runs of the grid that are left out: those that match every key given."""

    arm: grid(str) | None = None
    model: grid(str) | None = None
    steps: grid(Positive) | None = None
    seed: grid(NotNegative) | None = None
    bag_size: grid(Positive) | None = None
    step_ratio: grid(Fraction) | None = None
    bag_weighting: grid(BagWeighting) | None = None
    superpose: grid(Superpose) | None = None
    learning_rate: grid(Rate) | None = None


def _task(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", value):
        raise ValueError("must be the name of an lm-eval task or of a group (offline, paper)")
    if value not in catalogue.KNOWN_TASKS:
        near = nearest(value, catalogue.KNOWN_TASKS, cutoff=0.85)
        # Real neighbours differ by a suffix (arc_easy_mt, mmlu_abstract_algebra): only slips are refused.
        if near and not value.startswith(near):
            raise ValueError(f"no known task; did you mean {near!r}?")
    return value


def _when(value: Any) -> Any:
    if isinstance(value, str):
        if value == "final":
            return value
        match = re.fullmatch(r"every ([0-9]+)\s*(%|steps)", value)
        if match and int(match[1]) > 0 and (match[2] == "steps" or int(match[1]) <= 100):
            return value
    raise ValueError("must be 'final', 'every 10%' (of a run's steps) or 'every 1000 steps'")


class Evaluate(Strict):
    """Which tasks, and at which steps of a run."""

    tasks: grid(Annotated[str, BeforeValidator(_task)]) | None = Field(
        None, description="Task names of lm-eval, or the groups offline and paper."
    )
    at: Annotated[str, BeforeValidator(_when)] = Field(
        "final", description="final, every 10%, or every 1000 steps."
    )


class Validation(Strict):
    """Plain next-token loss on held-out text while a run trains (no part of any identity)."""

    every: NotNegative | None = Field(None, description="Steps between validations; 0: at the end only.")
    tokens: Tokens | None = Field(
        None, description="Held-out tokens read each time. Default: all that is held out."
    )


class Study(Strict):
    """A tst-titan study: arms x models x steps x seeds, and how to judge them."""

    extends: grid(str) | None = Field(
        None, description="Study files to start from; what is written here wins."
    )
    description: str = ""
    corpus: Corpus
    models: dict[Name, ModelEntry] = Field(min_length=1)
    steps: grid(Positive) | None = Field(None, description="Budgets: total optimizer steps of a run.")
    arms: dict[Name, Arm] = Field(min_length=1)
    seeds: grid(NotNegative) = (0,)
    training: Training = Training()
    include: list[Include] = []
    exclude: list[Exclude] = []
    evaluate: Evaluate = Evaluate()
    compare: grid(Comparison) = ("equal_flops",)
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
                    raise ValueError(
                        "must be a model's name, a list of names, or a mapping of names to what differs"
                    )
                if value.count(item) > 1:
                    raise ValueError(f"the model {item!r} is given twice")
            return dict.fromkeys(value, {})
        return value

    @field_validator("models")
    @classmethod
    def _known_models(cls, value: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        for name, entry in value.items():
            if name in catalogue.MODELS and entry.shape is not None:
                raise ValueError(f"{name!r} has a shape of its own: give the new shape another name")
            if name not in catalogue.MODELS and entry.shape is None:
                raise ValueError(
                    f"no such model {name!r}; {choices(name, catalogue.MODELS)}, or give it a shape"
                )
        return value
