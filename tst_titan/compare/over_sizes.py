"""One difference over several models: what each model's few seeds do not tell, all of them may.

Estimator. Each model's longest budget gives differences d_ms of the seeds that all models share. d_ms = difference +
model + seed + rest, models and seeds both drawn from those that might have been run (two-way random effects). The
variance of the mean over M models and S seeds is (MS_model + MS_seed - MS_rest) / (M S), at least MS_rest / (M S), with
Satterthwaite's degrees of freedom. Estimand: the mean difference over models like these and new seeds; a difference
that changes with size in one direction is no such mean, the trend with size shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.paired import Difference


@dataclass(frozen=True)
class PooledDifference:
    """Arm minus baseline as a mean over models, each at its longest budget; `differences` are the models' own."""

    kind: str
    label: str
    column: str
    differences: tuple[Difference, ...]
    value: float
    interval: Interval
    p_value: float
    seeds: tuple[int, ...]

    @property
    def models(self) -> str:
        return ", ".join(item.model for item in self.differences)


def pooled(kind: str, items: Sequence[Difference]) -> list[PooledDifference]:
    """The pooled difference of every arm that was paired with its baseline by at least two seeds that several models
    share."""
    by_label: dict[str, dict[str, Difference]] = {}
    for item in items:
        longest = by_label.setdefault(item.label, {})
        known = longest.get(item.model)
        if item.paired and (known is None or item.steps > known.steps):
            longest[item.model] = item
    results = []
    for label, members in by_label.items():
        differences = tuple(members.values())
        seeds = sorted(set.intersection(*(set(item.by_seed) for item in differences))) if differences else []
        if len(differences) >= 2 and len(seeds) >= 2:
            values_MS = np.array([[item.by_seed[seed] for seed in seeds] for item in differences])
            interval, p_value = _random_effects(values_MS)
            results.append(
                PooledDifference(
                    kind,
                    label,
                    differences[0].column,
                    differences,
                    float(values_MS.mean()),
                    interval,
                    p_value,
                    tuple(seeds),
                )
            )
    return results


def _random_effects(values_MS: np.ndarray) -> tuple[Interval, float]:
    """Interval of the mean of a table of models by seeds, and the p-value of zero."""
    models, seeds = values_MS.shape
    center = float(values_MS.mean())
    by_model, by_seed = values_MS.mean(1) - center, values_MS.mean(0) - center
    rest = values_MS - center - by_model[:, None] - by_seed[None, :]
    degrees = np.array([models - 1, seeds - 1, (models - 1) * (seeds - 1)])
    squares = np.array([seeds * by_model @ by_model, models * by_seed @ by_seed, (rest**2).sum()]) / degrees
    signs = np.array([1, 1, -1])
    total = float(signs @ squares)
    if total > squares[2]:
        freedom = max(1.0, float(total**2 / (squares**2 / degrees).sum()))
    else:
        # Neither models nor seeds differ by more than the rest does: only that is left.
        total, freedom = float(squares[2]), float(degrees[2])
    error = np.sqrt(total / values_MS.size)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * error)
    p_value = float(2 * stats.t.sf(abs(center) / error, freedom)) if error else float(center == 0)
    return Interval(center - half, center + half), p_value
