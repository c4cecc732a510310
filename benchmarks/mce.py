"""Multi-hot cross-entropy against one cross-entropy and against the published loop of S cross-entropies.

    OMP_NUM_THREADS=1 python benchmarks/mce.py [--compile] [--dtype bfloat16] [--repeats 5]

Forward and backward over the same logits, one thread, all variants interleaved. Ratios, time and peak memory:

    (a) multi_hot_cross_entropy / one F.cross_entropy     aim: time <= 1.10, memory <= 1
    (b) the loop / multi_hot_cross_entropy                aim: time >= 8 at S = 16

With --compile the loss and the cross-entropy are compiled; the loop of (b) stays as it was published, in eager mode.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measure import median_seconds, peak_bytes

from tst_titan.superposition import multi_hot_cross_entropy

SHAPES = ((2048, 32768), (512, 128256))
BAG_SIZES = (2, 4, 8, 16)


def cross_entropy(logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_NV.float(), labels_N)


def loop(logits_NV: torch.Tensor, labels_NS: torch.Tensor) -> torch.Tensor:
    """The published way: the mean of S cross-entropies over the same logits."""
    num_targets = labels_NS.shape[1]
    return sum(cross_entropy(logits_NV, labels_NS[:, i]) for i in range(num_targets)) / num_targets


def forward_and_backward(loss: Callable, logits_NV: torch.Tensor, labels: torch.Tensor) -> None:
    loss(logits_NV, labels).backward()
    logits_NV.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ours: Callable = multi_hot_cross_entropy
    plain: Callable = cross_entropy
    if args.compile:
        ours = torch.compile(ours, fullgraph=True, dynamic=False)
        plain = torch.compile(plain, fullgraph=True, dynamic=False)

    print(f"torch {torch.__version__}, {args.dtype} logits, 1 thread, {'compiled' if args.compile else 'eager'}")
    print(
        f"{'logits':>15} {'S':>3} {'CE s':>7} {'MCE s':>7} {'loop s':>7} {'MCE/CE':>7} {'loop/MCE':>9} "
        f"{'memory MCE/CE':>14}"
    )
    for shape in SHAPES:
        torch.manual_seed(0)
        logits_NV = torch.randn(shape, dtype=getattr(torch, args.dtype), requires_grad=True)
        for bag_size in BAG_SIZES:
            labels_NS = torch.randint(0, shape[1], (shape[0], bag_size))
            once = partial(forward_and_backward, plain, logits_NV, labels_NS[:, 0])
            many = partial(forward_and_backward, ours, logits_NV, labels_NS)
            looped = partial(forward_and_backward, loop, logits_NV, labels_NS)
            seconds = median_seconds({"ce": once, "mce": many, "loop": looped}, args.repeats)
            peak_ratio = peak_bytes(many) / peak_bytes(once)
            print(
                f"{shape!s:>15} {bag_size:>3} {seconds['ce']:7.3f} {seconds['mce']:7.3f} {seconds['loop']:7.3f}"
                f" {seconds['mce'] / seconds['ce']:7.2f} {seconds['loop'] / seconds['mce']:9.1f}"
                f" {peak_ratio:14.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
