"""Comparisons in plain words, whichever way they fall."""

import math
from typing import Any

import pandas as pd

from tst_titan.compare.equal_loss import LARGEST_EXPONENT, ReadOff
from tst_titan.compare.grids import Grid
from tst_titan.compare.intervals import Interval
from tst_titan.compare.over_sizes import PooledDifference
from tst_titan.compare.paired import Difference

# Cells named in a sentence.
MOST_CELLS = 6
COLUMN_NAMES = {"validation_loss": "validation loss", "final_train_loss": "final training loss"}


def column_name(column: str) -> str:
    return COLUMN_NAMES.get(column, column)


def difference_words(item: Difference, at: str = "equal FLOPs") -> str:
    """One sentence: ``At equal FLOPs (270M, 20000 steps), tst ends 0.0700 nats below the baseline ...``."""
    unit = " nats" if item.column in COLUMN_NAMES else ""
    size = abs(item.value)
    if round(size, 4) == 0:
        verdict = f"ends level with the baseline in {column_name(item.column)}"
    else:
        side = "below" if item.value < 0 else "above"
        better = ""
        if item.column in COLUMN_NAMES:
            better = " (better)" if item.value < 0 else " (worse)"
        verdict = f"ends {size:.4f}{unit} {side} the baseline in {column_name(item.column)}{better}"
    values = f"{item.arm_value:.4f} against {item.baseline_value:.4f}"
    return (
        f"At {at} ({item.model}, {item.steps} steps), {item.label} {verdict}: {values}. "
        f"{certainty(item)}{_remark(item)}"
    )


def certainty(item: Difference) -> str:
    """The interval of a difference and whether it excludes zero."""
    low, high = item.interval.low, item.interval.high
    if low is None or high is None:
        return f"No interval: {item.interval.absent_because}."
    kind = "paired by seed" if item.paired else "unpaired"
    p_value = "" if item.p_value is None else f", p = {item.p_value:.2g}"
    told = "zero is outside of it" if low > 0 or high < 0 else "zero is inside: seeds do not tell the two apart"
    words = f"90% interval {low:+.4f} to {high:+.4f} ({item.num_pairs} seeds, {kind}{p_value}); {told}."
    return f"{words}{_together(item)}"


def _together(item: Difference) -> str:
    """The interval that holds for all arms of one baseline at once."""
    if item.simultaneous is None or item.simultaneous.low is None or item.simultaneous.high is None:
        return ""
    low, high = item.simultaneous.low, item.simultaneous.high
    told = "zero is outside of it" if low > 0 or high < 0 else "zero is inside"
    return f" For all {item.num_arms} arms against this baseline together: {low:+.4f} to {high:+.4f}; {told}."


def pooled_words(item: PooledDifference) -> str:
    """A difference over several models, with the interval for models like these and new seeds."""
    unit = " nats" if item.column in COLUMN_NAMES else ""
    low, high = item.interval.low, item.interval.high
    told = "zero is inside" if low is not None and high is not None and low <= 0 <= high else "zero is outside of it"
    return (
        f"At {item.kind} over {item.models} together (the longest budget of each), {item.label} minus the baseline is "
        f"{item.value:+.4f}{unit} in {column_name(item.column)}: 90% interval {low:+.4f} to {high:+.4f} for models "
        f"like these and new seeds ({len(item.seeds)} seeds, p = {item.p_value:.2g}); {told}."
    )


def read_off_words(item: ReadOff) -> str:
    """One sentence about an equal-loss read-off, a bound said to be one."""
    what = f"{column_name(item.column)} of {item.loss:.4f}"
    start = f"At equal loss ({item.model}), {item.label} after {item.steps} steps has a {what};"
    if item.bound == "at least":
        found = (
            f" the baseline does not reach it in its largest budget of {item.baseline_steps:.0f} steps: "
            f"a speedup of at least {item.speedup:.2f}x (a bound, not a measurement)."
        )
    elif item.bound == "at most":
        found = (
            f" the baseline is already below it in its smallest budget of {item.baseline_steps:.0f} steps: "
            f"a speedup of at most {item.speedup:.2f}x (a bound, not a measurement)."
        )
    elif item.shapes is not None:
        low, high = item.shapes
        found = (
            " two baseline budgets do not tell the shape of the curve between them: it reaches that loss after "
            f"{low:.0f} steps (as a power law of exponent {LARGEST_EXPONENT}) to {high:.0f} steps (as a straight line "
            f"in log steps): {shape_words(item)}."
        )
    else:
        found = f" the baseline needs {item.baseline_steps:.0f} steps for it: a speedup of {item.speedup:.2f}x."
    against = (
        ""
        if item.curve_holds
        else f" The baseline's budgets do not lie on such a curve (lack of fit, p = {item.misfit:.2g}): do not trust the read-off or its interval."  # noqa: E501
    )
    return f"{start}{found} {interval_words(item.interval)}{against}{_remark(item)}"


def _remark(item: Difference | ReadOff) -> str:
    """What a reader must know of how the runs were chosen, as one more sentence."""
    return f" {item.remark[0].upper()}{item.remark[1:]}." if item.remark else ""


def shape_words(item: ReadOff) -> str:
    """``a speedup of 2.18x to 2.56x``: what the shape of the baseline's curve may be, without the noise between
    seeds."""
    low, high = item.shape_speedups or (item.speedup, item.speedup)
    return f"a speedup of {low:.2f}x to {high:.2f}x"


def interval_words(interval: Interval, unit: str = "x") -> str:
    """``90% interval 1.75x to 1.90x``, one-sided or absent where it is."""
    if interval.low is None or interval.high is None:
        return f"No interval: {interval.absent_because}."
    if interval.high == math.inf:
        return f"90% interval: one-sided, above {interval.low:.2f}{unit}."
    if interval.low == 0:
        return f"90% interval: one-sided, below {interval.high:.2f}{unit}."
    return f"90% interval {interval.low:.2f}{unit} to {interval.high:.2f}{unit}."


def grid_words(grid: Grid) -> str:
    """The best cell of a grid, the cells that may be as good, and how far its value flatters."""
    ratio, size = grid.best_cell
    start = (
        f"{column_name(grid.column).capitalize()} of {grid.name}: the best cell is s = {size}, r = {ratio:g} "
        f"({grid.best_value:.4f})"
    )
    same, noise = grid.plausibly_best(), grid.noise()
    if same is None or noise is None:
        return (
            f"{start}; which cells are as good is not known: one seed a cell, and too few cells for a smooth surface."
        )
    source = "between seeds" if grid.spread is not None else "of single cells around a smooth surface"
    places = sorted(same, key=lambda place: grid.losses[place])[:MOST_CELLS]
    cells = ", ".join(f"s = {grid.bag_sizes[column]} r = {grid.step_ratios[row]:g}" for row, column in places)
    more = f" and {len(same) - MOST_CELLS} more" if len(same) > MOST_CELLS else ""
    told = f"{start}; with noise of {noise:.4f} {source}, {len(same)} cells are not told apart from it ({cells}{more})."
    optimism = grid.optimism()
    if optimism is None:
        return told
    return f"{told} As the best of many its value flatters by about {optimism:.4f}: confirm it with new seeds."


def comparison_cells(row: dict[str, Any]) -> list[str]:
    """One row of `comparisons_table` as people read it: see `COMPARISON_HEADER`; last, its published value."""
    speedup = row["kind"] == "speedup"
    baseline = f"{row['baseline_value']:.0f} steps" if speedup else f"{row['baseline_value']:.4f}"
    value = value_words(row["value"], row["bound"], speedup)
    if pd.notna(row["shape_low"]):
        value = f"{row['shape_low']:.2f}× to {row['shape_high']:.2f}× (shape not known)"
    published = "" if pd.isna(row["published"]) else value_words(row["published"], row["published_bound"], speedup)
    if pd.isna(row["low"]):
        interval = f"none ({row['remark'].partition(':')[0]})"
    elif speedup:
        interval = interval_words(Interval(row["low"], row["high"]), "×").removeprefix("90% interval").strip(": .")
    else:
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
    p_value = "" if pd.isna(row["p_value"]) else f"{row['p_value']:.2g}"
    cells = [row["comparison"], row["model"], str(row["steps"]), row["arm"]]
    return [*cells, f"{row['arm_value']:.4f}", baseline, value, interval, p_value, published]


def value_words(value: float, bound: str, speedup: bool) -> str:
    """``+0.0123``, or a speedup: ``≥ 2.50×``."""
    sign = {"at least": "≥ ", "at most": "≤ "}.get(bound, "")
    return f"{sign}{value:.2f}×" if speedup else f"{value:+.4f}"


COMPARISON_HEADER = [
    "comparison",
    "model",
    "steps",
    "arm",
    "arm's loss",
    "baseline",
    "difference or speedup",
    "90% interval",
    "p",
    "published",
]
