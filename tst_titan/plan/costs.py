"""What a run costs: parameters, FLOPs, checkpoint bytes, GPU-hours. Arithmetic on shapes, no torch.

FLOPs of training one latent position, forward and backward:

    6 * N + 6 * num_layers * num_heads * head_dim * (L + 1)

N: weights that the position is multiplied with. The head counts, the embedding lookup and the norms do not, of
routed experts the active ones do. Second term: attention is causal, so a position attends to (L + 1) / 2 positions
on average; scores and values are 2 * 2 FLOPs each per head dimension forward and twice that backward, 12 in all.
Only this average is counted (torchtitan's own utilization counts all L). Nothing recomputed is counted.

A superposition step costs as much as a plain one: bags add only a mean of embeddings and a gather of targets, which
are no matmuls. That is what "equal FLOPs" means throughout.
"""

from dataclasses import dataclass

from tst_titan.errors import UserError
from tst_titan.plan.settings import ModelShape, Recipe

# Dense peaks in FLOP/s as published by the makers: bf16 without sparsity. "cpu" is one x86-64 core in float32: two
# 8-lane multiply-adds a cycle at 3 GHz.
PEAK_FLOPS = {"b200": 2.25e15, "h200": 989e12, "h100": 989e12, "a100": 312e12, "cpu": 96e9}
# Of one GPU: what its maker calls 80 GB is 80 GiB, of which a card shows 79 to 80. An A100 also comes with 40.
GPU_MEMORY_GIB = {"b200": 180, "h200": 141, "h100": 80, "a100": 80}
PUBLISHED_ACCELERATOR = "b200"
DEFAULT_UTILIZATION = 0.4
# Float32 master weights and AdamW's two float32 moments.
CHECKPOINT_BYTES_PER_PARAMETER = 12


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of weights. `active`: those that one position uses; all of them in a dense model."""

    total: int
    embedding: int
    head: int
    norms: int
    active: int

    @property
    def without_embeddings(self) -> int:
        """Weights of the blocks and the last norm: no embedding table, no head."""
        return self.total - self.embedding - self.head

    @property
    def active_without_embeddings(self) -> int:
        return self.active - self.embedding - self.head


def count_parameters(shape: ModelShape) -> ParameterCounts:
    """Count the weights of ``shape`` as torchtitan 0.3.0 builds it (a tied head is counted once, as embedding)."""
    attention = 2 * shape.dim * shape.head_dim * (shape.num_heads + shape.num_kv_heads)
    norms = 2 * shape.dim
    if shape.architecture == "qwen3_moe":
        norms += 2 * shape.head_dim
    idle = 0
    if shape.moe is None:
        ffn = 3 * shape.dim * shape.ffn_dim
    else:
        expert = 3 * shape.dim * shape.moe.expert_ffn_dim
        ffn = shape.dim * shape.moe.num_experts + shape.moe.num_experts * expert
        idle = (shape.moe.num_experts - shape.moe.top_k) * expert
    all_norms = shape.num_layers * norms + shape.dim
    embedding = shape.vocab_size * shape.dim
    head = 0 if shape.tied_embeddings else embedding
    total = embedding + head + shape.num_layers * (attention + ffn) + all_norms
    return ParameterCounts(
        total=total, embedding=embedding, head=head, norms=all_norms, active=total - shape.num_layers * idle
    )


def flops_per_position(shape: ModelShape, seq_len: int) -> int:
    """Training FLOPs of one latent position (see the formula above)."""
    counts = count_parameters(shape)
    head = shape.vocab_size * shape.dim
    matmul = counts.active_without_embeddings - counts.norms + head
    return 6 * matmul + 6 * shape.num_layers * shape.num_heads * shape.head_dim * (seq_len + 1)


def flops_per_step(recipe: Recipe) -> int:
    """Training FLOPs of one optimizer step, in either phase."""
    return flops_per_position(recipe.model, recipe.seq_len) * recipe.tokens_per_step


def checkpoint_bytes(shape: ModelShape) -> int:
    """Bytes of one resumable checkpoint: weights and both moments in float32."""
    return CHECKPOINT_BYTES_PER_PARAMETER * count_parameters(shape).total


@dataclass(frozen=True)
class Accelerator:
    """What GPU-hours are stated for: a device, and the share of its peak that training reaches."""

    name: str = PUBLISHED_ACCELERATOR
    utilization: float = DEFAULT_UTILIZATION

    def __post_init__(self) -> None:
        if self.name not in PEAK_FLOPS:
            raise UserError(f"accelerator {self.name!r}: not known; allowed: {', '.join(PEAK_FLOPS)}")
        if not 0 < self.utilization <= 1:
            raise UserError(f"utilization {self.utilization:g}: must be greater than 0 and at most 1")

    def hours(self, flops: float) -> float:
        """Device-hours that ``flops`` take."""
        return flops / (PEAK_FLOPS[self.name] * self.utilization) / 3600
