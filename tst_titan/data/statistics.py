"""How much a token says about a later one: mutual information by distance, and the power law fitted to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from tst_titan.data.stream import TokenStream
from tst_titan.errors import UserError

_BLOCK = 2**16


@dataclass(frozen=True)
class PowerLaw:
    """I(d) = c0 + a * d^k in nats, with k <= 0. `residual`: root mean square of what it misses."""

    c0: float
    a: float
    k: float
    residual: float


def mutual_information(corpus_dir: Path, distances: Sequence[int], max_tokens: int) -> np.ndarray:
    """Mutual information (nats) between tokens `d` apart for each of `distances`, over a mixture of the sources.

    The plug-in estimate over the first `max_tokens` of the token stream of seed 0, pairs across documents included. It
    is biased upwards by what chance makes of rare pairs, about equally at all distances: the constant of a fitted law
    holds that bias, its decay does not.
    """
    block = min(_BLOCK, max_tokens)
    stream = TokenStream(corpus_dir, seed=0, num_lanes=1, block_tokens=block)
    available = min(max_tokens, stream.num_blocks * block)
    ids = stream.window(0, 0, available)
    num_ids = int(ids.max()) + 1
    information = []
    for distance in distances:
        first, second = ids[:-distance], ids[distance:]
        _, pairs = np.unique(first * num_ids + second, return_counts=True)
        single = np.bincount(first), np.bincount(second)
        information.append(_entropy(single[0]) + _entropy(single[1]) - _entropy(pairs))
    return np.array(information)


def fit_power_law(distances: Sequence[int], information: np.ndarray) -> PowerLaw:
    """Least squares of c0 + a * d^k: a search over k in [-4, 0) with the linear c0 and a solved inside."""
    distance = np.asarray(distances, dtype=np.float64)
    if len(distance) < 4:
        raise UserError(f"a power law needs at least 4 distances, got {len(distance)}")

    def solved(k: float) -> tuple[np.ndarray, float]:
        design = np.stack([np.ones_like(distance), distance**k], axis=1)
        solution, *_ = np.linalg.lstsq(design, information, rcond=None)
        return solution, float(np.sqrt(np.mean((design @ solution - information) ** 2)))

    best = minimize_scalar(lambda k: solved(k)[1], bounds=(-4.0, -1e-3), method="bounded", options={"xatol": 1e-9})
    (c0, a), residual = solved(best.x)
    return PowerLaw(float(c0), float(a), float(best.x), residual)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
