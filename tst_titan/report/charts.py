"""What a figure shows, as tables: lines over an axis, a heat map, or a row a thing. `declared` says how each is
drawn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MOST_ROWS = 14

LineStyle = Literal["solid", "faint", "dashed", "points", "points+line", "rings"]


@dataclass(frozen=True)
class Line:
    """One series in the colour of `slot`; `low` and `high` are the ends of error bars. NaN in `y` breaks a line. Rings
    are published values."""

    name: str
    slot: int
    x: np.ndarray
    y: np.ndarray
    style: LineStyle = "solid"
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    detail: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `marks` are vertical lines (x, text), `levels` horizontal ones (y, text);
    `end_labels` writes each line's name at its right end."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...] = ()
    levels: tuple[tuple[float, str], ...] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[float, ...] = ()
    end_labels: bool = False
    caption: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Values [rows, columns], NaN where no cell is; `best` is outlined, `same` (not told apart from it) dashed."""

    title: str
    x_label: str
    y_label: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: np.ndarray
    best: tuple[int, int]
    same: frozenset[tuple[int, int]]
    lower_is_better: bool = True
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """One value of one series, named in up to two lines. `low` and `high` are an interval's ends (infinite where it is
    one-sided), `bound` says which side the value bounds ("at least", "at most" or ""), `published` is the paper's value
    of the same, `text` the value in words.
    """

    name: tuple[str, ...]
    series: str
    slot: int
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    bound: str = ""
    published: float | None = None


@dataclass(frozen=True)
class RowChart:
    """Rows from top to bottom: bars from zero, or points against `reference` (a value and what it means)."""

    title: str
    x_label: str
    rows: tuple[Row, ...]
    bars: bool = False
    reference: tuple[float, str] | None = None
    caption: str = ""


Chart = Panel | HeatMap | RowChart


@dataclass(frozen=True)
class Series:
    """What a series looks like in all charts of a section; a fit is dashed."""

    slot: int
    fitted: bool = False


def legend(charts: Iterable[Chart]) -> dict[str, Series]:
    """The series of all charts by name, in order of appearance."""
    names: dict[str, Series] = {}
    for chart in charts:
        if isinstance(chart, Panel):
            for line in chart.lines:
                fitted = line.style == "dashed" or (line.name in names and names[line.name].fitted)
                names[line.name] = Series(line.slot, fitted)
        elif isinstance(chart, RowChart):
            names |= {row.series: Series(row.slot) for row in chart.rows}
    return names


def first_rows(rows: Sequence[Row]) -> tuple[tuple[Row, ...], str]:
    """The rows that one chart holds, and a sentence about the others."""
    if len(rows) <= MOST_ROWS:
        return tuple(rows), ""
    return tuple(rows[:MOST_ROWS]), f" Shown: {MOST_ROWS} of {len(rows)}; all are in comparisons.csv."
