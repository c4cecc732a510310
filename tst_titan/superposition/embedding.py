"""The embedding of a bag: the mean of its tokens' embeddings, summed in float32 (method, section 2).

`embedding_bag` reads each row of the table once and makes no `[B, L, S, D]` tensor, forward or backward; its dense
gradient is deterministic (on CUDA it sorts the ids).

Shape suffixes: B sequences, L latent positions, S tokens of a bag, N = B*L, V vocabulary (rows here), D model dim.
"""

import torch
from torch import nn
from torch.nn import functional as F


def bag_embedding(
    tokens_BLS: torch.Tensor, weight_VD: torch.Tensor, *, vocab_start: int | None = None
) -> torch.Tensor:
    """Mean embedding of each bag: `[B, L, S]` token ids and a table `[V, D]` to `[B, L, D]` in the table's dtype.

    With `vocab_start`, the table is this rank's rows `[vocab_start, vocab_start + V)` of a vocabulary split over ranks:
    the result is the rank's share of the mean, and the sum over ranks is the whole of it.
    """
    bags_NS = tokens_BLS.flatten(0, -2)
    if vocab_start is None:
        out_ND = F.embedding_bag(bags_NS, weight_VD, mode="mean")
    else:
        num_rows = weight_VD.shape[0]
        held_NS = (bags_NS >= vocab_start) & (bags_NS < vocab_start + num_rows)
        out_ND = F.embedding_bag(
            (bags_NS - vocab_start).clamp(0, num_rows - 1),
            weight_VD,
            mode="sum",
            per_sample_weights=held_NS.to(weight_VD.dtype) / bags_NS.shape[1],
        )
    return out_ND.unflatten(0, tokens_BLS.shape[:-1])


class BagEmbedding(nn.Embedding):
    """An `nn.Embedding` that takes tokens `[B, L]` or bags `[B, L, S]`, to `[B, L, D]`.

    The same table for both; no parameter more than `nn.Embedding` has. A bag's embedding is the mean of its
    tokens', summed in float32 and returned in the table's dtype.
    """

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if tokens.ndim < 3:
            return super().forward(tokens)
        return bag_embedding(tokens, self.weight)
