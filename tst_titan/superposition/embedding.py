"""The embedding of a bag: the mean of its tokens' embeddings, from the one ordinary embedding table.

Shapes: B sequences, L positions, S tokens of a bag, V rows of the table (of this rank's shard), D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bag_embedding(tokens_BLS: Tensor, weight_VD: Tensor, *, vocab_offset: int | None = None) -> Tensor:
    """Mean embedding of every bag: `[B, L, S]` -> `[B, L, D]` in the weight's dtype, summed in float32.

    No `[B, L, S, D]` tensor is made, forward or backward. The weight's gradient is dense and deterministic:
    PyTorch sums its rows in the order of a sort by token id, without atomic adds.

    With `vocab_offset` the weight is one shard of a vocabulary-parallel table, rows
    `[vocab_offset, vocab_offset + V)` of it: tokens outside count as zero vectors and the result is this
    shard's part of the mean, which the caller sums over the shards. A part is rounded to the weight's dtype
    before and after its division by S (once only where S is a power of two).

    Raises:
        ValueError: the tokens are not `[B, L, S]`.
        IndexError or RuntimeError: on CPU, a token outside the table (without `vocab_offset`).
    """
    if tokens_BLS.ndim != 3:
        raise ValueError(f"bags of tokens must be [batch, positions, bag_size], not {list(tokens_BLS.shape)}")
    num_sequences, num_positions, bag_size = tokens_BLS.shape
    tokens_NS = tokens_BLS.flatten(0, 1)
    dtype = weight_VD.dtype
    if weight_VD.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        # The CPU kernel rounds the sum to 16 bits before it divides and adds up gradients in 16 bits; the
        # CUDA kernels do both in float32.
        weight_VD = weight_VD.float()
    if vocab_offset is None:
        mean_ND = F.embedding_bag(tokens_NS, weight_VD, mode="mean")
    else:
        num_rows = weight_VD.shape[0]
        local_NS = tokens_NS - vocab_offset
        inside_NS = (local_NS >= 0) & (local_NS < num_rows)
        # Tokens of other shards read some row with weight zero; the remainder spreads them over all rows.
        sum_ND = F.embedding_bag(
            local_NS % num_rows, weight_VD, mode="sum", per_sample_weights=inside_NS.to(weight_VD.dtype)
        )
        mean_ND = sum_ND / bag_size
    return mean_ND.to(dtype).unflatten(0, (num_sequences, num_positions))
