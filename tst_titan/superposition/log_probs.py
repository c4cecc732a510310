"""Log-probabilities of a few targets of every position, without a `[N, V]` tensor of them.

This is the whole cost of the loss: one softmax over the vocabulary serves all targets of a position. Forward
keeps only the logits; backward is softmax-minus-weights, written into one buffer of the logits' dtype.

Shapes: N positions, V vocabulary (of this rank's shard), S targets of a position.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of the float32 scratch that eager mode works in. On CPU a block stays in the cache; elsewhere it
# bounds the memory (256 MiB) and is large enough for launches to cost nothing.
_CPU_BLOCK = 2**19
_DEVICE_BLOCK = 2**26


def target_log_probs(logits_NV: Tensor, targets_NS: Tensor) -> Tensor:
    """`log_softmax(logits)[n, targets[n, i]]` as `[N, S]`, in float32 (float64 for float64 logits)."""
    return _TargetLogProbs.apply(logits_NV, targets_NS)


def vocab_parallel_target_log_probs(
    logits_NV: Tensor, targets_NS: Tensor, group: dist.ProcessGroup, vocab_offset: int
) -> Tensor:
    """The same where each rank of `group` holds the logits of tokens `[vocab_offset, vocab_offset + V)`.

    Targets are ids of the whole vocabulary and, like the result, equal on all ranks. Three all-reduces of
    `[N, 1]` or `[N, S]` forward (maximum, sum of exponentials, targets), none backward.
    """
    return _VocabParallelTargetLogProbs.apply(logits_NV, targets_NS, group, vocab_offset)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that the loss is computed in: float64 for float64 logits, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(logits_NV: Tensor) -> Iterator[slice]:
    """Slices of rows to work on at a time; one slice under torch.compile, which fuses without our help."""
    num_rows, num_columns = logits_NV.shape
    if torch.compiler.is_compiling():
        yield slice(None)
        return
    on_cpu = logits_NV.device.type == "cpu"
    block = _CPU_BLOCK * torch.get_num_threads() if on_cpu else _DEVICE_BLOCK
    step = max(1, block // max(1, num_columns))
    for start in range(0, num_rows, step):
        yield slice(start, start + step)


class _TargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_NS: Tensor) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_NS)
        dtype = accumulate_dtype(logits_NV.dtype)
        log_probs_NS = logits_NV.new_empty(targets_NS.shape, dtype=dtype)
        for rows in _blocks(logits_NV):
            log_softmax_NV = torch.log_softmax(logits_NV[rows], -1, dtype=dtype)
            log_probs_NS[rows] = log_softmax_NV.gather(-1, targets_NS[rows])
        return log_probs_NS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NS: Tensor) -> tuple[Tensor, None]:
        logits_NV, targets_NS = ctx.saved_tensors
        total_N1 = grad_NS.sum(-1, keepdim=True)
        grad_NV = torch.empty_like(logits_NV)
        for rows in _blocks(logits_NV):
            softmax_NV = torch.softmax(logits_NV[rows], -1, dtype=grad_NS.dtype)
            grad_NV[rows] = softmax_NV.mul_(-total_N1[rows]).scatter_add_(-1, targets_NS[rows], grad_NS[rows])
        return grad_NV, None


class _VocabParallelTargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_NS: Tensor, group: dist.ProcessGroup, vocab_offset: int) -> Tensor:
        dtype = accumulate_dtype(logits_NV.dtype)
        max_N1 = _all_reduce(logits_NV.amax(-1, keepdim=True).to(dtype), "max", group)
        sumexp_N1 = torch.empty_like(max_N1)
        for rows in _blocks(logits_NV):
            sumexp_N1[rows] = (logits_NV[rows] - max_N1[rows]).exp_().sum(-1, keepdim=True)
        sumexp_N1 = _all_reduce(sumexp_N1, "sum", group)
        local_NS = targets_NS - vocab_offset
        inside_NS = (local_NS >= 0) & (local_NS < logits_NV.shape[-1])
        local_NS = torch.where(inside_NS, local_NS, 0)
        shifted_NS = torch.where(inside_NS, logits_NV.gather(-1, local_NS) - max_N1, 0)
        ctx.save_for_backward(logits_NV, local_NS, inside_NS, max_N1, sumexp_N1)
        return _all_reduce(shifted_NS, "sum", group) - sumexp_N1.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NS: Tensor) -> tuple[Tensor, None, None, None]:
        logits_NV, local_NS, inside_NS, max_N1, sumexp_N1 = ctx.saved_tensors
        scale_N1 = -grad_NS.sum(-1, keepdim=True) / sumexp_N1
        grad_NS = torch.where(inside_NS, grad_NS, 0)
        grad_NV = torch.empty_like(logits_NV)
        for rows in _blocks(logits_NV):
            exp_NV = (logits_NV[rows] - max_N1[rows]).exp_()
            grad_NV[rows] = exp_NV.mul_(scale_N1[rows]).scatter_add_(-1, local_NS[rows], grad_NS[rows])
        return grad_NV, None, None, None


def _all_reduce(tensor: Tensor, op: str, group: dist.ProcessGroup) -> Tensor:
    # The functional collective is the one that torch.compile can trace.
    return funcol.wait_tensor(funcol.all_reduce(tensor, op, group))
