"""Equal loss: how many baseline steps reach an arm's final loss, with a 90% interval.

Estimator. The baseline's mean final loss at each of its budgets T is fitted by L(T) = E + A * T^-k with A >= 0 and
k > 0, so the curve falls everywhere and its inverse is one number: three or more budgets give E, A and k (variable
projection: for each k of a fine grid, E and A are a linear problem; the k with the least residual wins). The curve is
inverted at the arm's mean final loss. The read-off is a number only between the smallest and the largest budget;
outside of them it is a bound, because nothing was measured there.

Two budgets do not tell k. The straight line in log T (k = 0) lies above every such curve between them, so it reads too
many steps, in the arm's favour; the larger k, the fewer. The read-off is then a range: from k = `LARGEST_EXPONENT` to
the line, with the geometric middle of both as the one number where one is needed.

Interval. Parametric bootstrap over seeds: the seed means are redrawn from a multivariate t distribution with the
covariance that the seeds show (see `chains.py`), and curve and inverse are recomputed for every draw. With two budgets
its low end is that of the most curved, its high end that of the line: it holds whatever k is between them. Where more
than 5% of the draws never reach the loss, the interval is one-sided.

Lack of fit. With four budgets and noise between seeds, `misfit` is the share of curves redrawn with that noise whose
residuals are as large as those of the baseline's means: a small one says that no such curve goes through the budgets (a
bump), and that the read-off and its interval, which trust the curve, are not to be trusted.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tst_titan.compare.chains import no_noise_known, seed_noise
from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.pairing import Pair, equal_loss_pairs

DRAWS = 2000
# Steps of 1%: between budgets the fitted curve moves far less than the noise from one exponent to the next.
_EXPONENTS = np.geomspace(0.02, 4.0, 500)
# A curve that fits as badly as this once in twenty times is said not to hold.
MISFIT = 0.05
# Published exponents of the loss over data with a floor are 0.28 to 0.37 (docs/estimators.md): no curve should bend
# more than this.
LARGEST_EXPONENT = 0.5
_LINE = np.zeros(1)
_MOST_CURVED = np.array([LARGEST_EXPONENT])


@dataclass(frozen=True)
class ReadOff:
    """Baseline steps that reach an arm's loss, over the arm's steps.

    `bound` is "" for a measured read-off, "at least" where the baseline's largest budget does not reach the
    loss, "at most" where its smallest budget is already below it; `speedup` is then that bound. `shapes` is the range
    of baseline steps that curves of any plausible shape give, where two budgets do not tell the shape; None elsewhere.
    `misfit`: p-value of the baseline's curve, None where too few budgets or seeds test it.
    """

    label: str
    model: str
    steps: int
    column: str
    loss: float
    baseline_steps: float
    bound: str
    interval: Interval
    budgets: tuple[int, ...]
    num_seeds: int
    runs: tuple[str, ...]
    remark: str = ""
    shapes: tuple[float, float] | None = None
    misfit: float | None = None

    @property
    def curve_holds(self) -> bool:
        """Whether nothing was found against the curve that was inverted."""
        return self.misfit is None or self.misfit >= MISFIT

    @property
    def speedup(self) -> float:
        return self.baseline_steps / self.steps

    @property
    def shape_speedups(self) -> tuple[float, float] | None:
        """`shapes` as speedups: by the most curved shape and by the straight line."""
        return None if self.shapes is None else (self.shapes[0] / self.steps, self.shapes[1] / self.steps)


def equal_loss(table: pd.DataFrame, column: str, *, draws: int = DRAWS) -> list[ReadOff]:
    """Read off the equal-loss speedup of every variant and budget of `table` (see the module's text)."""
    pairs = equal_loss_pairs(table[table[column].notna()])
    return [_read_off(pair, column, draws) for pair in pairs if isinstance(pair, Pair)]


def _read_off(pair: Pair, column: str, draws: int) -> ReadOff:
    rows, baseline = pair.rows, pair.baseline
    arm = rows.set_index("seed")[column].astype(float)
    by_budget = {
        int(steps): group.set_index("seed")[column].astype(float)
        for steps, group in baseline.groupby("steps", sort=True)
    }
    budgets = np.array(sorted(by_budget), dtype=float)
    means = np.array([by_budget[int(steps)].mean() for steps in budgets])
    found, bound = invert(budgets, means, float(arm.mean()))
    shapes = None
    if len(budgets) == 2 and not bound:
        shapes = shape_range(budgets, means, float(arm.mean()))
    return ReadOff(
        label=pair.label,
        model=str(rows["model"].iloc[0]),
        steps=int(rows["steps"].iloc[0]),
        column=column,
        loss=float(arm.mean()),
        baseline_steps=found,
        bound=bound,
        interval=_interval(arm, by_budget, budgets, means, int(rows["steps"].iloc[0]), draws),
        budgets=tuple(int(steps) for steps in budgets),
        num_seeds=len(arm),
        runs=pair.runs,
        remark=pair.remark,
        shapes=shapes,
        misfit=_misfit(list(by_budget.values()), budgets, means, draws),
    )


def _interval(
    arm: pd.Series,
    by_budget: dict[int, pd.Series],
    budgets: np.ndarray,
    means: np.ndarray,
    steps: int,
    draws: int,
) -> Interval:
    if len(budgets) < 2:
        return Interval(absent_because="one baseline budget: there is no curve to read from")
    samples = [*by_budget.values(), arm]
    loss = float(arm.mean())
    if absent := no_noise_known(samples):
        return Interval(absent_because=absent)
    noise = seed_noise(samples, _gap_weights(budgets, means, loss), draws)

    def speedups(exponents: np.ndarray) -> np.ndarray:
        return inverse(budgets, means + noise[:, :-1], loss + noise[:, -1], exponents) / steps

    sides = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    if len(budgets) == 2:
        low = np.quantile(speedups(_MOST_CURVED), sides[0], method="nearest")
        high = np.quantile(speedups(_LINE), sides[1], method="nearest")
    else:
        low, high = np.quantile(speedups(_EXPONENTS), sides, method="nearest")
    if low == math.inf or high == 0.0:
        return Interval(absent_because="outside of the baseline's budgets: there the curve was not measured")
    return Interval(float(low), float(high))


def _misfit(samples: list[pd.Series], budgets: np.ndarray, means: np.ndarray, draws: int) -> float | None:
    """Share of redrawn curves with residuals as large as those of the budgets' means; None where nothing tests the
    curve."""
    if len(budgets) < 4 or no_noise_known(samples):
        return None
    noise = seed_noise(samples, np.ones(len(samples)), draws)
    drawn = _squares(budgets, fitted_losses(budgets, means, budgets) + noise)
    return float((1 + (drawn >= _squares(budgets, means[None])).sum()) / (draws + 1))


def _squares(budgets: np.ndarray, losses_DN: np.ndarray) -> np.ndarray:
    """Residual sums of squares [D] of the best curves."""
    offset, scale, exponent, unit = fit_curves(budgets, losses_DN, _EXPONENTS)
    fitted = np.stack([_curve(offset, scale, exponent, steps / unit) for steps in budgets], axis=1)
    return ((losses_DN - fitted) ** 2).sum(1)


def _gap_weights(budgets: np.ndarray, means: np.ndarray, loss: float) -> np.ndarray:
    """How the gap between fitted curve and arm, at the read-off, moves with each budget's mean and the arm's (-1)."""
    at = np.array([invert(budgets, means, loss)[0]])
    step = 1e-4 * max(float(np.ptp(means)), 1e-6)
    moved = [fitted_losses(budgets, means + step * unit, at)[0] for unit in np.eye(len(budgets))]
    return np.array([*((np.array(moved) - fitted_losses(budgets, means, at)[0]) / step), -1.0])


def invert(budgets: np.ndarray, losses: np.ndarray, loss: float) -> tuple[float, str]:
    """Steps at which the fitted baseline curve reaches `loss`, and "" or the kind of bound that it is.

    Args:
        budgets: the baseline's numbers of steps, ascending, shape [N].
        losses: its mean final loss at each, shape [N].
    """
    steps = float(inverse(budgets, losses[None], np.array([loss]), _EXPONENTS)[0])
    if steps == math.inf:
        return float(budgets[-1]), "at least"
    if steps == 0:
        return float(budgets[0]), "at most"
    if len(budgets) == 2:
        steps = math.sqrt(math.prod(shape_range(budgets, losses, loss)))
    return steps, ""


def shape_range(budgets: np.ndarray, losses: np.ndarray, loss: float) -> tuple[float, float]:
    """Steps at which two budgets' curve reaches `loss`: by the most curved shape, and by the straight line in log
    steps."""
    ends = (inverse(budgets, losses[None], np.array([loss]), shape) for shape in (_MOST_CURVED, _LINE))
    # At a budget's own loss, rounding may put one shape beyond it.
    low, high = (float(np.clip(steps[0], budgets[0], budgets[-1])) for steps in ends)
    return low, high


def inverse(budgets: np.ndarray, losses_DN: np.ndarray, loss_D: np.ndarray, exponents_K: np.ndarray) -> np.ndarray:
    """Steps at which each of D fitted curves, of the best of K exponents, reaches its `loss_D`.

    Shape [D]; infinite where the largest budget's fitted loss is above it, 0 where the smallest's is below.
    """
    if len(budgets) == 1:
        return np.select([loss_D < losses_DN[:, 0], loss_D > losses_DN[:, 0]], [math.inf, 0.0], budgets[0])
    offset_D, scale_D, exponent_D, unit = fit_curves(budgets, losses_DN, exponents_K)
    first_D, last_D = (_curve(offset_D, scale_D, exponent_D, steps / unit) for steps in budgets[[0, -1]])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        height_D = (loss_D - offset_D) / scale_D
        powers_D = np.where(exponent_D > 0, height_D ** (-1 / np.where(exponent_D > 0, exponent_D, 1)), 0)
        steps_D = unit * np.where(exponent_D > 0, powers_D, np.exp(-height_D))
    return np.select([last_D > loss_D, first_D < loss_D], [math.inf, 0.0], steps_D)


def _curve(offset: np.ndarray, scale: np.ndarray, exponent: np.ndarray, steps: float) -> np.ndarray:
    return offset + scale * np.where(exponent > 0, steps**-exponent, -math.log(steps))


def fitted_losses(budgets: np.ndarray, losses: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The curve through N >= 2 budgets' losses, at `steps`; of two budgets the straight line in log steps."""
    exponents = _LINE if len(budgets) == 2 else _EXPONENTS
    offset, scale, exponent, unit = fit_curves(budgets, losses[None], exponents)
    return np.array([_curve(offset, scale, exponent, float(step) / unit)[0] for step in steps])


def fit_curves(
    budgets: np.ndarray, losses_DN: np.ndarray, exponents_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Least-squares fits of falling curves through N >= 2 budgets, of the best of K exponents (0: a line in log steps).

    Returns:
        offset, scale (>= 0) and exponent, each of shape [D], and the unit of steps: the loss at T steps is
        ``offset + scale * (T / unit) ** -exponent``, or ``offset - scale * log(T / unit)`` where exponent is 0.
    """
    unit = float(np.exp(np.log(budgets).mean()))
    scaled = budgets / unit
    basis_KN = np.where(exponents_K[:, None] > 0, scaled ** -exponents_K[:, None], -np.log(scaled))
    centered_KN = basis_KN - basis_KN.mean(1, keepdims=True)
    squares_K = (centered_KN**2).sum(1)
    # What the slope explains of the losses' squares is largest where the residual is least; a rising slope is none.
    product_DK = np.maximum(0, losses_DN @ centered_KN.T)
    best_D = (product_DK**2 / squares_K).argmax(1)
    scale_D = product_DK[np.arange(len(best_D)), best_D] / squares_K[best_D]
    offset_D = losses_DN.mean(1) - scale_D * basis_KN.mean(1)[best_D]
    return offset_D, scale_D, exponents_K[best_D], unit
