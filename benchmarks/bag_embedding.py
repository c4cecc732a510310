"""Bag embedding against the published loop of S lookups, forward and backward, one thread, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/bag_embedding.py [--dtype bfloat16] [--repeats 7]

Prints the ratios loop / ours in time (aim: >= 4 at S = 8) and ours / loop in peak memory (aim: <= 0.5).
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measure import median_seconds, peak_bytes

from tst_titan.superposition import bag_embedding

# Vocabulary, dimension, bags: the reduced CPU shape, then the 270M model's table.
SHAPES = ((32768, 512, 2048), (128256, 576, 8192))
BAG_SIZES = (4, 8, 16)


def loop(tokens_BLS: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    """The published way: S lookups added up in float32."""
    bag_size = tokens_BLS.shape[-1]
    total_BLD = sum(F.embedding(tokens_BLS[..., i], weight_VD).float() for i in range(bag_size))
    return (total_BLD / bag_size).to(weight_VD.dtype)


def forward_and_backward(
    embed: Callable, tokens_BLS: torch.Tensor, weight_VD: torch.Tensor, grad_BLD: torch.Tensor
) -> None:
    embed(tokens_BLS, weight_VD).backward(grad_BLD)
    weight_VD.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)

    print(f"torch {torch.__version__}, {args.dtype} table, 1 thread, eager")
    print(f"{'V, D, bags':>20} {'S':>3} {'ours s':>7} {'loop s':>7} {'loop/ours':>10} {'memory ours/loop':>17}")
    for shape in SHAPES:
        vocab_size, dim, num_bags = shape
        torch.manual_seed(0)
        weight_VD = torch.randn(vocab_size, dim, dtype=getattr(torch, args.dtype), requires_grad=True)
        grad_BLD = torch.randn(1, num_bags, dim, dtype=weight_VD.dtype)
        for bag_size in BAG_SIZES:
            tokens_BLS = torch.randint(0, vocab_size, (1, num_bags, bag_size))
            arguments = (tokens_BLS, weight_VD, grad_BLD)
            ours = partial(forward_and_backward, bag_embedding, *arguments)
            looped = partial(forward_and_backward, loop, *arguments)
            seconds = median_seconds({"ours": ours, "loop": looped}, args.repeats)
            print(
                f"{shape!s:>20} {bag_size:>3} {seconds['ours']:7.3f} {seconds['loop']:7.3f}"
                f" {seconds['loop'] / seconds['ours']:10.1f} {peak_bytes(ours) / peak_bytes(looped):17.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
