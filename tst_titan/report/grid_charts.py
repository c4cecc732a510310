"""Figures over settings: heat maps and U-curves of grids, budgets with their read-off, learning rates."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from tst_titan.compare.equal_loss import fitted_losses
from tst_titan.compare.grids import Grid
from tst_titan.compare.variants import is_baseline, variants
from tst_titan.report.charts import Chart, HeatMap, Line, Panel
from tst_titan.report.words import column_name


def grid_charts(grid: Grid, published: Grid | None = None) -> list[Chart]:
    """A grid as heat map, with its best cell, and as curves over bag size, one a step ratio; with the published
    ones."""
    heat, curves = heat_map(grid), bag_size_curves(grid, published)
    if published is None:
        return [heat, curves]
    return [heat, replace(heat_map(published), title=f"Published: {published.name}"), curves]


def heat_map(grid: Grid) -> HeatMap:
    """Every cell's mean, the best outlined, those not told apart from it dashed."""
    same, noise = grid.plausibly_best(), grid.noise()
    ratio, size = grid.best_cell
    if same is None or noise is None:
        same = frozenset()
        told = "which cells are as good is not known (one seed a cell, and too few cells for a smooth surface)"
    elif grid.spread is not None:
        told = f"dashed: not told apart from it by the seeds (spread {noise:.4f})"
    else:
        told = f"dashed: not told apart from it by the noise of single cells around a smooth surface ({noise:.4f})"
    what = column_name(grid.column)
    return HeatMap(
        title=f"{what.capitalize()}: {grid.name}",
        x_label="bag size s",
        y_label="step ratio r",
        columns=tuple(str(value) for value in grid.bag_sizes),
        rows=tuple(f"{value:g}" for value in grid.step_ratios),
        values=grid.means,
        best=grid.best,
        same=same,
        lower_is_better=grid.lower_is_better,
        caption=f"Outlined: the best cell, s = {size}, r = {ratio:g} ({grid.best_value:.4f}); {told}.",
    )


def bag_size_curves(grid: Grid, published: Grid | None = None) -> Panel:
    """The mean over bag size, a line a step ratio and the baseline as a level; rings are the published cells."""
    what = column_name(grid.column)
    finite = grid.means[np.isfinite(grid.means)]
    levels = () if grid.baseline is None else ((grid.baseline, "baseline"),)
    spread = np.quantile(finite, [0.0, 0.8] if grid.lower_is_better else [0.2, 1.0])
    low, high = min(spread[0], grid.baseline or spread[0]), max(spread[1], grid.baseline or spread[1])
    pad = 0.08 * (high - low) or 0.01
    rings: tuple[Line, ...] = ()
    if published is not None:
        rings = tuple(
            Line(
                f"r = {value:g}",
                1 + grid.step_ratios.index(value),
                np.array(published.bag_sizes),
                published.means[row],
                "rings",
                detail="published",
            )
            for row, value in enumerate(published.step_ratios)
            if value in grid.step_ratios
        )
    return Panel(
        title=grid.name,
        x_label="bag size s",
        y_label=what,
        lines=tuple(
            Line(
                f"r = {value:g}",
                1 + row,
                np.array(grid.bag_sizes),
                grid.means[row],
                "points+line",
            )
            for row, value in enumerate(grid.step_ratios)
        )
        + rings,
        levels=levels,
        y_range=(low - pad, high + pad),
        x_ticks=tuple(float(value) for value in grid.bag_sizes),
        end_labels=True,
        caption="One line a step ratio; what lies outside of the axis is in the heat map."
        + (" Rings: published cells." if rings else ""),
    )


def _published_lines(rows: pd.DataFrame, axis: str, published: str | None, colors: dict[str, int]) -> list[Line]:
    """The published values of the rows as rings, a series a variant."""
    if published is None or published not in rows.columns:
        return []
    rows = rows[rows[published].notna()]
    return [
        replace(
            _budget_line(name, group, axis, published, colors),
            style="rings",
            low=None,
            high=None,
            detail="published",
        )
        for name, group in _by_label(rows)
    ]


def budget_panels(
    table: pd.DataFrame, column: str, colors: dict[str, int], published: str | None = None
) -> list[Panel]:
    """Final loss against steps (equal FLOPs) and against data tokens (equal data), for models with two budgets.

    The dashed curve through the baseline's budgets is the one that the equal-loss read-off inverts.
    """
    panels = []
    table = table[table[column].notna() & table["data_tokens"].notna()]
    for model, rows in table.groupby("model", sort=False):
        baseline = rows[is_baseline(rows)]
        if baseline["steps"].nunique() < 2 or is_baseline(rows).all():
            continue
        for axis, label in (("steps", "steps (equal FLOPs)"), ("data_tokens", "data tokens")):
            lines = [_budget_line(name, group, axis, column, colors) for name, group in _by_label(rows)]
            rings = _published_lines(rows, axis, published, colors)
            budgets = np.sort(baseline[axis].astype(float).unique())
            x = np.geomspace(budgets[0], budgets[-1], 60)
            means = baseline.groupby(axis)[column].mean().sort_index().to_numpy(dtype=float)
            fit = Line("baseline, fitted", 0, x, fitted_losses(budgets, means, x), "dashed")
            panels.append(
                Panel(
                    title=f"{column_name(column).capitalize()} by {'budget' if axis == 'steps' else 'data'}: {model}",
                    x_label=label,
                    y_label=f"{column_name(column)} (nats a token)",
                    lines=(fit, *lines, *rings),
                    x_log=True,
                    caption="Points: means over seeds, with their range. Dashed: the baseline's fitted curve."
                    + (" Rings: published." if rings else ""),
                )
            )
    return panels


def learning_rate_panels(
    table: pd.DataFrame, column: str, colors: dict[str, int], published: str | None = None
) -> list[Panel]:
    """Final loss against peak learning rate, for every model and budget that was trained at several (Figure 7)."""
    panels = []
    table = table[table[column].notna()]
    for (model, steps), rows in table.groupby(["model", "steps"], sort=False):
        if rows["learning_rate"].nunique() < 2:
            continue
        lines = []
        for arm, group in rows.groupby(["arm", "bag_size", "step_ratio"], sort=False):
            name = (
                str(arm[0])
                if rows[rows["arm"] == arm[0]]["bag_size"].nunique() == 1
                else f"{arm[0]} s={arm[1]} r={arm[2]}"
            )
            lines.append(_budget_line(name, group, "learning_rate", column, colors))
        rings = _published_lines(rows, "learning_rate", published, colors)
        panels.append(
            Panel(
                title=f"{column_name(column).capitalize()} by learning rate: {model}, {steps} steps",
                x_label="peak learning rate",
                y_label=f"{column_name(column)} (nats a token)",
                lines=(*lines, *rings),
                x_log=True,
                caption="Points: means over seeds, with their range." + (" Rings: published." if rings else ""),
            )
        )
    return panels


def _by_label(rows: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    groups: dict[str, list[pd.DataFrame]] = {}
    for label, group in variants(rows):
        groups.setdefault(label, []).append(group)
    return [(label, pd.concat(members)) for label, members in groups.items()]


def _budget_line(name: str, rows: pd.DataFrame, axis: str, column: str, colors: dict[str, int]) -> Line:
    by_x = rows.astype({axis: float, column: float}).groupby(axis)[column].agg(["mean", "min", "max"]).sort_index()
    arm = str(rows["arm"].iloc[0])
    return Line(
        name,
        colors.get(name, colors.get(arm, 0 if is_baseline(rows).all() else 1)),
        by_x.index.to_numpy(dtype=float),
        by_x["mean"].to_numpy(),
        "points+line",
        by_x["min"].to_numpy(),
        by_x["max"].to_numpy(),
    )
