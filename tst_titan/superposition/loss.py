"""Multi-hot cross-entropy: one pass over the logits serves all targets of a bag (method, section 2).

    loss(z, y) = -sum_i w_i log softmax(z)[y_i] = logsumexp(z) - sum_i w_i z[y_i]

Shape suffixes: B sequences, L latent positions, N = B*L, S targets of a position, V vocabulary (of this rank where it
is split over ranks).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch.nn import functional as F

from tst_titan.superposition.weighting import bag_weights

Objective = Literal["multi_hot", "sum_of_probabilities"]


def multi_hot_cross_entropy(
    logits_BLV: torch.Tensor,
    labels_BLS: torch.Tensor,
    *,
    bag_weighting: str | Sequence[float] = "uniform",
    reduction: Literal["mean", "sum"] = "mean",
    ignore_index: int = -100,
    objective: Objective = "multi_hot",
    vocab_group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
) -> torch.Tensor:
    """Cross-entropy of each position against the S targets of its bag.

    Args:
        logits_BLV: any float dtype; sums are taken in float32 (float64 for float64 logits).
        labels_BLS: target ids; `ignore_index` leaves a target out.
        bag_weighting: a name (`bag_weights`) or S weights, normalized here to sum 1.
        reduction: "sum" adds `S * w_i * CE_i` over positions and targets, so that "sum" divided by the number of
            targets is the mean over positions of `sum_i w_i CE_i`; "mean" is that quotient. A target that is left
            out changes no other target's weight, so sums over chunks or ranks add up.
        objective: "sum_of_probabilities" is the variant `-log sum_i softmax(z)[y_i]`, which knows no weights; it
            counts once for each target of the position that is not left out.
        vocab_group, vocab_size: logits are this rank's slice of `vocab_size` columns, split as by
            `torch.chunk` over the group. The loss is then the whole one on every rank.

    With one target a position and the whole vocabulary this is `F.cross_entropy`, bit for bit.

    Raises:
        ValueError: shapes that do not belong together, unknown names, weights that cannot be normalized.
    """
    if logits_BLV.shape[:-1] != labels_BLS.shape[:-1]:
        raise ValueError(
            f"logits {tuple(logits_BLV.shape)} and labels {tuple(labels_BLS.shape)}: positions differ"
        )
    if reduction not in ("mean", "sum") or objective not in ("multi_hot", "sum_of_probabilities"):
        raise ValueError(f"reduction {reduction!r} or objective {objective!r} is unknown")
    bag_size = labels_BLS.shape[-1]
    logits_NV, labels_NS = logits_BLV.flatten(0, -2), labels_BLS.flatten(0, -2)
    dtype = torch.promote_types(logits_BLV.dtype, torch.float32)
    if bag_size == 1 and vocab_group is None:
        return F.cross_entropy(
            logits_NV.to(dtype), labels_NS.squeeze(-1), ignore_index=ignore_index, reduction=reduction
        )
    weights_S = _weights(bag_weighting, bag_size).to(device=logits_BLV.device, dtype=dtype)
    valid_NS = labels_NS != ignore_index
    weights_NS = valid_NS * (weights_S * bag_size)
    targets_NS = torch.where(valid_NS, labels_NS, 0)
    total = _MultiHotCrossEntropy.apply(
        logits_NV, targets_NS, weights_NS, objective == "sum_of_probabilities", vocab_group, vocab_size
    )
    return total / valid_NS.sum() if reduction == "mean" else total


def _weights(bag_weighting: str | Sequence[float], bag_size: int) -> torch.Tensor:
    if isinstance(bag_weighting, str):
        return bag_weights(bag_weighting, bag_size)
    weights_S = torch.as_tensor(bag_weighting, dtype=torch.float64)
    if weights_S.shape != (bag_size,) or bool((weights_S < 0).any()) or not float(weights_S.sum()) > 0:
        raise ValueError(f"{bag_size} targets need {bag_size} weights, none negative and not all zero")
    return weights_S / weights_S.sum()


class _MultiHotCrossEntropy(torch.autograd.Function):
    """Sum over positions; the softmax is kept from the forward and becomes the gradient in place.

    The one [N, V] buffer is what `F.cross_entropy` keeps too; that one needs two more in its backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: torch.Tensor,
        targets_NS: torch.Tensor,
        weights_NS: torch.Tensor,
        sum_of_probabilities: bool,
        vocab_group: dist.ProcessGroup | None,
        vocab_size: int | None,
    ) -> torch.Tensor:
        softmax_NV, log_sum_N1 = _softmax(logits_NV, weights_NS.dtype, vocab_group)
        here_NS, local_NS = _held_targets(targets_NS, logits_NV.shape[1], vocab_group, vocab_size)
        scores_NS = logits_NV.gather(1, local_NS).to(weights_NS.dtype)
        if here_NS is not None:
            scores_NS = _all_reduce(torch.where(here_NS, scores_NS, 0), "SUM", vocab_group)
        if sum_of_probabilities:
            # -log sum_i p_i: its gradient is that of MCE with the targets' share of their own probability as weights.
            count_N1 = (weights_NS > 0).sum(1, keepdim=True).to(scores_NS.dtype)
            scores_NS = scores_NS.masked_fill(weights_NS == 0, -torch.inf)
            together_N1 = torch.logsumexp(scores_NS, 1, keepdim=True)
            loss_N1 = torch.where(count_N1 > 0, count_N1 * (log_sum_N1 - together_N1), 0)
            weights_NS = torch.where(count_N1 > 0, count_N1 * torch.softmax(scores_NS, 1), 0)
        else:
            loss_N1 = (weights_NS * (log_sum_N1 - scores_NS)).sum(1, keepdim=True)
        ctx.logits_dtype, ctx.softmax_NV = logits_NV.dtype, softmax_NV
        ctx.save_for_backward(local_NS, weights_NS, here_NS)
        return loss_N1.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        if ctx.softmax_NV is None:
            raise RuntimeError("multi_hot_cross_entropy: a second backward needs a second forward")
        # Taken from the context: the buffer becomes the gradient and is gone for a second backward.
        gradient_NV, ctx.softmax_NV = ctx.softmax_NV, None
        local_NS, weights_NS, here_NS = ctx.saved_tensors
        gradient_NV.mul_(grad * weights_NS.sum(1, keepdim=True))
        pull_NS = weights_NS if here_NS is None else weights_NS * here_NS
        gradient_NV.scatter_add_(1, local_NS, -grad * pull_NS)
        return gradient_NV.to(ctx.logits_dtype), None, None, None, None, None


def _softmax(
    logits_NV: torch.Tensor, dtype: torch.dtype, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax [N, V] and log of the sum of exponentials [N, 1], over the whole vocabulary."""
    largest_N1 = logits_NV.amax(1, keepdim=True).to(dtype)
    if group is None:
        softmax_NV = torch.softmax(logits_NV, 1, dtype=dtype)
        # The largest logit's probability is 1 / sum exp(z - largest): no further pass of exponentials.
        return softmax_NV, largest_N1 - softmax_NV.amax(1, keepdim=True).log()
    largest_N1 = _all_reduce(largest_N1, "MAX", group)
    softmax_NV = (logits_NV.to(dtype) - largest_N1).exp_()
    sum_N1 = _all_reduce(softmax_NV.sum(1, keepdim=True), "SUM", group)
    return softmax_NV.div_(sum_N1), largest_N1 + sum_N1.log()


def _held_targets(
    targets_NS: torch.Tensor, num_columns: int, group: dist.ProcessGroup | None, vocab_size: int | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Which targets this rank's columns hold (None: all), and their column numbers."""
    if group is None:
        return None, targets_NS
    if vocab_size is None:
        raise ValueError("a vocabulary split over ranks needs vocab_size")
    chunk = -(-vocab_size // dist.get_world_size(group))
    local_NS = targets_NS - chunk * dist.get_rank(group)
    here_NS = (local_NS >= 0) & (local_NS < num_columns)
    return here_NS, local_NS.clamp(0, num_columns - 1)


def _all_reduce(tensor: torch.Tensor, operation: str, group: dist.ProcessGroup | None) -> torch.Tensor:
    assert group is not None
    return funcol.wait_tensor(funcol.all_reduce(tensor, operation, group))
