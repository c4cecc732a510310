"""The recipe and the shape of a model, as a definition writes them."""

from typing import Literal

from pydantic import Field, model_validator

from tst_titan.study.fields import (
    Fraction,
    Grid,
    NotNegative,
    NotNegativeNumber,
    Positive,
    Rate,
    Strict,
    defaulted,
)

Precision = Literal["float32", "bfloat16", "float8"]
Attention = Literal["causal", "document"]


class Training(Strict):
    """The recipe: what is not given here is as published. A list makes a grid."""

    seq_len: Grid[Positive] | None = defaulted("seq_len", "Latent positions in a sequence.")
    sequences_per_step: Grid[Positive] | None = defaulted(
        "sequences_per_step", "Sequences in one optimizer step, over all ranks."
    )
    learning_rate: Grid[Rate] | None = Field(default=None, description="Peak learning rate. Default: the model's own.")
    warmup_steps: Grid[NotNegative] | None = defaulted("warmup_steps", "Steps of linear warmup.")
    decay_fraction: Grid[Fraction] | None = defaulted(
        "decay_fraction", "Share of the steps, at the end, over which the rate falls linearly."
    )
    decay_to: Grid[Fraction] | None = defaulted("decay_to", "Learning rate at the last step, as a share of the peak.")
    beta1: Grid[Fraction] | None = defaulted("beta1", "AdamW's beta 1.")
    beta2: Grid[Fraction] | None = defaulted("beta2", "AdamW's beta 2.")
    adam_eps: Grid[Rate] | None = defaulted("adam_eps", "AdamW's epsilon.")
    weight_decay: Grid[NotNegativeNumber] | None = defaulted("weight_decay", "AdamW's weight decay.")
    max_grad_norm: Grid[Rate] | None = defaulted("max_grad_norm", "Gradient clipping norm.")
    precision: Grid[Precision] | None = defaulted("precision", "Matmul precision.")
    attention: Grid[Attention] | None = defaulted(
        "attention", "causal, or document: positions see their own document only."
    )
    block_tokens: Grid[Positive] | None = defaulted(
        "block_tokens", "Data tokens of a block, the unit in which the stream is shuffled."
    )


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
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, for rotary positions")
        if self.architecture == "llama3" and (self.moe is not None or self.ffn_dim == 0):
            raise ValueError("a llama3 model needs ffn_dim and has no moe")
        if self.architecture == "qwen3_moe" and (self.moe is None or self.ffn_dim != 0):
            raise ValueError("a qwen3_moe model needs moe and has no ffn_dim")
        if self.moe is not None and self.moe.top_k > self.moe.num_experts:
            raise ValueError(f"top_k ({self.moe.top_k}) cannot exceed num_experts ({self.moe.num_experts})")
        return self
