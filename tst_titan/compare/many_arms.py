"""Many arms against one baseline: intervals that hold for all of them together.

Of 24 arms without any effect, some single 90% interval leaves zero out in most studies. Estimator: the largest of all
arms'
|mean difference| / (s / sqrt(seeds)), s pooled over the arms' differences by seed (Dunnett 1955, with pairs by seed as
blocks); its 90% quantile under no effect, by simulation with the design's own seeds, times that error is half an
interval. Differences from one baseline are correlated by one half where arm and baseline have equal noise, by less
where the baseline has less; the larger quantile of both ends counts. Few seeds do not tell it: the correlation that
they show instead would leave zero out in 15% of studies of two seeds. Assumption: all arms have the same noise, so a
simultaneous interval may be narrower than a single one, which knows the noise of its own few seeds only.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.paired import Difference

DRAWS = 4000
CORRELATIONS = (0.0, 0.5)


def simultaneous(items: Sequence[Difference]) -> list[Difference]:
    """The same differences, those that share baseline runs with intervals for all of them together."""
    families: dict[tuple[str, ...], list[int]] = {}
    for place, item in enumerate(items):
        if item.paired:
            families.setdefault(item.baseline_runs, []).append(place)
    found = list(items)
    for places in families.values():
        if len(places) > 1:
            members = [items[place] for place in places]
            for place, interval in zip(places, _intervals(members), strict=True):
                found[place] = replace(items[place], simultaneous=interval, num_arms=len(places))
    return found


def _intervals(items: Sequence[Difference]) -> list[Interval]:
    seeds = sorted({seed for item in items for seed in item.by_seed})
    differences_KS = np.full((len(items), len(seeds)), np.nan)
    for row, item in enumerate(items):
        for seed, value in item.by_seed.items():
            differences_KS[row, seeds.index(seed)] = value
    known_KS = np.isfinite(differences_KS)
    counts_K = known_KS.sum(1)
    centered_KS = np.where(known_KS, differences_KS - np.nanmean(differences_KS, 1, keepdims=True), 0.0)
    spread = _pooled(centered_KS[None], counts_K)[0]
    factor = max(_critical(known_KS, counts_K, correlation) for correlation in CORRELATIONS)
    halves = factor * spread / np.sqrt(counts_K)
    return [
        Interval(float(item.value - half), float(item.value + half)) for item, half in zip(items, halves, strict=True)
    ]


def _pooled(centered_DKS: np.ndarray, counts_K: np.ndarray) -> np.ndarray:
    return np.sqrt((centered_DKS**2).sum((1, 2)) / (counts_K - 1).sum())


def _critical(known_KS: np.ndarray, counts_K: np.ndarray, correlation: float) -> float:
    """90% quantile of the largest studentized difference where no arm has an effect."""
    random = np.random.default_rng(0)
    largest = []
    # In blocks: a study of hundreds of arms keeps to a few megabytes.
    for _ in range(DRAWS // 500):
        common_DS = random.standard_normal((500, 1, known_KS.shape[1]))
        own_DKS = random.standard_normal((500, *known_KS.shape))
        drawn_DKS = known_KS * (np.sqrt(correlation) * common_DS + np.sqrt(1 - correlation) * own_DKS)
        means_DK = drawn_DKS.sum(2) / counts_K
        spread_D = _pooled(known_KS * (drawn_DKS - means_DK[:, :, None]), counts_K)
        largest.append((np.abs(means_DK) * np.sqrt(counts_K)).max(1) / spread_D)
    return float(np.quantile(np.concatenate(largest), LEVEL))
