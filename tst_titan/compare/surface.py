"""Polynomial surfaces of a grid's losses over log bag size and step ratio, by least squares near the grid's bottom.

A valley is seldom symmetric: a quadratic surface then has its bottom off the valley's, the more the wider the cells
lie. So the surface is the richest that the cells allow, of full cubic, cubic in log bag size alone, and quadratic, over
the better half of the cells (more where that is too few; far from its bottom a grid is no polynomial of low degree).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_CELLS, FEWEST_VALUES = 8, 3
# Shares of the cells, from the best, that the surface is fitted to: the first that holds enough of them.
SHARES = (0.5, 0.75, 1.0)
_QUADRATIC = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
_SKEWED = (*_QUADRATIC, (3, 0))
_CUBIC = (*_SKEWED, (2, 1), (1, 2), (0, 3))
# Terms as powers, and the distinct bag sizes, step ratios and cells that they need.
FORMS = ((_CUBIC, 4, 4, 14), (_SKEWED, 4, 3, 10), (_QUADRATIC, FEWEST_VALUES, FEWEST_VALUES, FEWEST_CELLS))
_STEPS = 12


class TooFewCellsError(ValueError):
    """No surface can be fitted; the message says what is missing."""


@dataclass(frozen=True)
class Surface:
    """A fitted surface. `near`: which cells it was fitted to; `misfit`: standard deviation of one cell around it."""

    near: np.ndarray
    weights: np.ndarray
    misfit: float
    degrees: int
    _powers: np.ndarray
    _center: np.ndarray
    _scale: np.ndarray
    _solve: np.ndarray
    _scaled: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """The surface's loss at points [n, 2] of log bag size and step ratio."""
        return _terms((points - self._center) / self._scale, self._powers) @ self.weights

    def redrawn(self, errors: np.ndarray) -> np.ndarray:
        """Weights [draws, terms] of surfaces refitted to the fitted cells' losses with errors [draws, cells] more."""
        return self.weights + errors @ self._solve.T

    def bottoms(self, weights: np.ndarray) -> np.ndarray:
        """The minimum next to the best cell of surfaces [draws, terms]: [draws, 2], NaN where none lies among the
        cells."""
        fitted = _terms(self._scaled, self._powers) @ self.weights
        place = np.tile(self._scaled[np.argmin(fitted)], (len(weights), 1))
        low, high = self._scaled.min(0), self._scaled.max(0)
        for _ in range(_STEPS):
            slope, bend = self._slope(place, weights)
            # Away from saddles too: down along every direction, and never farther than half a standard deviation.
            values, vectors = np.linalg.eigh(bend)
            along = np.einsum("dij,di->dj", vectors, slope) / np.maximum(np.abs(values), 1e-12)
            place = place + np.clip(-np.einsum("dij,dj->di", vectors, along), -0.5, 0.5)
        slope, bend = self._slope(place, weights)
        found = np.linalg.eigvalsh(bend)[:, 0] > 0
        found &= ((place >= low - 1e-9) & (place <= high + 1e-9)).all(1)
        return np.where(found[:, None], self._center + self._scale * place, np.nan)

    def _slope(self, place: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient [draws, 2] and Hessian [draws, 2, 2], each draw of its own surface at its own place."""
        first = [_derivative(place, self._powers, weights, orders) for orders in ((1, 0), (0, 1))]
        second = [_derivative(place, self._powers, weights, orders) for orders in ((2, 0), (1, 1), (0, 2))]
        bend = np.stack([np.stack(second[:2], 1), np.stack(second[1:], 1)], 1)
        return np.stack(first, 1), bend


def fit_surface(size: np.ndarray, ratio: np.ndarray, losses: np.ndarray) -> Surface:
    """The surface through cells of log bag size, step ratio and loss (lower is better), each of shape [cells]."""
    missing = ""
    for powers, sizes, ratios, cells in FORMS:
        for share in SHARES:
            near = losses <= np.quantile(losses, share)
            counted = len(np.unique(size[near])), len(np.unique(ratio[near])), int(near.sum())
            if counted[0] >= sizes and counted[1] >= ratios and counted[2] >= cells:
                break
        else:
            missing = _missing(counted, (sizes, ratios, cells))
            continue
        points = np.stack([size, ratio], axis=1)[near]
        center, scale = points.mean(0), points.std(0)
        scaled = (points - center) / scale
        design = _terms(scaled, np.array(powers))
        if np.linalg.matrix_rank(design) < design.shape[1]:
            missing = "too few cells off its rows and columns to tell bag size from step ratio"
            continue
        solve = np.linalg.pinv(design)
        weights = solve @ losses[near]
        degrees = len(scaled) - design.shape[1]
        misfit = float(np.sqrt(((losses[near] - design @ weights) ** 2).sum() / max(1, degrees)))
        return Surface(near, weights, misfit, degrees, np.array(powers), center, scale, solve, scaled)
    raise TooFewCellsError(missing)


def _missing(counted: Sequence[int], fewest: Sequence[int]) -> str:
    names = ("bag sizes", "step ratios", "cells")
    return next(
        f"{found} {name}: at least {least} are needed"
        for found, name, least in zip(counted, names, fewest, strict=True)
        if found < least
    )


def _terms(points: np.ndarray, powers: np.ndarray) -> np.ndarray:
    return points[:, :1] ** powers[:, 0] * points[:, 1:] ** powers[:, 1]


def _derivative(place: np.ndarray, powers: np.ndarray, weights: np.ndarray, orders: tuple[int, int]) -> np.ndarray:
    factors = np.ones(len(powers))
    for axis, order in enumerate(orders):
        for down in range(order):
            factors = factors * (powers[:, axis] - down)
    return (_terms(place, np.maximum(powers - orders, 0)) * factors * weights).sum(1)
