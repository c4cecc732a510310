"""The order of blocks: seeded permutations of any size in constant memory, and an exact interleaving of sources."""

from collections.abc import Sequence

import numpy as np

from tst_titan.errors import UserError

_ROUNDS = 4
LONGEST_PERIOD = 4096
_FIRST_STRETCH = 2**25
_LARGEST_STRETCH = 2**33


def stretch_ends(num_tokens: int) -> list[int]:
    """Where the stretches of a source end, in tokens: all ends up to the first that is at least `num_tokens`.

    Blocks are shuffled within a stretch, so that tokens appended to a source move none of those in whole stretches
    before. The first is 2^25 tokens long, each later one a quarter of all before it and at most 2^33.
    """
    ends = [_FIRST_STRETCH]
    while ends[-1] < num_tokens:
        ends.append(ends[-1] + min(_LARGEST_STRETCH, ends[-1] // 4))
    return ends


def permuted(index: np.ndarray, epoch: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Element `index` (int64, 0 <= index < size) of the permutation of `range(size)` that belongs to (seed, epoch).

    Each round is a bijection of the b-bit integers, 2^b >= size: add a key, multiply by an odd key, fold the high
    half onto the low one. What falls outside of `range(size)` goes through again until it is inside (cycle
    walking, fewer than two passes on average), which is a permutation again. Nothing is stored, any element
    costs the same. `index` and `epoch` have the same shape.
    """
    bits = max(1, (size - 1).bit_length())
    mask = np.uint64((1 << bits) - 1)
    fold = np.uint64((bits + 1) // 2)
    keys = [_mixed(_mixed(np.uint64((seed + r) % 2**64)) ^ epoch.astype(np.uint64)) for r in range(2 * _ROUNDS)]

    def scrambled(value: np.ndarray, keys: list[np.ndarray]) -> np.ndarray:
        for added, factor in zip(keys[:_ROUNDS], keys[_ROUNDS:], strict=True):
            value = ((value + added) * (factor | np.uint64(1))) & mask
            value ^= value >> fold
        return value

    value = scrambled(index.astype(np.uint64), keys)
    outside = np.flatnonzero(value >= np.uint64(size))
    while len(outside):
        value[outside] = scrambled(value[outside], [key[outside] for key in keys])
        outside = outside[value[outside] >= np.uint64(size)]
    return value.astype(np.int64)


def _mixed(value: np.ndarray | np.uint64) -> np.ndarray:
    """The finalizer of splitmix64: every bit of the result depends on every bit of `value`. Wraps modulo 2^64."""
    mixed = np.atleast_1d(np.asarray(value, dtype=np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def quotas(weights: Sequence[float]) -> np.ndarray:
    """Whole numbers of blocks a period that stand in the ratio of `weights` (int64, one a source).

    The shortest period up to `LONGEST_PERIOD` blocks that states the weights exactly (to 1e-9), else that longest one,
    rounded by largest remainders: a share is then off by less than 1/4096 of all blocks.
    """
    share = np.asarray(weights, dtype=np.float64)
    if (share < 0).any() or not np.isfinite(share).all() or share.sum() <= 0:
        raise UserError(f"corpus sources: weights {list(weights)} must be zero or more, and one of them above zero")
    share = share / share.sum()
    periods = np.arange(1, LONGEST_PERIOD + 1)[:, None]
    exact = (np.abs(share * periods - np.rint(share * periods)) < 1e-9 * periods).all(axis=1)
    period = int(periods[exact.argmax(), 0]) if exact.any() else LONGEST_PERIOD
    quota = np.floor(share * period + 1e-6).astype(np.int64)
    rest = np.argsort(-(share * period - quota), kind="stable")[: period - int(quota.sum())]
    quota[rest] += 1
    if (quota[share > 0] == 0).any():
        raise UserError(
            f"corpus sources: weights {list(weights)}: none may be less than 1/{LONGEST_PERIOD} of their sum"
        )
    return quota


def interleaved(quota: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay `quota` blocks of each source evenly over one period: (source of each slot, its rank within its source)."""
    source = np.repeat(np.arange(len(quota)), quota)
    rank = np.concatenate([np.arange(count) for count in quota])
    order = np.lexsort((source, (rank + 0.5) / quota[source]))
    return source[order], rank[order]
