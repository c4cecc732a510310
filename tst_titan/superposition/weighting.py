"""How much each target of a bag counts: w_1 .. w_S, sum 1 (method, section 2 and Figure 9)."""

import math
from collections.abc import Callable

import torch

# Mutual information between tokens at distance i on DCLM, as published: C0 + a * i**k (nats).
MUTUAL_INFORMATION_C0, MUTUAL_INFORMATION_A, MUTUAL_INFORMATION_K = 3.63, 1.35, -1.25

_WEIGHTS: dict[str, Callable[[int], float]] = {
    "uniform": lambda i: 1.0,
    "power_law": lambda i: 1.0 / i,
    "exponential": lambda i: math.exp(-i),
    "first_token": lambda i: float(i == 1),
    "mutual_information": lambda i: MUTUAL_INFORMATION_C0 + MUTUAL_INFORMATION_A * i**MUTUAL_INFORMATION_K,
}
BAG_WEIGHTINGS = tuple(_WEIGHTS)


def bag_weights(bag_weighting: str, bag_size: int) -> torch.Tensor:
    """Weights of the targets of a bag in their order: float64 `[S]`, sum 1.

    uniform: all equal. power_law: 1/i. exponential: exp(-i). first_token: the first alone. mutual_information:
    proportional to the published fit C0 + a*i^k on DCLM. Raises `ValueError` for another name or an empty bag.
    """
    if bag_weighting not in _WEIGHTS:
        raise ValueError(f"no bag weighting {bag_weighting!r}; there are: {', '.join(BAG_WEIGHTINGS)}")
    if bag_size < 1:
        raise ValueError(f"a bag holds at least one token, not {bag_size}")
    weights_S = torch.tensor(
        [_WEIGHTS[bag_weighting](i) for i in range(1, bag_size + 1)], dtype=torch.float64
    )
    return weights_S / weights_S.sum()
