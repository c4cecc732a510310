"""The equal-loss speedup against model size: two forms, weighted by error, with bounds.

Forms, x = log N from the smallest size on: linear, log speedup = a + b x; and saturating, a + b (1 - exp(-g x)) / g,
whose gain stops growing. For each form a and b maximize the likelihood of normal log speedups (weights by their errors'
squares; without errors all are equal) in which a bound counts as the probability to lie beyond it (a censored value,
Tobin 1958). Errors that explain less than the scatter around a form are widened to it. g is one of 24 values from 0.03
to 1.5. A form that fits worse than the best one by more than an F test at 90% allows (99% without errors) is
contradicted and has no say. Intervals are t-distributed with sizes - 2 degrees of freedom and are those of a new
measurement.

Few sizes do not tell the forms apart, so a prediction's interval holds all that are left, and none is made beyond
`FARTHEST` times the sizes that were measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tst_titan.compare.equal_loss import ReadOff
from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.scaling_law import FEWEST_VALUES, CannotFitError

FARTHEST = 8.0
RATES = tuple(np.geomspace(0.03, 1.5, 24))
# Errors of read-offs are known from about this many degrees of freedom (two or three seeds, a few budgets).
_ERROR_DEGREES = 4
# Level of the test that contradicts a form where the scatter of few points is the only measure of their errors.
_WITHOUT_ERRORS = 0.99
_TWO_SIDED = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True, eq=False)
class Form:
    """One fitted form: rate 0 is linear. `deviance` is twice the negative log likelihood in units of the given
    errors."""

    rate: float
    weights: np.ndarray
    covariance: np.ndarray
    error: float
    deviance: float

    def at(self, x: float, degrees: int) -> tuple[float, float]:
        """Log speedup and half of the interval of a new measurement."""
        row = _row(np.array([x]), self.rate)[0]
        half = stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(row @ self.covariance @ row + self.error**2)
        return float(row @ self.weights), float(half)


@dataclass(frozen=True)
class Trend:
    """speedup = level * (N / unit)^slope over model sizes N (the linear form), with the slope's interval, and the
    saturating forms beside it.

    `contradicted`: the forms ("linear", "saturating") that the speedups contradict.
    """

    level: float
    slope: float
    unit: float
    slope_interval: Interval
    sizes: tuple[float, float]
    contradicted: tuple[str, ...]
    _linear: Form
    _saturating: tuple[Form, ...]
    _degrees: int

    def at(self, params: float) -> tuple[float, Interval]:
        """Speedup at a size (linear, unless contradicted), with the interval that holds a new measurement there by
        every form that is left.

        Raises `CannotFitError` farther than `FARTHEST` times from the sizes that were measured.
        """
        both = {"linear": self.linear_at(params), "saturating": self.saturating_at(params)}
        left = [found for name, found in both.items() if name not in self.contradicted]
        ends = [end for _, form in left for end in (form.low, form.high) if end is not None]
        return left[0][0], Interval(min(ends), max(ends))

    def linear_at(self, params: float) -> tuple[float, Interval]:
        """Speedup and interval if the gain goes on growing with log size as it did."""
        return self._predicted((self._linear,), params)

    def saturating_at(self, params: float) -> tuple[float, Interval]:
        """Speedup (of the likeliest) and interval (of all) of the saturating forms."""
        return self._predicted(self._saturating, params)

    def _predicted(self, forms: tuple[Form, ...], params: float) -> tuple[float, Interval]:
        found = [form.at(self._distance(params), self._degrees) for form in forms]
        best = int(np.argmin([form.deviance for form in forms]))
        low, high = min(value - half for value, half in found), max(value + half for value, half in found)
        return float(np.exp(found[best][0])), Interval(float(np.exp(low)), float(np.exp(high)))

    def _distance(self, params: float) -> float:
        if not self.sizes[0] / FARTHEST <= params <= self.sizes[1] * FARTHEST:
            raise CannotFitError(
                f"a speedup is predicted for sizes up to {FARTHEST:g} times from those that were measured, not farther"
            )
        return float(np.log(params / self.sizes[0]))


def read_off_trend(items: Sequence[ReadOff], sizes: dict[str, float]) -> Trend:
    """The trend of the read-offs of one variant over models; `sizes`: parameters by model."""
    return speedup_trend(
        np.array([sizes[item.model] for item in items]),
        np.array([item.speedup for item in items]),
        np.array([log_error(item) for item in items]),
        [item.bound for item in items],
    )


def log_error(item: ReadOff) -> float:
    """Standard error of a read-off's log speedup, from its interval, else from the range of its shapes; NaN where
    neither is known."""
    low, high = item.interval.low, item.interval.high
    if low is not None and high is not None:
        if low > 0 and np.isfinite(high):
            return float(np.log(high / low) / (2 * _TWO_SIDED))
        return float(abs(np.log(item.speedup / (low if low > 0 else high))) / _TWO_SIDED)
    if item.shape_speedups is not None:
        # Standard deviation of what may be anywhere in a range.
        return float(np.log(item.shape_speedups[1] / item.shape_speedups[0]) / np.sqrt(12))
    return float("nan")


def speedup_trend(
    params: np.ndarray,
    speedups: np.ndarray,
    errors: np.ndarray | None = None,
    bounds: Sequence[str] | None = None,
) -> Trend:
    """Fit both forms to speedups by size (see the module's text).

    Args:
        errors: standard errors of the log speedups, NaN where not known (then the median of the known ones).
        bounds: "" for a measured speedup, "at least" or "at most" for a bound.

    Raises `CannotFitError` for fewer than three measured sizes: two give a line and no measure of its error.
    """
    sides = np.array([{"": 0, "at least": 1, "at most": -1}[bound] for bound in bounds or [""] * len(params)])
    measured = sides == 0
    if len(np.unique(params[measured])) < FEWEST_VALUES:
        raise CannotFitError(
            f"measured speedups at {len(np.unique(params[measured]))} sizes: at least {FEWEST_VALUES} are needed"
        )
    sizes = float(params[measured].min()), float(params[measured].max())
    x, y = np.log(params / sizes[0]), np.log(speedups)
    given = np.full(len(x), np.nan) if errors is None else np.where(errors > 0, errors, np.nan)
    known = bool(np.isfinite(given[measured]).any())
    spread = np.where(np.isfinite(given), given, np.nanmedian(given[measured])) if known else np.ones(len(x))
    degrees = int(measured.sum()) - 2
    linear = _fit(x, y, spread, sides, 0.0, known)
    saturating = [_fit(x, y, spread, sides, rate, known) for rate in RATES]
    best = min(form.deviance for form in (linear, *saturating))
    # The best rate took one more degree of freedom from the scatter.
    spare = degrees - 1
    if known:
        most = max(1.0, best / spare if spare else 1.0) * stats.f.ppf(LEVEL, 1, max(spare, _ERROR_DEGREES))
    else:
        # A curve goes through a few points closely by luck: only what is all but impossible counts.
        most = best / spare * stats.f.ppf(_WITHOUT_ERRORS, 1, spare) if spare else np.inf
    left = [form for form in (linear, *saturating) if form.deviance - best <= most]
    bent = [form for form in left if form.rate]
    absent = {"linear": linear not in left, "saturating": not bent}
    unit = float(np.exp(np.log(params[measured]).mean()))
    slope = float(linear.weights[1])
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(linear.covariance[1, 1]))
    return Trend(
        level=float(np.exp(linear.weights[0] + slope * np.log(unit / sizes[0]))),
        slope=slope,
        unit=unit,
        slope_interval=Interval(slope - half, slope + half),
        sizes=sizes,
        _linear=linear,
        contradicted=tuple(name for name, gone in absent.items() if gone),
        _saturating=tuple(bent or [min(saturating, key=lambda form: form.deviance)]),
        _degrees=degrees,
    )


def _row(x: np.ndarray, rate: float) -> np.ndarray:
    return np.stack([np.ones_like(x), -np.expm1(-rate * x) / rate if rate else x], axis=1)


def _fit(x: np.ndarray, y: np.ndarray, spread: np.ndarray, sides: np.ndarray, rate: float, known: bool) -> Form:
    design, measured = _row(x, rate), sides == 0
    scaled = design[measured] / spread[measured, None]
    weights, *_ = np.linalg.lstsq(scaled, y[measured] / spread[measured])
    deviance = float(((y[measured] / spread[measured] - scaled @ weights) ** 2).sum())
    scatter = np.sqrt(deviance / (measured.sum() - 2))
    errors = spread * (max(1.0, scatter) if known else max(scatter, 1e-9))
    # Newton's steps to the maximum of a concave likelihood; without bounds the first one stays where it is.
    for _ in range(50):
        gap = (design @ weights - y) / errors
        inside = np.where(measured, 0.0, sides * gap)
        ratio = np.exp(stats.norm.logpdf(inside) - stats.norm.logcdf(inside))
        pull = np.where(measured, -gap, sides * ratio) / errors
        bend = np.where(measured, 1.0, ratio * (ratio + inside)) / errors**2
        information = design.T @ (bend[:, None] * design)
        step = np.linalg.solve(information, design.T @ pull)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    gap = (design @ weights - y) / spread
    beyond = -2 * stats.norm.logcdf(sides * (design @ weights - y) / errors)
    return Form(
        rate=rate,
        weights=weights,
        covariance=np.linalg.inv(information),
        error=float(np.median(errors[measured])),
        deviance=float(np.where(measured, gap**2, beyond).sum()),
    )
