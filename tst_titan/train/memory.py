"""How much memory a rank needs to train a recipe in a layout: an estimate on paper, before anything is started.

State (float32 weights, gradients and AdamW's two moments) is counted exactly from the parallel degrees. Working memory
follows what PyTorch keeps for backward: gathered weights of FSDP, activations of every layer, logits, and the scratch
in which the gradient of a bag's embedding is summed. Under HSDP the sums that wait for the last micro-batch's
all-reduce take the gradients' place.
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
# Plain cross-entropy on 16-bit logits: logits and their gradient in 16 bits, a float32 copy, its log-softmax and
# gradient.
LOGIT_BYTES = 16
# Positions that come to the experts of one rank, over the mean, in a layer of a MoE that is not balanced yet.
ROUTED_IMBALANCE = 2
# CUDA's backward of embedding_bag numbers the elements of its scratch in 32 bits, each row as whole warps.
BAG_INDEX_LIMIT = 2**31
WARP = 32


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one rank."""

    state: int
    gathered: int
    activations: int
    logits: int
    bags: int = 0

    @property
    def least(self) -> int:
        """What no micro-batch, chunking or recomputation makes smaller."""
        return self.state + self.gathered

    @property
    def total(self) -> int:
        return self.state + self.gathered + self.activations + self.logits + self.bags

    def __str__(self) -> str:
        parts = {
            "weights, gradients and moments": self.state,
            "gathered weights": self.gathered,
            "activations": self.activations,
            "logits": self.logits,
            "bags' embedding": self.bags,
        }
        listed = ", ".join(f"{size / GIB:.1f} {name}" for name, size in parts.items() if size)
        return f"{self.total / GIB:.1f} GiB ({listed})"


def estimate_memory(recipe: Recipe, hardware: Hardware, bag_size: int = 1) -> MemoryEstimate:
    """Memory of one rank that embeds bags of `bag_size` tokens (1: plain ones).

    A superposition step needs what a plain one does, and the bags' scratch. That comes when the activations are gone,
    but as one block, for which there may be no place among what they left: it is added.
    """
    shape = recipe.model
    width = 4 if recipe.precision == "float32" else 2
    tensor, context = hardware.tensor_parallel, hardware.context_parallel
    fsdp = hardware.shard_degree() * context
    counts = count_parameters(shape)
    experts = _expert_weights(shape)
    dense = counts.total - experts
    # The ranks of a replica share its experts too: tensor-parallel ones as their FFN units or, with expert parallelism,
    # as experts.
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
    imbalance = min(ROUTED_IMBALANCE, hardware.expert_parallel)
    whole = _kept(shape, imbalance)
    kept = {"none": whole, "selective": _kept_selectively(shape, imbalance), "full": shape.dim}
    elements = shape.num_layers * kept[hardware.activation_checkpoint]
    if hardware.activation_checkpoint != "none":
        elements += whole  # one layer is whole while it is recomputed
    logits = LOGIT_BYTES * positions * shape.vocab_size // (tensor * hardware.loss_chunks)
    bags = 4 * bag_elements(recipe, hardware, bag_size) if bag_size > 1 else 0
    return MemoryEstimate(state, gathered, width * positions * elements // tensor, logits, bags)


def bag_elements(recipe: Recipe, hardware: Hardware, bag_size: int) -> int:
    """Elements of the float32 scratch `[B * L * S, D]` in which CUDA sums the embedding's gradient, D in whole warps.

    Source: `grad_weight_per_segment` of PyTorch's EmbeddingBackwardKernel.cu. Tensor-parallel ranks each look up all
    tokens.
    """
    sequences = hardware.local_batch_size(recipe.sequences_per_step)
    tokens = sequences * recipe.seq_len // hardware.context_parallel * bag_size
    return tokens * -(-recipe.model.dim // WARP) * WARP


def _expert_weights(shape: ModelShape) -> int:
    if shape.moe is None:
        return 0
    return shape.num_layers * shape.moe.num_experts * 3 * shape.dim * shape.moe.expert_ffn_dim


def _ffn(shape: ModelShape, imbalance: int) -> tuple[int, int]:
    """Hidden units of a position, and elements that its dispatch copies: once where it is sent from, once at its
    experts."""
    if shape.moe is None:
        return shape.ffn_dim, 0
    top_k = shape.moe.top_k
    return imbalance * top_k * shape.moe.expert_ffn_dim, (1 + imbalance) * top_k * shape.dim


def _kept(shape: ModelShape, imbalance: int) -> int:
    """Elements that a layer keeps for backward for each position.

    Two norms and their inputs; queries, keys and values before and after the rotation, the attention's output; gate,
    up, activated gate and product of the FFN.
    """
    hidden, dispatched = _ffn(shape, imbalance)
    attention = shape.head_dim * (3 * shape.num_heads + 3 * shape.num_kv_heads)
    return 4 * shape.dim + attention + 4 * hidden + dispatched


def _kept_selectively(shape: ModelShape, imbalance: int) -> int:
    """The same under selective checkpointing: the layer's input, the attention's output and half of the matmuls'."""
    hidden, dispatched = _ffn(shape, imbalance)
    attention = shape.head_dim * (2 * shape.num_heads + 2 * shape.num_kv_heads)
    return 2 * shape.dim + attention + 2 * hidden + dispatched // 2
