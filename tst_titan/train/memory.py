"""How much memory a rank needs to train a recipe in a layout: an estimate on paper, before anything is started.

State (float32 weights, gradients and AdamW's two moments) is counted exactly from the parallel degrees. Working memory
follows what PyTorch keeps for backward: gathered weights of FSDP, activations of every layer, logits.
"""

from dataclasses import dataclass

from tst_titan.plan.costs import count_parameters
from tst_titan.plan.settings import ModelShape, Recipe
from tst_titan.train.hardware import Hardware

GIB = 2**30
# Weight, gradient and two moments, float32 each.
STATE_BYTES = 16
# Layers whose gathered weights are there at once: the one at work and the one fetched ahead.
GATHERED_LAYERS = 2
# Plain cross-entropy on 16-bit logits: logits and their gradient in 16 bits, a float32 copy, its log-softmax and gradient.
LOGIT_BYTES = 16


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one rank."""

    state: int
    gathered: int
    activations: int
    logits: int

    @property
    def least(self) -> int:
        """What no micro-batch, chunking or recomputation makes smaller."""
        return self.state + self.gathered

    @property
    def total(self) -> int:
        return self.state + self.gathered + self.activations + self.logits

    def __str__(self) -> str:
        parts = {
            "weights, gradients and moments": self.state,
            "gathered weights": self.gathered,
            "activations": self.activations,
            "logits": self.logits,
        }
        listed = ", ".join(f"{size / GIB:.1f} {name}" for name, size in parts.items())
        return f"{self.total / GIB:.1f} GiB ({listed})"


def estimate_memory(recipe: Recipe, hardware: Hardware) -> MemoryEstimate:
    """Memory of one rank for either phase: a superposition step needs no more than a plain one."""
    shape = recipe.model
    width = 4 if recipe.precision == "float32" else 2
    tensor, context = hardware.tensor_parallel, hardware.context_parallel
    fsdp = hardware.shard_degree() * context
    counts = count_parameters(shape)
    experts = _expert_weights(shape)
    dense = counts.total - experts
    # The ranks of a replica share its experts too: tensor-parallel ones as their FFN units or, with expert parallelism, as experts.
    state = STATE_BYTES * (dense + experts) // (fsdp * tensor)

    # An expert-parallel rank gathers its own experts only.
    layer = (dense - counts.embedding - counts.head) // (shape.num_layers * tensor) + experts // (
        shape.num_layers * max(tensor, hardware.expert_parallel)
    )
    ends = (counts.embedding + max(counts.head, counts.embedding)) // tensor
    # Weights and gradients in the compute dtype, and a float32 buffer of the largest piece to reduce gradients in.
    gathered = 2 * width * (GATHERED_LAYERS * layer + ends) + 4 * max(layer, ends // 2)

    sequences = hardware.local_batch_size(recipe.sequences_per_step)
    positions = sequences * recipe.seq_len // context
    kept = {"none": _kept(shape), "selective": _kept_selectively(shape), "full": shape.dim}
    elements = shape.num_layers * kept[hardware.activation_checkpoint]
    if hardware.activation_checkpoint != "none":
        elements += _kept(shape)  # one layer is whole while it is recomputed
    logits = LOGIT_BYTES * positions * shape.vocab_size // (tensor * hardware.loss_chunks)
    return MemoryEstimate(state, gathered, width * positions * elements // tensor, logits)


def _expert_weights(shape: ModelShape) -> int:
    if shape.moe is None:
        return 0
    return shape.num_layers * shape.moe.num_experts * 3 * shape.dim * shape.moe.expert_ffn_dim


def _ffn(shape: ModelShape) -> tuple[int, int]:
    """Hidden units that a position goes through, and elements that its dispatch to experts copies."""
    if shape.moe is None:
        return shape.ffn_dim, 0
    return shape.moe.top_k * shape.moe.expert_ffn_dim, 2 * shape.moe.top_k * shape.dim


def _kept(shape: ModelShape) -> int:
    """Elements that a layer keeps for backward for each position.

    Two norms and their inputs; queries, keys and values before and after the rotation, the attention's output; gate,
    up, activated gate and product of the FFN.
    """
    hidden, dispatched = _ffn(shape)
    attention = shape.head_dim * (3 * shape.num_heads + 3 * shape.num_kv_heads)
    return 4 * shape.dim + attention + 4 * hidden + dispatched


def _kept_selectively(shape: ModelShape) -> int:
    """The same under selective checkpointing: the layer's input, the attention's output and half of the matmuls'."""
    hidden, dispatched = _ffn(shape)
    attention = shape.head_dim * (2 * shape.num_heads + 2 * shape.num_kv_heads)
    return 2 * shape.dim + attention + 2 * hidden + dispatched // 2
