"""Bag size and step ratio for a size that was not run, from the grids of sizes that were.

Estimator. For every model size with a grid at one budget: a polynomial surface in (log s, r) around its best cells,
cubic where they are enough (`surface.py`); its minimum is that size's best setting. Its error is a parametric bootstrap
with the larger of two spreads: between seeds, and of the cells around the surface. Over sizes, log s and r of these
minima are straight lines in log N (least squares, weights by their errors' squares). A prediction's 90% interval is
t-distributed with sizes - 2 degrees of freedom and has both parts: the line's own error and that of one more minimum
around it.

Nothing is recommended where this cannot be told: fewer than three sizes with a grid at the same number of steps, a grid
without a minimum inside of it. Predictions assume that budget and that recipe.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from tst_titan.compare.grids import Grid, find_grids
from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.scaling_law import CannotFitError
from tst_titan.compare.surface import TooFewCellsError, fit_surface

FEWEST_SIZES = 3
DRAWS = 400
# A draw whose surface has no bottom says that the minimum is not known; more of them than this and it is not.
MOST_LOST = 0.2
MOST_RATIO = 0.9


@dataclass(frozen=True)
class Optimum:
    """The bottom of one grid: [log s, r], the covariance of its errors, and the range of bag sizes and ratios that were
    run."""

    model: str
    params: float
    setting: np.ndarray
    covariance: np.ndarray

    @property
    def bag_size(self) -> float:
        return float(np.exp(self.setting[0]))

    @property
    def step_ratio(self) -> float:
        return float(self.setting[1])


@dataclass(frozen=True)
class Recommendation:
    """Setting predicted for a size, with 90% intervals; `outside` says where it leaves what was run."""

    params: float
    bag_size: float
    bag_size_interval: Interval
    step_ratio: float
    step_ratio_interval: Interval
    outside: str


@dataclass(frozen=True)
class SettingTrend:
    """How the best setting moves with size at one budget."""

    steps: int
    optima: tuple[Optimum, ...]
    bag_sizes: tuple[int, int]
    step_ratios: tuple[float, float]

    def at(self, params: float) -> Recommendation:
        """The setting for a model of `params` parameters (active, without embeddings)."""
        predicted, half = zip(*(self._line(axis, params) for axis in (0, 1)), strict=True)
        size, sizes = np.exp(predicted[0]), np.exp([predicted[0] - half[0], predicted[0] + half[0]])
        ratio = float(np.clip(predicted[1], 0, MOST_RATIO))
        ratios = np.clip([predicted[1] - half[1], predicted[1] + half[1]], 0, MOST_RATIO)
        outside = []
        if not self.bag_sizes[0] <= size <= self.bag_sizes[1]:
            outside.append(f"bag sizes were run from {self.bag_sizes[0]} to {self.bag_sizes[1]}")
        if not self.step_ratios[0] <= predicted[1] <= self.step_ratios[1]:
            outside.append(f"step ratios were run from {self.step_ratios[0]:g} to {self.step_ratios[1]:g}")
        return Recommendation(
            params,
            max(1.0, float(size)),
            Interval(max(1.0, float(sizes[0])), float(sizes[1])),
            ratio,
            Interval(float(ratios[0]), float(ratios[1])),
            "; ".join(outside),
        )

    def _line(self, axis: int, params: float) -> tuple[float, float]:
        """Prediction of one coordinate and half of its 90% interval."""
        x = np.log([optimum.params for optimum in self.optima])
        y = np.array([optimum.setting[axis] for optimum in self.optima])
        errors = np.sqrt([optimum.covariance[axis, axis] for optimum in self.optima])
        errors = np.maximum(errors, 1e-9)
        weights = 1 / errors**2
        design = np.stack([np.ones_like(x), x - np.average(x, weights=weights)], axis=1)
        normal = np.linalg.inv(design.T @ (weights[:, None] * design))
        line = normal @ design.T @ (weights * y)
        degrees = len(x) - 2
        # Errors that explain less than the scatter around the line are widened to it, never narrowed.
        scatter = float((weights * (y - design @ line) ** 2).sum() / degrees)
        widen = max(1.0, scatter)
        at = np.array([1.0, np.log(params) - np.average(x, weights=weights)])
        variance = widen * (at @ normal @ at + float(np.median(errors)) ** 2)
        return float(at @ line), float(stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(variance))


def setting_trend(table: pd.DataFrame, column: str, sizes: dict[str, float]) -> SettingTrend:
    """The trend of the best setting over the sizes of a table of finished runs.

    `sizes`: parameters by model. Of several budgets the one with grids at most sizes counts, the longest of equals.
    Raises `CannotFitError` with the reason where the grids cannot tell.
    """
    grids: dict[int, dict[str, Grid]] = {}
    for grid in find_grids(table, column):
        model, steps = grid.setting[0], int(grid.setting[1])
        # Of several weightings or learning rates the one that ends best stands for the size.
        known = grids.setdefault(steps, {}).get(model)
        if known is None or grid.best_value < known.best_value:
            grids[steps][model] = grid
    if not grids:
        raise CannotFitError("no grid of bag sizes and step ratios was run")
    steps = max(grids, key=lambda steps: (len(grids[steps]), steps))
    if len(grids[steps]) < FEWEST_SIZES:
        raise CannotFitError(
            f"grids at {len(grids[steps])} sizes for the same number of steps ({steps}): at least {FEWEST_SIZES} are "
            "needed"
        )
    optima = [optimum(grid, model, sizes[model]) for model, grid in grids[steps].items()]
    return SettingTrend(
        steps,
        tuple(sorted(optima, key=lambda item: item.params)),
        _range(grid.bag_sizes for grid in grids[steps].values()),
        _range(grid.step_ratios for grid in grids[steps].values()),
    )


def _range(values: Iterable[tuple]) -> tuple:
    joined = [value for group in values for value in group]
    return min(joined), max(joined)


def optimum(grid: Grid, model: str, params: float) -> Optimum:
    """The bottom of a grid's surface with its errors; `CannotFitError` where it has none inside of the grid."""
    rows, columns = np.nonzero(np.isfinite(grid.losses))
    size, ratio = np.log(np.array(grid.bag_sizes, dtype=float))[columns], np.array(grid.step_ratios)[rows]
    where = f"the grid of {grid.name}"
    try:
        surface = fit_surface(size, ratio, grid.losses[rows, columns])
    except TooFewCellsError as error:
        raise CannotFitError(f"{where} has {error}") from error
    bottom = surface.bottoms(surface.weights[None])[0]
    if np.isnan(bottom).any():
        raise CannotFitError(f"{where} has no minimum inside: its best cell is at the border of what was run")
    counts = grid.counts[rows, columns][surface.near]
    spread = np.maximum(surface.misfit, (grid.spread or 0.0) / np.sqrt(counts))
    random = np.random.default_rng(0)
    bottoms = surface.bottoms(surface.redrawn(spread * random.standard_normal((DRAWS, len(counts)))))
    bottoms = bottoms[~np.isnan(bottoms).any(1)]
    if len(bottoms) < (1 - MOST_LOST) * DRAWS:
        raise CannotFitError(f"{where} is too flat for its noise: many redrawn surfaces have no minimum")
    # Far draws of a flat surface would make the variance a matter of chance: the middle 90% measure it.
    low, high = np.quantile(bottoms, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    errors = (high - low) / (2 * stats.norm.ppf((1 + LEVEL) / 2))
    return Optimum(model, params, bottom, np.diag(errors**2))
