"""Loss against parameters and data, and the gain of superposition against size: fits that refuse what they cannot tell.

Law: L(N, D) = E + A * (N / N0)^-a + B * (D / D0)^-b with E, A, B >= 0 (N0, D0: geometric means of the design). For given
exponents the rest is a non-negative linear problem, so the search is over two exponents only (variable projection);
the joint five-parameter search is ill-conditioned. Intervals: 90%, parametric bootstrap with the noise between seeds
where there are any, else the fit's own residuals, scaled by the t distribution's degrees of freedom.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from tst_titan.compare.intervals import LEVEL, Interval

DRAWS = 200
EXPONENTS = (0.02, 2.0)
# Three values make a curve; five parameters need more points than five to leave a residual.
FEWEST_VALUES, FEWEST_POINTS = 3, 6


class CannotFitError(ValueError):
    """The design does not identify the law; the message says why."""


@dataclass(frozen=True)
class ScalingFit:
    """The fitted law. `intervals` are of the two exponents and of the offset; `residuals` are nats, one a point."""

    offset: float
    params_scale: float
    params_exponent: float
    data_scale: float
    data_exponent: float
    params_unit: float
    data_unit: float
    intervals: dict[str, Interval]
    residuals: np.ndarray

    def loss(self, params: np.ndarray, data_tokens: np.ndarray) -> np.ndarray:
        """Predicted loss, nats a token."""
        return (
            self.offset
            + self.params_scale * (params / self.params_unit) ** -self.params_exponent
            + self.data_scale * (data_tokens / self.data_unit) ** -self.data_exponent
        )


def fit_scaling(
    params: np.ndarray, data_tokens: np.ndarray, losses: np.ndarray, *, draws: int = DRAWS
) -> ScalingFit:
    """Fit the law to runs (arrays of shape [runs]; runs that differ in seed alone repeat `params` and `data_tokens`).

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
        raise CannotFitError(
            "the best exponents lie on the border of the search: the law does not fit these losses"
        )
    random = np.random.default_rng(0)
    samples = []
    for _ in range(draws):
        error = random.standard_normal(len(means)) * noise / np.sqrt(counts)
        error /= np.sqrt(random.chisquare(degrees) / degrees)
        drawn_exponents, drawn = _fit(scaled, fitted + error, counts, exponents)
        samples.append([*drawn_exponents, drawn[0]])
    low, high = np.quantile(np.array(samples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    names = ("params_exponent", "data_exponent", "offset")
    return ScalingFit(
        offset=float(weights[0]),
        params_scale=float(weights[1]),
        params_exponent=float(exponents[0]),
        data_scale=float(weights[2]),
        data_exponent=float(exponents[1]),
        params_unit=float(unit[0]),
        data_unit=float(unit[1]),
        intervals={name: Interval(float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)},
        residuals=means - fitted,
    )


def _check_design(points: np.ndarray) -> None:
    for column, name in ((0, "model sizes"), (1, "numbers of data tokens")):
        found = len(np.unique(points[:, column]))
        if found < FEWEST_VALUES:
            raise CannotFitError(f"{found} {name}: at least {FEWEST_VALUES} are needed")
    if len(points) < FEWEST_POINTS:
        raise CannotFitError(
            f"{len(points)} combinations of size and data: at least {FEWEST_POINTS} are needed"
        )
    correlation = float(np.corrcoef(np.log(points).T)[0, 1])
    if abs(correlation) > 0.98:
        raise CannotFitError("size and data grow together in all runs: their effects cannot be told apart")


def _basis(scaled: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.ones(len(scaled)), scaled[:, 0] ** -exponents[0], scaled[:, 1] ** -exponents[1]], axis=1
    )


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


def _fit(
    scaled: np.ndarray, means: np.ndarray, counts: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    found = optimize.minimize(
        lambda logs: _solve(scaled, means, counts, np.exp(logs))[1],
        np.log(start),
        method="Nelder-Mead",
        bounds=[tuple(np.log(EXPONENTS))] * 2,
        options={"xatol": 1e-4, "fatol": 1e-10, "maxiter": 300},
    )
    exponents = np.exp(found.x)
    return exponents, _solve(scaled, means, counts, exponents)[0]


def _noise(
    losses: np.ndarray, means: np.ndarray, counts: np.ndarray, residuals: np.ndarray
) -> tuple[float, int]:
    """Standard deviation of one run's loss, and its degrees of freedom."""
    degrees = int((counts - 1).sum())
    if degrees > 0:
        return float(np.sqrt(((losses - means) ** 2).sum() / degrees)), degrees
    degrees = max(1, len(residuals) - 5)
    return float(np.sqrt((residuals**2).sum() / degrees)), degrees


@dataclass(frozen=True)
class Trend:
    """speedup = level * (N / unit)^slope over model sizes N, with the slope's interval; see `speedup_trend`."""

    level: float
    slope: float
    unit: float
    slope_interval: Interval
    _error: float
    _squares: float
    _count: int

    def at(self, params: float) -> tuple[float, Interval]:
        """Speedup predicted for a size, with the 90% interval of a new measurement there."""
        distance = np.log(params / self.unit)
        value = np.log(self.level) + self.slope * distance
        spread = self._error * np.sqrt(1 + 1 / self._count + distance**2 / self._squares)
        half = stats.t.ppf((1 + LEVEL) / 2, self._count - 2) * spread
        return float(np.exp(value)), Interval(float(np.exp(value - half)), float(np.exp(value + half)))


def speedup_trend(params: np.ndarray, speedups: np.ndarray) -> Trend:
    """Least squares of log speedup on log size, with t intervals from its own residuals.

    Only measured read-offs belong here, no bounds. Raises `CannotFitError` for fewer than three sizes: two give a line
    and no measure of its error.
    """
    if len(np.unique(params)) < FEWEST_VALUES:
        raise CannotFitError(
            f"measured speedups at {len(np.unique(params))} sizes: at least {FEWEST_VALUES} are needed"
        )
    unit = float(np.exp(np.log(params).mean()))
    x, y = np.log(params / unit), np.log(speedups)
    squares = float(x @ x)
    slope = float(x @ y / squares)
    residuals = y - y.mean() - slope * x
    degrees = len(x) - 2
    error = float(np.sqrt(residuals @ residuals / degrees))
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error / np.sqrt(squares)
    return Trend(
        level=float(np.exp(y.mean())),
        slope=slope,
        unit=unit,
        slope_interval=Interval(slope - float(half), slope + float(half)),
        _error=error,
        _squares=squares,
        _count=len(x),
    )
