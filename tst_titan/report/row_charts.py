"""Charts with a row a thing: differences and speedups with their intervals, hours as bars."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from tst_titan.report.axes import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, extent, scale, squeeze, tick_text, ticks

MOST_ROWS = 14
# Units beside the axis for names and for values in words.
_NAMES, _VALUES = 176, 58


@dataclass(frozen=True)
class Row:
    """One value of one series. `low` and `high` are an interval's ends (infinite where it is one-sided), `bound` says which side the
    value bounds ("at least", "at most" or ""), `published` is the paper's value of the same, `text` the value in words.
    """

    name: str
    series: str
    color: int
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


def row_chart_body(chart: RowChart) -> str:
    """The marks and labels of a chart, without its title: what `charts.chart_svg` puts into its `<svg>`."""
    left, right, bottom = _NAMES, WIDTH - RIGHT - _VALUES, HEIGHT - BOTTOM
    low, high = _range(chart)
    to_x = scale(low, high, left, right, False)
    parts = []
    marks = ticks(low, high)
    for tick in marks:
        x = float(to_x(np.array(tick)))
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick_text(tick, marks)}</text>'
        )
    if chart.reference:
        x = float(to_x(np.array(chart.reference[0])))
        parts.append(f'<path class="level" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{TOP - 3}" text-anchor="middle">{escape(chart.reference[1])}</text>'
        )
    height = min(54.0, (bottom - TOP) / max(1, len(chart.rows)))
    for index, row in enumerate(chart.rows):
        parts.append(_row(row, chart.bars, to_x, (low, high), TOP + (index + 0.5) * height, height, left))
    parts.append(
        f'<text x="{(left + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    return "".join(parts)


def _range(chart: RowChart) -> tuple[float, float]:
    values = [row.value for row in chart.rows]
    values += [
        end for row in chart.rows for end in (row.low, row.high) if end is not None and math.isfinite(end)
    ]
    values += [row.published for row in chart.rows if row.published is not None]
    values += [0.0] if chart.bars else []
    values += [chart.reference[0]] if chart.reference else []
    low, high = extent([np.array(values)], False, 0.07)
    return (0.0 if chart.bars else low), high


def _row(
    row: Row,
    bars: bool,
    to_x: Callable[[np.ndarray], np.ndarray],
    limits: tuple[float, float],
    y: float,
    height: float,
    left: float,
) -> str:
    at = {name: float(to_x(np.array(value))) for name, value in (("value", row.value), ("zero", limits[0]))}
    hint = f"<title>{escape(row.name)}: {escape(row.text)}</title>"
    parts = [
        f'<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end"{squeeze(row.name, left - 10, 6.8)}>{escape(row.name)}</text>'
    ]
    if bars:
        thick = min(24.0, 0.64 * height)
        box = f'x="{at["zero"]:.1f}" y="{y - 0.5 * thick:.1f}" width="{max(0.0, at["value"] - at["zero"]):.1f}" height="{thick:.1f}"'
        parts.append(f'<rect class="bar f{row.color}" {box}>{hint}</rect>')
    else:
        if row.low is not None and row.high is not None:
            ends = [float(to_x(np.clip(end, *limits))) for end in (row.low, row.high)]
            parts.append(f'<path class="line s{row.color}" d="M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}"/>')
        parts.append(
            f'<circle class="f{row.color}" cx="{at["value"]:.1f}" cy="{y:.1f}" r="4">{hint}</circle>'
        )
        if row.bound:
            # An open arrow: the truth lies on this side.
            way = 1 if row.bound == "at least" else -1
            tip = at["value"] + 16 * way
            parts.append(
                f'<path class="line s{row.color}" d="M{at["value"]:.1f} {y:.1f}H{tip:.1f}m{-5 * way} -4l{5 * way} 4l{-5 * way} 4"/>'
            )
    if row.published is not None:
        x = float(to_x(np.array(row.published)))
        parts.append(
            f'<circle class="ring s{row.color}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>published: {row.published:.4g}</title></circle>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{y + 4:.1f}" text-anchor="end">{escape(row.text)}</text>')
    return f'<g class="series" data-name="{escape(row.series)}" data-detail="">{"".join(parts)}</g>'


def first_rows(rows: Sequence[Row]) -> tuple[tuple[Row, ...], str]:
    """The rows that one chart holds, and a sentence about the others."""
    if len(rows) <= MOST_ROWS:
        return tuple(rows), ""
    return tuple(rows[:MOST_ROWS]), f" Shown: {MOST_ROWS} of {len(rows)}; all are in comparisons.csv."
