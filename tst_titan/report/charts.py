"""Line charts and heat maps as SVG: one renderer for figure files and for the report.

Colours are CSS variables, so the same marks follow the reader's light or dark setting; lines differ in dash as well
as in colour. The report's script reads values back from the points' coordinates (0.01 px) and the `data-` attributes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from tst_titan.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    extent,
    scale,
    squeeze,
    tick_text,
    ticks,
)
from tst_titan.report.row_charts import RowChart, row_chart_body

# Okabe and Ito's palette, without its yellow; slot 0 is the baseline's neutral.
NUM_COLORS = 7
STYLE = """
:root { --bg: #ffffff; --fg: #1c2126; --muted: #646d76; --grid: #e4e7ea;
  --c0: #5b636b; --c1: #c44e00; --c2: #0068a8; --c3: #00845f; --c4: #a8447c; --c5: #9a6a00; --c6: #2a8fc4; }
@media (prefers-color-scheme: dark) { :root { --bg: #14181c; --fg: #e6e9ec; --muted: #98a2ac; --grid: #2b3239;
  --c0: #a9b2bb; --c1: #f08a4b; --c2: #5fb0e8; --c3: #3fc79a; --c4: #e08fbd; --c5: #e0b040; --c6: #8fd0f5; } }
"""
CHART_STYLE = """
.chart text { font: 12px system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: var(--muted); }
.chart .title { font-size: 14px; font-weight: 600; fill: var(--fg); }
.chart .grid { stroke: var(--grid); stroke-width: 1; fill: none; }
.chart .axis { stroke: var(--muted); stroke-width: 1; fill: none; }
.chart .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.chart .faint { stroke-width: 1.2; opacity: .5; }
.chart .dashed { stroke-dasharray: 5 4; }
.chart .mark { stroke: var(--muted); stroke-dasharray: 2 3; }
.chart .level { stroke: var(--muted); stroke-dasharray: 7 3; }
.chart .ring { fill: var(--bg); stroke-width: 1.8; }
.chart .bar { fill-opacity: .75; }
.chart .cell { stroke: var(--bg); }
.chart .cell-text { text-anchor: middle; font-size: 10.5px; fill: var(--fg); }
.chart .best { fill: none; stroke: var(--fg); stroke-width: 2; }
.chart .same { fill: none; stroke: var(--fg); stroke-width: 1.2; stroke-dasharray: 3 2; }
""" + "\n".join(
    f".chart .s{i} {{ stroke: var(--c{i}); }} .chart .f{i} {{ fill: var(--c{i}); }}"
    for i in range(NUM_COLORS)
)

LineStyle = Literal["solid", "faint", "dashed", "points", "points+line", "rings"]


@dataclass(frozen=True)
class Line:
    """One series; `low` and `high` are the ends of error bars. NaN in `y` breaks a line. Rings are published values."""

    name: str
    color: int
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
    color: int = 2
    caption: str = ""


Chart = Panel | HeatMap | RowChart


def chart_svg(chart: Chart, *, x: int | None = None, y: int | None = None) -> str:
    """One chart as an `<svg>` element of `WIDTH` by `HEIGHT` units, without styles; nested where `x`, `y` are given."""
    place = "" if x is None else f' x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"'
    if isinstance(chart, Panel):
        body, data = _panel(chart)
    else:
        body, data = row_chart_body(chart) if isinstance(chart, RowChart) else _heat_map(chart), ""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}"{place}{data}>'
        f'<text class="title" x="{8 if isinstance(chart, RowChart) else LEFT}" y="18">{escape(chart.title)}</text>{body}</svg>'
    )


def figure_svg(charts: Iterable[Chart], *, columns: int = 2) -> str:
    """Charts side by side as one file: a whole SVG with its own styles, a legend and nothing from elsewhere."""
    charts = list(charts)
    columns = min(columns, len(charts))
    names = legend(charts)
    head = 34 if names else 8
    width = WIDTH * columns + 20
    height = head + HEIGHT * math.ceil(len(charts) / columns) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}{CHART_STYLE}</style>",
        f'<rect width="{width}" height="{height}" style="fill: var(--bg)"/>',
        '<g class="chart">',
    ]
    left = 10 + LEFT
    for name, color in names.items():
        parts.append(f'<line class="line s{color}" x1="{left}" x2="{left + 22}" y1="20" y2="20"/>')
        parts.append(f'<text x="{left + 28}" y="24">{escape(name)}</text>')
        left += 28 + 7 * len(name) + 24
    parts.append("</g>")
    for index, chart in enumerate(charts):
        row, column = divmod(index, columns)
        parts.append(chart_svg(chart, x=10 + column * WIDTH, y=head + row * HEIGHT))
    return "".join([*parts, "</svg>\n"])


def legend(charts: Iterable[Chart]) -> dict[str, int]:
    """Names of the series of all charts with their colours, in order of appearance."""
    names: dict[str, int] = {}
    for chart in charts:
        if isinstance(chart, Panel):
            names |= {line.name: line.color for line in chart.lines}
        elif isinstance(chart, RowChart):
            names |= {row.series: row.color for row in chart.rows}
    return names


def _panel(panel: Panel) -> tuple[str, str]:
    x_low, x_high = panel.x_range or extent([line.x for line in panel.lines], panel.x_log, 0.02)
    if panel.end_labels:
        x_high += 0.13 * (x_high - x_low)
    spreads = [
        values for line in panel.lines for values in (line.y, line.low, line.high) if values is not None
    ]
    spreads.append(np.array([level for level, _ in panel.levels]))
    y_low, y_high = panel.y_range or extent(spreads, panel.y_log, 0.06)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    to_x = scale(x_low, x_high, LEFT, right, panel.x_log)
    to_y = scale(y_low, y_high, bottom, TOP, panel.y_log)
    parts = []
    y_ticks, x_ticks = ticks(y_low, y_high, panel.y_log), panel.x_ticks or ticks(x_low, x_high, panel.x_log)
    for tick in y_ticks:
        y = float(to_y(np.array(tick)))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick, y_ticks)}</text>'
        )
    for tick in x_ticks:
        x = float(to_x(np.array(tick)))
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick_text(tick, x_ticks)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(panel.y_label)}</text>'
    )
    for value, text in panel.marks:
        x = float(to_x(np.array(value)))
        anchor, shift = ("end", -4) if x > (LEFT + right) / 2 else ("start", 4)
        parts.append(f'<path class="mark" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(text)}</text>')
    for value, text in panel.levels:
        y = float(to_y(np.array(value)))
        parts.append(f'<path class="level" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{right - 4}" y="{y - 5:.1f}" text-anchor="end">{escape(text)}</text>')
    # A nested element cuts off what lies outside of the axes; its coordinates are the chart's own.
    box = f'x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"'
    parts.append(f'<svg {box} viewBox="{LEFT} {TOP} {right - LEFT} {bottom - TOP}">')
    parts += [_line(line, to_x, to_y, (x_low, x_high)) for line in panel.lines]
    parts.append("</svg>")
    if panel.end_labels:
        parts += _end_labels(panel, to_x, to_y, (y_low, y_high))
    data = (
        f' data-x="{x_low} {x_high} {int(panel.x_log)}" data-y="{y_low} {y_high} {int(panel.y_log)}"'
        f' data-box="{LEFT} {TOP} {right} {bottom}" data-labels="{escape(panel.x_label)}|{escape(panel.y_label)}"'
    )
    return "".join(parts), data


def _line(line: Line, to_x: Callable, to_y: Callable, x_range: tuple[float, float]) -> str:
    inside = np.isfinite(line.y) & (line.x >= x_range[0]) & (line.x <= x_range[1])
    px, py = to_x(line.x), to_y(line.y)
    attributes = f'data-name="{escape(line.name)}" data-detail="{escape(line.detail)}"'
    parts = []
    if line.style not in ("points", "rings"):
        path = "".join(
            f"{'L' if index and inside[index - 1] else 'M'}{px[index]:.2f} {py[index]:.2f}"
            for index in np.flatnonzero(inside)
        )
        style = {"faint": " faint", "dashed": " dashed"}.get(line.style, "")
        parts.append(f'<path class="line s{line.color}{style}" d="{path}"/>')
    if line.low is not None and line.high is not None:
        low, high = to_y(line.low), to_y(line.high)
        bars = "".join(f"M{px[i]:.2f} {low[i]:.2f}V{high[i]:.2f}" for i in np.flatnonzero(inside))
        parts.append(f'<path class="line s{line.color}" d="{bars}" data-bars="1"/>')
    if line.style in ("points", "points+line", "rings"):
        look = f"ring s{line.color}" if line.style == "rings" else f"f{line.color}"
        dots = (
            f'<circle class="{look}" cx="{px[i]:.2f}" cy="{py[i]:.2f}" r="{4.5 if line.style == "rings" else 3.2}"/>'
            for i in np.flatnonzero(inside)
        )
        parts.append("".join(dots))
    return f'<g class="series" {attributes}>{"".join(parts)}</g>'


def _end_labels(panel: Panel, to_x: Callable, to_y: Callable, y_range: tuple[float, float]) -> list[str]:
    ends = []
    for line in panel.lines:
        if line.style == "rings":
            continue
        shown = np.flatnonzero(np.isfinite(line.y) & (line.y >= y_range[0]) & (line.y <= y_range[1]))
        if len(shown):
            last = shown[-1]
            ends.append((float(to_y(line.y[last])), float(to_x(line.x[last])), line.name))
    parts, free = [], -math.inf
    for y, x, name in sorted(ends):
        free = max(y, free + 12)
        parts.append(
            f'<text x="{x + 7:.1f}" y="{free + 4:.1f}" style="font-size: 10.5px">{escape(name)}</text>'
        )
    return parts


def _heat_map(chart: HeatMap) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    cell_width = (right - LEFT) / len(chart.columns)
    cell_height = (bottom - TOP) / len(chart.rows)
    losses = chart.values if chart.lower_is_better else -chart.values
    finite = losses[np.isfinite(losses)]
    # The worst cells (long superposition of large bags) are far off: colour resolves the better 80%.
    low, high = finite.min(), np.quantile(finite, 0.8)
    parts, outlines = [], []
    for row, row_name in enumerate(chart.rows):
        y = TOP + row * cell_height
        parts.append(
            f'<text x="{LEFT - 7}" y="{y + cell_height / 2 + 4:.1f}" text-anchor="end">{escape(row_name)}</text>'
        )
        for column, column_name in enumerate(chart.columns):
            value = chart.values[row, column]
            if not math.isfinite(value):
                continue
            x = LEFT + column * cell_width
            box = f'x="{x:.1f}" y="{y:.1f}" width="{cell_width:.1f}" height="{cell_height:.1f}"'
            share = 1 - min(1.0, (losses[row, column] - low) / (high - low)) if high > low else 1.0
            hint = f"{chart.y_label} = {row_name}, {chart.x_label} = {column_name}"
            parts.append(
                f'<rect class="cell f{chart.color}" {box} fill-opacity="{0.06 + 0.74 * share:.3f}">'
                f"<title>{escape(hint)}: {value:.4f}</title></rect>"
            )
            if len(chart.columns) <= 16:
                text = f"{value:.3f}"
                parts.append(
                    f'<text class="cell-text" x="{x + cell_width / 2:.1f}" y="{y + cell_height / 2 + 4:.1f}"'
                    f"{squeeze(text, cell_width)}>{text}</text>"
                )
            if (row, column) == chart.best or (row, column) in chart.same:
                kind = "best" if (row, column) == chart.best else "same"
                outlines.append(f'<rect class="{kind}" {box}/>')
    for column, column_name in enumerate(chart.columns):
        x = LEFT + (column + 0.5) * cell_width
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(column_name)}</text>')
    middle = (TOP + bottom) / 2
    parts += outlines
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(chart.y_label)}</text>'
    )
    return "".join(parts)
