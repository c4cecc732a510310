"""The recipe and the shape of a model, as a definition writes them."""

from typing import Any, Literal

from pydantic import Field, model_validator

from tst_titan.study.fields import Fraction, Grid, NotNegative, NotNegativeNumber, Positive, Rate, Strict

Precision = Literal["float32", "bfloat16", "float8"]
Attention = Literal["causal", "document"]


class Training(Strict):
    """The recipe: what is not given here is as published. A list makes a grid."""

    seq_len: Grid[Positive] | None = Field(
        default=None, description="Latent positions in a sequence. Default 2048."
    )
    sequences_per_step: Grid[Positive] | None = Field(
        default=None, description="Sequences in one optimizer step, over all ranks. Default 1024."
    )
    learning_rate: Grid[Rate] | None = Field(
        default=None, description="Peak learning rate. Default: the model's own."
    )
    warmup_steps: Grid[NotNegative] | None = Field(
        default=None, description="Steps of linear warmup. Default 2000."
    )
    decay_fraction: Grid[Fraction] | None = Field(
        default=None,
        description="Share of the steps, at the end, over which the rate falls linearly. Default 0.1.",
    )
    decay_to: Grid[Fraction] | None = Field(
        default=None, description="Learning rate at the last step, as a share of the peak. Default 0."
    )
    beta1: Grid[Fraction] | None = Field(default=None, description="AdamW's beta 1. Default 0.9.")
    beta2: Grid[Fraction] | None = Field(default=None, description="AdamW's beta 2. Default 0.95.")
    adam_eps: Grid[Rate] | None = Field(default=None, description="AdamW's epsilon. Default 1e-8.")
    weight_decay: Grid[NotNegativeNumber] | None = Field(
        default=None, description="AdamW's weight decay. Default 0.1."
    )
    max_grad_norm: Grid[Rate] | None = Field(default=None, description="Gradient clipping norm. Default 1.")
    precision: Grid[Precision] | None = Field(default=None, description="Matmul precision. Default bfloat16.")
    attention: Grid[Attention] | None = Field(
        default=None,
        description="causal, or document: positions see their own document only. Default causal.",
    )
    block_tokens: Grid[Positive] | None = Field(
        default=None,
        description="Data tokens of a block, the unit in which the stream is shuffled. Default 2048.",
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
