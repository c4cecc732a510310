"""Multi-hot cross-entropy (MCE): one softmax per position, scored against all S targets of the next bag.

Shapes: B sequences, L positions, V vocabulary (of this rank's shard), S targets of a position, N = B * L.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tst_titan.superposition.log_probs import target_log_probs, vocab_parallel_target_log_probs
from tst_titan.superposition.weights import relative_weights

SUM_OF_PROBABILITIES = "sum_of_probabilities"
# A label that is no target, as in `torch.nn.functional.cross_entropy`.
IGNORE_INDEX = -100


def multi_hot_cross_entropy(
    logits_BLV: Tensor,
    labels_BLS: Tensor,
    *,
    bag_weighting: str | Sequence[float] = "uniform",
    reduction: Literal["mean", "sum"] = "mean",
    vocab_group: dist.ProcessGroup | None = None,
    vocab_offset: int = 0,
) -> Tensor:
    """The superposition phase's loss (arXiv 2605.06546), a scalar; with S = 1 it is ordinary cross-entropy.

    A position's loss is `-sum_i w_i log softmax(z)[y_i]`, the weights `w` (see `relative_weights`) scaled to sum
    1 over the targets that are not `IGNORE_INDEX`; with `bag_weighting="sum_of_probabilities"` it is
    `-log sum_i softmax(z)[y_i]` over them. Positions then count by their number of targets that are not ignored:

        sum  = sum over positions of num_valid_targets * loss
        mean = sum / num_valid_targets of all positions

    so the sum over all micro-batches and ranks, divided by the count of labels that are not ignored, is the mean
    of the whole batch. Uniform weights make it the plain sum of all targets' cross-entropies. Scaling the weights
    to the valid targets keeps every position's loss a weighted mean: ln V on uniform logits, whatever is ignored.
    A position whose valid targets all have weight zero adds nothing. The mean over no valid target is NaN, as in
    `torch.nn.functional.cross_entropy`.

    Args:
        logits_BLV: `[..., V]`; 16-bit and float32 logits are accumulated in float32, float64 in float64. Never
            written to. They are kept for backward, and nothing else of that size is.
        labels_BLS: `[..., S]` token ids, or `[...]` for one target a position.
        vocab_group: process group over whose ranks the vocabulary is split; `logits_BLV` are then the logits of
            tokens `[vocab_offset, vocab_offset + V)` and labels, equal on all ranks, are ids of the whole
            vocabulary. The loss is equal on all ranks; its gradient is that of the rank's own logits.

    Raises:
        ValueError: shapes that do not match, an unknown weighting or reduction.
        RuntimeError: on CPU, a label outside the vocabulary.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", not {reduction!r}')
    logits_NV, labels_NS = _positions(logits_BLV, labels_BLS)
    valid_NS = labels_NS != IGNORE_INDEX
    targets_NS = torch.where(valid_NS, labels_NS, 0).long()
    if vocab_group is None:
        log_probs_NS = target_log_probs(logits_NV, targets_NS)
    else:
        log_probs_NS = vocab_parallel_target_log_probs(logits_NV, targets_NS, vocab_group, vocab_offset)

    if bag_weighting == SUM_OF_PROBABILITIES:
        loss = _sum_of_probabilities(log_probs_NS, valid_NS)
    else:
        weights_S = relative_weights(bag_weighting, labels_NS.shape[-1], device=labels_NS.device)
        loss = _weighted_sum(log_probs_NS, valid_NS, weights_S.to(log_probs_NS.dtype))
    return loss / valid_NS.sum() if reduction == "mean" else loss


def _positions(logits_BLV: Tensor, labels_BLS: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `[N, V]` and labels `[N, S]`, a row a position; `ValueError` where their shapes do not match."""
    if labels_BLS.ndim == logits_BLV.ndim - 1:
        labels_BLS = labels_BLS.unsqueeze(-1)
    if labels_BLS.shape[:-1] != logits_BLV.shape[:-1]:
        raise ValueError(
            f"labels {list(labels_BLS.shape)} do not match logits {list(logits_BLV.shape)}: "
            "labels must be [batch, positions, targets] for logits [batch, positions, vocabulary]"
        )
    return logits_BLV.flatten(0, -2), labels_BLS.flatten(0, -2)


def _weighted_sum(log_probs_NS: Tensor, valid_NS: Tensor, weights_S: Tensor) -> Tensor:
    """Sum over positions of `num_valid_targets * (weighted mean of the valid targets' cross-entropies)`."""
    weights_NS = torch.where(valid_NS, weights_S, 0)
    total_N1 = weights_NS.sum(-1, keepdim=True)
    num_valid_N1 = valid_NS.sum(-1, keepdim=True)
    counts_NS = torch.where(total_N1 > 0, weights_NS * (num_valid_N1 / total_N1), 0)
    # Selected rather than multiplied by zero: the log-probability of a target without weight may be infinite.
    return _negative_sum(torch.where(counts_NS > 0, counts_NS * log_probs_NS, 0))


def _sum_of_probabilities(log_probs_NS: Tensor, valid_NS: Tensor) -> Tensor:
    """Sum over positions of `num_valid_targets * -log(sum of the valid targets' probabilities)`."""
    num_valid_N1 = valid_NS.sum(-1, keepdim=True)
    # Positions without a valid target keep finite values, so that their zero gradient is not 0 * NaN.
    masked_NS = torch.where(valid_NS | (num_valid_N1 == 0), log_probs_NS, -torch.inf)
    return _negative_sum(num_valid_N1 * masked_NS.logsumexp(-1, keepdim=True))


def _negative_sum(terms_NS: Tensor) -> Tensor:
    """`-terms.sum()`, added up in `cross_entropy`'s own order, so that with S = 1 the loss is equal bit for bit."""
    terms = terms_NS.reshape(-1, 1)
    return F.nll_loss(terms, terms.new_zeros(terms.shape[0], dtype=torch.long), reduction="sum")
