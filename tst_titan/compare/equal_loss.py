"""Equal loss: how many baseline steps reach an arm's final loss, with a 90% interval.

Estimator. The baseline's mean final loss at each of its budgets T is fitted by L(T) = E + A * T^-k with A >= 0 and
k > 0, so the curve falls everywhere and its inverse is one number: three or more budgets give E, A and k (variable
projection: for each k of a fine grid, E and A are a linear problem; the k with the least residual wins), two give
the straight line in log T. The curve is inverted at the arm's mean final loss. The read-off is a number only between the
smallest and the largest budget; outside of them it is a bound, because nothing was measured there.

Interval. Parametric bootstrap over seeds: the seed means are redrawn from a multivariate t distribution with the
observed covariance between budgets and the degrees of freedom that the seeds leave, and curve and inverse are
recomputed for every draw. A seed's runs share noise across budgets (they even share segments), so where
the arm and all budgets have the same seeds, the covariance is taken over seeds (degrees of freedom: seeds - 1); else
noise is taken as independent with one pooled variance. Normal resampling of three seeds would cover far
less than it claims; the t distribution is what mends that. Where more than 5% of the draws never reach the loss, the
interval is one-sided.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.pairing import Pair, equal_loss_pairs

DRAWS = 2000
# Steps of 1%: between budgets the fitted curve moves far less than the noise from one exponent to the next.
_EXPONENTS = np.geomspace(0.02, 4.0, 500)


@dataclass(frozen=True)
class ReadOff:
    """Baseline steps that reach an arm's loss, over the arm's steps.

    `bound` is "" for a measured read-off, "at least" where the baseline's largest budget does not reach the
    loss, "at most" where its smallest budget is already below it; `speedup` is then that bound.
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

    @property
    def speedup(self) -> float:
        return self.baseline_steps / self.steps


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
    )


def _interval(
    arm: pd.Series,
    by_budget: dict[int, pd.Series],
    budgets: np.ndarray,
    means: np.ndarray,
    steps: int,
    draws: int,
) -> Interval:
    # The same draws in every call: collecting twice gives the same numbers.
    random = np.random.default_rng(0)
    if len(budgets) < 2:
        return Interval(absent_because="one baseline budget: there is no curve to read from")
    samples = [*by_budget.values(), arm]
    seeds = set(arm.index)
    if len(seeds) >= 2 and all(set(sample.index) == seeds for sample in samples):
        values = np.stack([sample.sort_index().to_numpy() for sample in samples], axis=1)
        degrees = len(seeds) - 1
        deviations = (values - values.mean(0)) / math.sqrt(degrees * len(seeds))
        noise = random.standard_normal((draws, len(seeds))) @ deviations
    else:
        degrees = sum(len(sample) - 1 for sample in samples)
        if degrees == 0:
            return Interval(absent_because="one seed: there is no measure of the noise between seeds")
        squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples)
        errors = np.sqrt(squares / degrees / np.array([len(sample) for sample in samples]))
        noise = random.standard_normal((draws, len(samples))) * errors
    noise /= np.sqrt(random.chisquare(degrees, (draws, 1)) / degrees)
    speedups = inverse(budgets, means + noise[:, :-1], float(arm.mean()) + noise[:, -1]) / steps
    low, high = np.quantile(speedups, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    if low == math.inf or high == 0.0:
        return Interval(absent_because="outside of the baseline's budgets: there the curve was not measured")
    return Interval(float(low), float(high))


def invert(budgets: np.ndarray, losses: np.ndarray, loss: float) -> tuple[float, str]:
    """Steps at which the fitted baseline curve reaches `loss`, and "" or the kind of bound that it is.

    Args:
        budgets: the baseline's numbers of steps, ascending, shape [N].
        losses: its mean final loss at each, shape [N].
    """
    steps = float(inverse(budgets, losses[None], np.array([loss]))[0])
    if steps == math.inf:
        return float(budgets[-1]), "at least"
    if steps == 0:
        return float(budgets[0]), "at most"
    return steps, ""


def inverse(budgets: np.ndarray, losses_DN: np.ndarray, loss_D: np.ndarray) -> np.ndarray:
    """Steps at which each of D fitted curves reaches its `loss_D`.

    Shape [D]; infinite where the largest budget's fitted loss is above it, 0 where the smallest's is below.
    """
    if len(budgets) == 1:
        return np.select([loss_D < losses_DN[:, 0], loss_D > losses_DN[:, 0]], [math.inf, 0.0], budgets[0])
    offset_D, scale_D, exponent_D, unit = fit_curves(budgets, losses_DN)
    first_D, last_D = (_curve(offset_D, scale_D, exponent_D, steps / unit) for steps in budgets[[0, -1]])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        height_D = (loss_D - offset_D) / scale_D
        powers_D = np.where(exponent_D > 0, height_D ** (-1 / np.where(exponent_D > 0, exponent_D, 1)), 0)
        steps_D = unit * np.where(exponent_D > 0, powers_D, np.exp(-height_D))
    return np.select([last_D > loss_D, first_D < loss_D], [math.inf, 0.0], steps_D)


def _curve(offset: np.ndarray, scale: np.ndarray, exponent: np.ndarray, steps: float) -> np.ndarray:
    return offset + scale * np.where(exponent > 0, steps**-exponent, -math.log(steps))


def fitted_losses(budgets: np.ndarray, losses: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The curve through N >= 2 budgets' losses, at `steps`."""
    offset, scale, exponent, unit = fit_curves(budgets, losses[None])
    return np.array([_curve(offset, scale, exponent, float(step) / unit)[0] for step in steps])


def fit_curves(
    budgets: np.ndarray, losses_DN: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Least-squares fits of falling curves through N >= 2 budgets (see the module's text).

    Returns:
        offset, scale (>= 0) and exponent, each of shape [D], and the unit of steps: the loss at T steps is
        ``offset + scale * (T / unit) ** -exponent``, or ``offset - scale * log(T / unit)`` where exponent is 0.
    """
    unit = float(np.exp(np.log(budgets).mean()))
    scaled = budgets / unit
    exponents_K = np.zeros(1) if len(budgets) == 2 else _EXPONENTS
    basis_KN = np.where(exponents_K[:, None] > 0, scaled ** -exponents_K[:, None], -np.log(scaled))
    centered_KN = basis_KN - basis_KN.mean(1, keepdims=True)
    squares_K = (centered_KN**2).sum(1)
    # What the slope explains of the losses' squares is largest where the residual is least; a rising slope is none.
    product_DK = np.maximum(0, losses_DN @ centered_KN.T)
    best_D = (product_DK**2 / squares_K).argmax(1)
    scale_D = product_DK[np.arange(len(best_D)), best_D] / squares_K[best_D]
    offset_D = losses_DN.mean(1) - scale_D * basis_KN.mean(1)[best_D]
    return offset_D, scale_D, exponents_K[best_D], unit
