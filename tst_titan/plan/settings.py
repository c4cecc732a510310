"""What a run computes, resolved: the settings that identities are made of.

Everything here is science: a change of any field is another run. Where and how a run is computed (nodes, ranks,
micro-batch, compile, logging) is no part of these records. Plain data, no torch: `plan` knows numbers only.

Sizes: B = `sequences_per_step`, L = `seq_len`, S = `bag_size`.
"""

import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from tst_titan.files import digest_json
from tst_titan.superposition.settings import Superpose, tokens_per_position, window_length

Architecture = Literal["llama3", "qwen3_moe"]
StageName = Literal["superposition", "recovery", "constant", "decay"]


@dataclass(frozen=True, kw_only=True)
class MoEShape:
    """Routed experts of every layer (token-choice top-k, balanced by a per-expert bias)."""

    num_experts: int
    top_k: int
    expert_ffn_dim: int
    load_balance_coeff: float


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder's shape. `ffn_dim` is the dense FFN's hidden size (unused, 0, where `moe` is set)."""

    name: str
    architecture: Architecture
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    tied_embeddings: bool
    rope_theta: float
    norm_eps: float
    moe: MoEShape | None


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One source of documents and its share of the training tokens.

    kind "python-stdlib": the running interpreter's standard library; `path` unused.
    kind "files": local text, JSONL or Parquet; `path` is a file, a folder or a glob.
    kind "hub": a Hugging Face dataset; `path` is its name.
    weight "proportional", of all sources or none: the share that its bytes have (`tst_titan.data.shares`).
    """

    name: str
    kind: Literal["python-stdlib", "files", "hub"]
    weight: float | Literal["proportional"] = 1.0
    path: str = ""
    revision: str = ""
    subset: str = ""
    split: str = "train"
    file_pattern: str = ""
    text_column: str = "text"


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """kind "bpe": a byte-level BPE trained on the corpus; "file": a tokenizer.json; "hub": a repository's.

    `name` is the path or repository for "file" and "hub", and a label for "bpe". `vocab_size` is the number of
    ids, special ones included.
    """

    kind: Literal["bpe", "file", "hub"]
    vocab_size: int
    name: str = ""
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """A tokenized corpus: sources, tokenizer, how it is cut and what is held out.

    Documents longer than `max_document_tokens` are cut into pieces of at most that many tokens (0: never cut).
    `validation_tokens` is the least number of held-out tokens; whole documents are held out, by hash of their
    identity. `max_tokens` bounds how many training tokens are taken from each source (0: all).
    """

    sources: tuple[SourceSettings, ...]
    tokenizer: TokenizerSettings
    validation_tokens: int
    max_document_tokens: int = 0
    max_tokens: int = 0

    @cached_property
    def id(self) -> str:
        """Readable first, hash last: ``python-stdlib-bpe4096-1a2b3c4d``."""
        sources = "+".join(source.name for source in self.sources)
        tokenizer = self.tokenizer.name or f"{self.tokenizer.kind}{self.tokenizer.vocab_size}"
        readable = "".join(c if c.isalnum() or c in "+.-" else "-" for c in f"{sources}-{tokenizer}")
        return f"{readable}-{digest_json(asdict(self))}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all stages of a run share.

    The learning rate warms up linearly over `warmup_steps`, then is constant; only a stage named "decay"
    lowers it. `block_tokens` is the unit in which the token stream is shuffled (see `tst_titan.data.stream`).
    """

    model: ModelShape
    corpus: CorpusSettings
    seq_len: int
    sequences_per_step: int
    learning_rate: float
    warmup_steps: int
    beta1: float
    beta2: float
    adam_eps: float
    weight_decay: float
    max_grad_norm: float
    precision: Literal["float32", "bfloat16", "float8"]
    attention: Literal["causal", "document"]
    block_tokens: int
    seed: int

    @property
    def tokens_per_step(self) -> int:
        """Equivalent tokens (latent positions) of one optimizer step: B * L."""
        return self.sequences_per_step * self.seq_len

    @cached_property
    def science(self) -> dict[str, Any]:
        """The recipe as plain data, made once: thousands of segments share a recipe. Not to be changed."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One fixed behaviour over the steps `start_step` < step <= `end_step` of a run.

    superposition: bags of `bag_size` in (superpose "input"), out ("output") or both, loss weighted by
        `bag_weighting`; warmup + constant learning rate.
    recovery: plain next-token training after a superposition, constant learning rate.
    constant: plain next-token training from step 0, warmup + constant learning rate.
    decay: plain next-token training while the rate falls linearly from the peak at `start_step` to
        `decay_to` times the peak at `decay_end_step` (the run's total steps; `end_step` may be earlier where
        a stage is split).
    `reinit_embeddings` re-initializes embedding and head when the stage starts (Table 2's ablation).
    """

    name: StageName
    start_step: int
    end_step: int
    bag_size: int = 1
    bag_weighting: str = "uniform"
    superpose: Superpose = "both"
    reinit_embeddings: bool = False
    decay_end_step: int = 0
    decay_to: float = 0.0

    @cached_property
    def begun(self) -> "Stage":
        """The stage without a step taken: equal for stages that differ only in how far they got."""
        return replace(self, end_step=self.start_step)

    @property
    def data_tokens_per_position(self) -> int:
        """Data tokens that one latent position consumes: S where the input is bags, else 1."""
        return tokens_per_position(self.bag_size, self.superpose)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One job: train the last of `stages` from `start_step` (its parent's end) to its `end_step`.

    The identity is the trajectory (recipe and stages) alone. `parent` and `start_step` say where this job picks
    it up, which is the planner's choice and changes no result: a stage split into several jobs keeps the
    identity of every state that it passes.
    """

    recipe: Recipe
    stages: tuple[Stage, ...]
    parent: str | None = None
    start_step: int = 0

    @property
    def stage(self) -> Stage:
        return self.stages[-1]

    @property
    def end_step(self) -> int:
        return self.stages[-1].end_step

    @cached_property
    def id(self) -> str:
        """``270M-tst-s6/superposition-0-6000-3f9c2a1b``: family / stage, its range so far, digest."""
        stage = self.stages[-1]
        return f"{family(self)}/{stage.name}-{stage.start_step}-{stage.end_step}-{digest_json(self.science())}"

    @property
    def window_length(self) -> int:
        """Data tokens that a sequence of the last stage reads, its lookahead included."""
        return window_length(self.recipe.seq_len, self.stage.bag_size, self.stage.superpose)

    def science(self) -> dict[str, Any]:
        """The settings that the identity is made of, as plain data."""
        return {"recipe": self.recipe.science, "stages": [asdict(stage) for stage in self.stages]}

    @property
    def equivalent_tokens(self) -> int:
        """Latent positions trained on from step 0 to `end_step`."""
        return self.end_step * self.recipe.tokens_per_step

    @property
    def data_tokens(self) -> int:
        """Data tokens read from step 0 to `end_step`."""
        return self.data_tokens_at(self.end_step)

    def data_tokens_at(self, step: int) -> int:
        """Data tokens read when `step` steps are done: the position in the token stream."""
        return sum(
            max(0, min(step, stage.end_step) - stage.start_step)
            * self.recipe.tokens_per_step
            * stage.data_tokens_per_position
            for stage in self.stages
        )


def family(segment: Segment) -> str:
    """The folder of a segment: its model and, where bags came first, how they were made."""
    superposition = next((stage for stage in segment.stages if stage.name == "superposition"), None)
    if superposition is None:
        return f"{segment.recipe.model.name}-baseline"
    name = f"{segment.recipe.model.name}-tst-s{superposition.bag_size}"
    if superposition.superpose != "both":
        name += f"-{superposition.superpose}-only"
    if superposition.bag_weighting != "uniform":
        # Of mutual_information(C0,a,k) the numbers.
        name += "-" + re.sub("[^A-Za-z0-9.]+", "-", superposition.bag_weighting).strip("-")
    return name


def segment_from_dict(value: dict[str, Any]) -> Segment:
    """The inverse of `segment_to_dict`."""
    recipe = dict(value["recipe"])
    model = dict(recipe["model"])
    model["moe"] = MoEShape(**model["moe"]) if model["moe"] else None
    corpus = dict(recipe["corpus"])
    corpus["sources"] = tuple(SourceSettings(**source) for source in corpus["sources"])
    corpus["tokenizer"] = TokenizerSettings(**corpus["tokenizer"])
    recipe |= {"model": ModelShape(**model), "corpus": CorpusSettings(**corpus)}
    return Segment(
        recipe=Recipe(**recipe),
        stages=tuple(Stage(**stage) for stage in value["stages"]),
        parent=value["parent"],
        start_step=value["start_step"],
    )


def segment_to_dict(segment: Segment) -> dict[str, Any]:
    """Plain data of a whole segment, its place in the plan included (`settings.json`)."""
    return {"id": segment.id, **segment.science(), "parent": segment.parent, "start_step": segment.start_step}
