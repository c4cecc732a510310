"""How much each target of a bag counts, by its place i = 1..S in the bag (arXiv 2605.06546, section on bag weights)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tst_titan.superposition.settings import BAG_WEIGHTINGS

# Unnormalized, as functions of the places [1..S] in float64; made by arithmetic on the device, so that no
# weight is copied from the host at each step (a copy that CUDA graphs do not allow).
_WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "power_law": lambda places: 1 / places,
    "exponential": lambda places: torch.exp(1 - places),
    "first_token": lambda places: (places == 1).to(places.dtype),
    # The mutual information of two tokens at distance i, fitted on DCLM: C0 + a * i**k.
    "mutual_information": lambda places: 3.63 + 1.35 * places**-1.25,
}
# The same with the numbers of another text: `mutual_information(C0,a,k)`, as `tst-titan data stats` prints it.
_FITTED = "mutual_information("


def relative_weights(
    bag_weighting: str | Sequence[float], bag_size: int, *, device: torch.device | str | None = None
) -> Tensor:
    """The weights `[S]` of a bag's targets, float64, none negative, before they are scaled to sum 1.

    `bag_weighting` is a name of `BAG_WEIGHTINGS`, `mutual_information(C0,a,k)` or the S weights themselves. Uniform
    weights are exactly 1, which keeps the uniform loss exact.

    Raises:
        ValueError: the name is unknown, or the given weights are not S finite numbers >= 0 with a sum above 0.
    """
    if bag_size < 1:
        raise ValueError(f"bag_size must be at least 1, not {bag_size}")
    if isinstance(bag_weighting, str):
        places_S = torch.arange(1, bag_size + 1, dtype=torch.float64, device=device)
        if bag_weighting.startswith(_FITTED):
            c0, a, k = [float(part) for part in bag_weighting[len(_FITTED) : -1].split(",")]
            return c0 + a * places_S**k
        if bag_weighting not in BAG_WEIGHTINGS:
            raise ValueError(f"unknown bag_weighting {bag_weighting!r}; known are {', '.join(BAG_WEIGHTINGS)}")
        return _WEIGHTINGS[bag_weighting](places_S)
    weights = [float(weight) for weight in bag_weighting]
    # An infinite or NaN weight makes the sum fail its test.
    if len(weights) != bag_size or not all(w >= 0 for w in weights) or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"bag_weighting must be {bag_size} finite numbers >= 0 with a sum above 0, not {weights}")
    return torch.tensor(weights, dtype=torch.float64, device=device)
