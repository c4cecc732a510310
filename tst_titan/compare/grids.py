"""Grids of bag size by step ratio: the best cell, the cells not told apart from it, and how far its value flatters.

Noise of one cell: between seeds; with one seed a cell, how far the cells near the bottom lie off a smooth surface
(`surface.py`), which counts what the surface cannot follow as noise, so too much rather than too little. The best of
many noisy cells looks better than it is: by how much is simulated on that surface with that noise.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from tst_titan.compare.surface import Surface, TooFewCellsError, fit_surface
from tst_titan.compare.variants import RECIPE, ambiguous, is_baseline

Cell = tuple[float, int]
# What all cells of one grid share.
SETTING = ["model", "steps", "learning_rate", "bag_weighting", "superpose", "reinit_embeddings", *RECIPE]
CONFIDENCE = 0.95
# Fewer degrees of freedom than this around a surface are no measure of noise.
FEWEST_DEGREES = 4
DRAWS = 2000


@dataclass(frozen=True)
class Grid:
    """Means over seeds of one number, shape [step ratios, bag sizes], NaN where no cell is; `setting` tells grids
    apart.

    `spread` is the standard deviation between seeds of one cell, `degrees` its degrees of freedom; None and 0
    where every cell has one seed. `baseline` is the mean at equal FLOPs, None where there is none.
    """

    name: str
    setting: tuple[str, ...]
    column: str
    step_ratios: tuple[float, ...]
    bag_sizes: tuple[int, ...]
    means: np.ndarray
    counts: np.ndarray
    spread: float | None
    degrees: int
    baseline: float | None
    lower_is_better: bool = True

    @cached_property
    def losses(self) -> np.ndarray:
        """The means, turned so that lower is better."""
        return self.means if self.lower_is_better else -self.means

    @property
    def best(self) -> tuple[int, int]:
        """Row and column of the best mean."""
        row, column = np.unravel_index(int(np.nanargmin(self.losses)), self.means.shape)
        return int(row), int(column)

    @property
    def best_cell(self) -> Cell:
        return self.step_ratios[self.best[0]], self.bag_sizes[self.best[1]]

    @property
    def best_value(self) -> float:
        return float(self.means[self.best])

    def indistinguishable(self) -> frozenset[tuple[int, int]] | None:
        """Cells that the seeds do not tell apart from the best one; None where there is one seed.

        Estimator: one-sided t tests against the best cell with the pooled spread, at 95% over all cells together
        (Bonferroni), so that the truly best cell is left out with at most 5% probability.
        """
        return None if self.spread is None else self._not_told_apart(self.spread, self.degrees)

    def plausibly_best(self) -> frozenset[tuple[int, int]] | None:
        """As `indistinguishable`, with one seed a cell by the noise around the smooth surface; None where no noise is
        known."""
        if self.spread is not None or self.surface is None:
            return self.indistinguishable()
        return self._not_told_apart(self.surface.misfit, self.surface.degrees)

    def _not_told_apart(self, spread: float, degrees: int) -> frozenset[tuple[int, int]]:
        num_others = max(1, int(np.isfinite(self.means).sum()) - 1)
        factor = float(stats.t.ppf(1 - (1 - CONFIDENCE) / num_others, degrees))
        errors = spread * np.sqrt(1 / np.maximum(self.counts, 1) + 1 / self.counts[self.best])
        return self._cells(self.losses - self.losses[self.best] <= factor * errors)

    @cached_property
    def surface(self) -> Surface | None:
        """The smooth surface of the losses; None where the cells allow none with a measure of its misfit."""
        rows, columns = np.nonzero(np.isfinite(self.losses))
        points = self._points(rows, columns)
        try:
            surface = fit_surface(points[:, 0], points[:, 1], self.losses[rows, columns])
        except TooFewCellsError:
            return None
        return surface if surface.degrees >= FEWEST_DEGREES else None

    def _points(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        sizes, ratios = np.log(np.array(self.bag_sizes, dtype=float)), np.array(self.step_ratios)
        return np.stack([sizes[columns], ratios[rows]], axis=1)

    def noise(self) -> float | None:
        """Standard deviation of one run's value; None where neither seeds nor a surface tell it."""
        if self.spread is not None:
            return self.spread
        return None if self.surface is None else self.surface.misfit

    def optimism(self) -> float | None:
        """How much better than its own mean the best cell looks, for being the best of all, in units of the column."""
        noise = self.noise()
        if noise is None or self.surface is None:
            return None
        rows, columns = np.nonzero(np.isfinite(self.losses))
        near = self.surface.near
        truth = self.surface.at(self._points(rows, columns)[near])
        errors = noise / np.sqrt(self.counts[rows, columns][near])
        drawn = errors * np.random.default_rng(0).standard_normal((DRAWS, len(truth)))
        best = (truth + drawn).argmin(1)
        return float(-drawn[np.arange(DRAWS), best].mean())

    def _cells(self, mask: np.ndarray) -> frozenset[tuple[int, int]]:
        return frozenset((int(row), int(column)) for row, column in np.argwhere(mask & np.isfinite(self.means)))

    def cells(self, positions: frozenset[tuple[int, int]]) -> list[Cell]:
        """Positions as (step ratio, bag size), sorted."""
        return sorted((self.step_ratios[row], self.bag_sizes[column]) for row, column in positions)


def find_grids(table: pd.DataFrame, column: str, *, lower_is_better: bool = True) -> list[Grid]:
    """The grids in a table of runs: settings with at least three bag sizes, or two of them and two step ratios."""
    table = table[table[column].notna() & ~ambiguous(table)]
    bags = table[~is_baseline(table)]
    keys = [name for name in SETTING if name in table.columns]
    grids = []
    for setting, cells in bags.groupby(keys, dropna=False, sort=False):
        num_sizes, num_ratios = cells["bag_size"].nunique(), cells["step_ratio"].nunique()
        if num_sizes < 3 and (num_sizes < 2 or num_ratios < 2):
            continue
        values = dict(zip(keys, setting, strict=True))
        baseline = table[is_baseline(table)]
        for name in ("model", "steps", "learning_rate", *RECIPE):
            if name in values and not pd.isna(values[name]):
                baseline = baseline[baseline[name] == values[name]]
        of_model = bags[bags["model"] == values["model"]]
        varying = [name for name in keys[2:] if (of_model if name in RECIPE else bags)[name].nunique(dropna=False) > 1]
        settings = [f"{key} {values[key]}" if key in RECIPE else str(values[key]) for key in varying]
        name = ", ".join([f"{values['model']}, {values['steps']} steps", *settings])
        grids.append(_grid(name, tuple(map(str, setting)), column, cells, baseline, lower_is_better))
    return grids


def _grid(
    name: str,
    setting: tuple[str, ...],
    column: str,
    cells: pd.DataFrame,
    baseline: pd.DataFrame,
    lower_is_better: bool,
) -> Grid:
    ratios = tuple(sorted(float(value) for value in cells["step_ratio"].unique()))
    sizes = tuple(sorted(int(value) for value in cells["bag_size"].unique()))
    means = np.full((len(ratios), len(sizes)), np.nan)
    counts = np.zeros_like(means)
    by_seed = cells.pivot_table(index=["step_ratio", "bag_size"], columns="seed", values=column, aggfunc="mean")
    values = by_seed.to_numpy(dtype=float)
    for (ratio, size), row in zip(by_seed.index, values, strict=True):
        place = ratios.index(float(ratio)), sizes.index(int(size))
        means[place], counts[place] = np.nanmean(row), np.isfinite(row).sum()
    spread, degrees = _spread(values)
    level = float(baseline[column].astype(float).mean()) if len(baseline) else None
    return Grid(name, setting, column, ratios, sizes, means, counts, spread, degrees, level, lower_is_better)


def _spread(values: np.ndarray) -> tuple[float | None, int]:
    """Standard deviation between seeds within cells [cells, seeds]; a seed's common shift is no noise between cells."""
    residuals = values - np.nanmean(values, axis=1, keepdims=True)
    if np.isfinite(values).all() and values.shape[0] > 1:
        residuals = residuals - residuals.mean(axis=0, keepdims=True)
        degrees = (values.shape[0] - 1) * (values.shape[1] - 1)
    else:
        degrees = int((np.isfinite(values).sum(axis=1) - 1).sum())
    if degrees == 0:
        return None, 0
    return float(np.sqrt(np.nansum(residuals**2) / degrees)), degrees
