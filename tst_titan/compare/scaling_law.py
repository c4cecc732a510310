"""Loss against parameters and data: a fit that refuses what it cannot tell.

Law: L(N, D) = E + A * (N / N0)^-a + B * (D / D0)^-b with E, A, B >= 0 (N0, D0: geometric means of the design). For
given exponents the rest is a non-negative linear problem, so the search is over two exponents only (variable
projection); the joint five-parameter search is ill-conditioned.

Intervals: 90%, parametric bootstrap. A seed's runs of one model share a prefix, so the noise is drawn with the
covariance between budgets that the seeds of each model show (`chains.chain_noise`); noise that a whole chain shares
moves a size's level, and with it the size exponent, far more than independent noise would. One seed shows none of it,
not even in the fit's residuals: then there are no intervals. Runs without seeds count as independent of each other: the
noise is that between equal runs, else the fit's own residuals, scaled by the t distribution's degrees of freedom.

Lack of fit: `misfit` is the p-value of a test that the law holds over the design. With noise between runs it is the
share of the redrawn fits with residuals as large as those found. With one run a point it is an F test of the terms that
a wrong law leaves in the
residuals: log N log D (exponents that vary with size), and with four budgets (log D)^3 (a bump). A level that one
size's chain has in common looks like neither. A law that does not hold is not extrapolated.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from tst_titan.compare.chains import chain_noise
from tst_titan.compare.intervals import LEVEL, Interval

DRAWS = 200
EXPONENTS = (0.02, 2.0)
# Three values make a curve; five parameters need more points than five to leave a residual.
FEWEST_VALUES, FEWEST_POINTS = 3, 6
# A law that fits as badly as this once in twenty times is said not to hold.
MISFIT = 0.05
# Parameters of which `ScalingFit.intervals` are.
_WITH_INTERVALS = ("params_exponent", "data_exponent", "offset")
ONE_SEED = "one seed a size: nothing shows the noise that its runs share over the budgets"


class CannotFitError(ValueError):
    """The design does not identify the law; the message says why."""


@dataclass(frozen=True)
class ScalingFit:
    """The fitted law. `intervals` are of the two exponents and of the offset; `residuals` are nats, one a point.

    `misfit`: p-value of the test for lack of fit, None where the design leaves nothing to test with. `design`: the
    least and the largest parameters and data tokens.
    """

    offset: float
    params_scale: float
    params_exponent: float
    data_scale: float
    data_exponent: float
    params_unit: float
    data_unit: float
    intervals: dict[str, Interval]
    residuals: np.ndarray
    misfit: float | None
    design: np.ndarray

    @property
    def holds(self) -> bool:
        """Whether nothing was found against the law."""
        return self.misfit is None or self.misfit >= MISFIT

    def loss(self, params: np.ndarray, data_tokens: np.ndarray) -> np.ndarray:
        """Predicted loss, nats a token. Raises `CannotFitError` beyond the design where the law does not hold within
        it."""
        points = np.stack([params, data_tokens], axis=1)
        if not self.holds and ((points < self.design[0]) | (points > self.design[1])).any():
            raise CannotFitError("the law does not hold over the runs that it was fitted to: it is not extrapolated")
        return (
            self.offset
            + self.params_scale * (params / self.params_unit) ** -self.params_exponent
            + self.data_scale * (data_tokens / self.data_unit) ** -self.data_exponent
        )


def fit_scaling(
    params: np.ndarray,
    data_tokens: np.ndarray,
    losses: np.ndarray,
    seeds: np.ndarray | None = None,
    *,
    draws: int = DRAWS,
) -> ScalingFit:
    """Fit the law to runs (arrays of shape [runs]; runs that differ in seed alone repeat `params` and `data_tokens`).

    `seeds`: one size's runs of a seed share noise over its budgets; None: all runs are independent.

    Raises `CannotFitError` where sizes, budgets or their combination cannot tell the two terms apart, or where the best
    fit lies on the border of what was searched.
    """
    points, group = np.unique(np.stack([params, data_tokens], axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = np.bincount(group)
    means = np.bincount(group, losses) / counts
    _check_design(points)
    unit = np.exp(np.log(points).mean(0))
    scaled = points / unit
    exponents, weights = _fit(scaled, means, counts, _start(scaled, means, counts))
    terms = _basis(scaled, exponents) * weights
    fitted = terms.sum(1)
    noise, degrees = _noise(losses, means[group], counts, means - fitted)
    if np.ptp(terms[:, 1:], axis=0).min() <= max(2 * noise, 1e-6):
        raise CannotFitError("the losses do not show both terms: one changes them by less than the noise")
    if not all(EXPONENTS[0] * 1.05 < value < EXPONENTS[1] * 0.95 for value in exponents):
        raise CannotFitError("the best exponents lie on the border of the search: the law does not fit these losses")
    intervals = dict.fromkeys(_WITH_INTERVALS, Interval(absent_because=ONE_SEED))
    misfit = None
    noises = _noises(points, group, losses, seeds, noise, degrees, draws)
    if noises is not None:
        intervals, squares = _refitted(scaled, fitted, counts, exponents, noises)
        misfit = (1 + sum(square >= counts @ (means - fitted) ** 2 for square in squares)) / (draws + 1)
    if counts.max() == 1:
        misfit = _pattern(scaled, means, exponents, weights)
    return ScalingFit(
        offset=float(weights[0]),
        params_scale=float(weights[1]),
        params_exponent=float(exponents[0]),
        data_scale=float(weights[2]),
        data_exponent=float(exponents[1]),
        params_unit=float(unit[0]),
        data_unit=float(unit[1]),
        intervals=intervals,
        residuals=means - fitted,
        misfit=misfit,
        design=np.stack([points.min(0), points.max(0)]),
    )


def _refitted(
    scaled: np.ndarray,
    fitted: np.ndarray,
    counts: np.ndarray,
    exponents: np.ndarray,
    noises: np.ndarray,
) -> tuple[dict[str, Interval], list[float]]:
    """Fits to what was fitted with each of `noises` on it: intervals of the parameters, and the squares that each fit
    left."""
    samples, squares = [], []
    for error in noises:
        drawn_exponents, drawn = _fit(scaled, fitted + error, counts, exponents)
        samples.append([*drawn_exponents, drawn[0]])
        left = fitted + error - _basis(scaled, drawn_exponents) @ drawn
        squares.append(float(counts @ left**2))
    low, high = np.quantile(np.array(samples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    bounds = zip(_WITH_INTERVALS, low, high, strict=True)
    return {name: Interval(float(a), float(b)) for name, a, b in bounds}, squares


def _check_design(points: np.ndarray) -> None:
    for column, name in ((0, "model sizes"), (1, "numbers of data tokens")):
        found = len(np.unique(points[:, column]))
        if found < FEWEST_VALUES:
            raise CannotFitError(f"{found} {name}: at least {FEWEST_VALUES} are needed")
    if len(points) < FEWEST_POINTS:
        raise CannotFitError(f"{len(points)} combinations of size and data: at least {FEWEST_POINTS} are needed")
    correlation = float(np.corrcoef(np.log(points).T)[0, 1])
    if abs(correlation) > 0.98:
        raise CannotFitError("size and data grow together in all runs: their effects cannot be told apart")


def _basis(scaled: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    return np.stack([np.ones(len(scaled)), scaled[:, 0] ** -exponents[0], scaled[:, 1] ** -exponents[1]], axis=1)


def _solve(
    scaled: np.ndarray, means: np.ndarray, counts: np.ndarray, exponents: np.ndarray
) -> tuple[np.ndarray, float]:
    root = np.sqrt(counts)
    weights, residual = optimize.nnls(_basis(scaled, exponents) * root[:, None], means * root)
    return weights, float(residual)


def _start(scaled: np.ndarray, means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    grid = np.geomspace(*EXPONENTS, 24)
    candidates = [np.array([a, b]) for a in grid for b in grid]
    return min(candidates, key=lambda exponents: _solve(scaled, means, counts, exponents)[1])


def _fit(scaled: np.ndarray, means: np.ndarray, counts: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = optimize.minimize(
        lambda logs: _solve(scaled, means, counts, np.exp(logs))[1],
        np.log(start),
        method="Nelder-Mead",
        bounds=[tuple(np.log(EXPONENTS))] * 2,
        options={"xatol": 1e-4, "fatol": 1e-10, "maxiter": 300},
    )
    exponents = np.exp(found.x)
    return exponents, _solve(scaled, means, counts, exponents)[0]


def _noise(losses: np.ndarray, means: np.ndarray, counts: np.ndarray, residuals: np.ndarray) -> tuple[float, int]:
    """Standard deviation of one run's loss, and its degrees of freedom."""
    degrees = int((counts - 1).sum())
    if degrees > 0:
        return float(np.sqrt(((losses - means) ** 2).sum() / degrees)), degrees
    degrees = max(1, len(residuals) - 5)
    return float(np.sqrt((residuals**2).sum() / degrees)), degrees


def _noises(
    points: np.ndarray,
    group: np.ndarray,
    losses: np.ndarray,
    seeds: np.ndarray | None,
    noise: float,
    degrees: int,
    draws: int,
) -> np.ndarray | None:
    """Draws of the errors of the points' means, shape [draws, points]; None where one seed says nothing about them."""
    if seeds is None:
        random = np.random.default_rng(0)
        errors = random.standard_normal((draws, len(points))) * noise / np.sqrt(np.bincount(group))
        return errors / np.sqrt(random.chisquare(degrees, (draws, 1)) / degrees)
    # Points are sorted by parameters: those of one size are neighbours.
    chains: dict[float, list[pd.Series]] = {}
    for place, (size, _) in enumerate(points):
        runs = group == place
        chains.setdefault(float(size), []).append(pd.Series(losses[runs], index=seeds[runs]))
    if any(max(len(sample) for sample in samples) < 2 for samples in chains.values()):
        return None
    return chain_noise(list(chains.values()), draws)


def _pattern(scaled: np.ndarray, means: np.ndarray, exponents: np.ndarray, weights: np.ndarray) -> float | None:
    """P-value of the terms that a wrong law leaves in the residuals of one run a point; None where too few points are
    left."""
    x, y = np.log(scaled).T
    terms = _basis(scaled, exponents)
    # The law's own freedom: its three weights and, as derivatives, its two exponents.
    law = np.column_stack([terms, weights[1] * terms[:, 1] * x, weights[2] * terms[:, 2] * y])
    extra = [x * y, y**3] if len(np.unique(scaled[:, 1])) >= 4 else [x * y]
    degrees = len(means) - law.shape[1] - len(extra)
    if degrees < 2:
        return None
    residuals = means - terms @ weights

    def left(design: np.ndarray) -> float:
        return float(((residuals - design @ np.linalg.lstsq(design, residuals)[0]) ** 2).sum())

    explained, rest = left(law), left(np.column_stack([law, *extra]))
    # Rounding is no pattern.
    if explained <= 1e-16 * float(means @ means):
        return 1.0
    return float(stats.f.sf((explained - rest) / len(extra) / (rest / degrees), len(extra), degrees))
