"""Lines over an axis: curves with their switch, points with error bars, rings for published values; zoomed and dragged
in the page."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np

from tst_titan.report.charts import Line, Panel, Series
from tst_titan.report.layers import HEIGHT, SHOWN, Layers, Records, extent, range_scale, rounded, series_color
from tst_titan.report.theme import BACKGROUND, dash_of

_X, _Y = alt.X("x:Q"), alt.Y("y:Q")
_WORDS = alt.Text("text:N")


def panel_layers(panel: Panel, names: Mapping[str, Series], layers: Layers) -> int:
    """Add the layers of a panel; returns its height."""
    x_low, x_high = panel.x_range or extent([line.x for line in panel.lines], panel.x_log, 0.02)
    if panel.end_labels:
        x_high += 0.18 * (x_high - x_low)
    spreads = [values for line in panel.lines for values in (line.y, line.low, line.high) if values is not None]
    levels = np.array([level for level, _ in panel.levels])
    y_range = panel.y_range or extent([*spreads, levels], panel.y_log, 0.06)
    ticks = {"values": list(panel.x_ticks)} if panel.x_ticks else {"tickCount": 6}
    # Axes and scales are told once: the other layers share them.
    x_scale, y_scale = range_scale((x_low, x_high), panel.x_log), range_scale(y_range, panel.y_log)
    x = alt.X("x:Q", title=panel.x_label, axis=alt.Axis(**ticks), scale=x_scale)
    y = alt.Y("y:Q", title=panel.y_label, axis=alt.Axis(tickCount=6), scale=y_scale)
    _add_series(panel, names, layers, x, y)
    if panel.levels:
        base = layers.over("levels", [{"y": level, "text": text} for level, text in panel.levels]).encode(_Y)
        layers.add("levels", base.mark_rule(style="level", clip=True))
        words = base.mark_text(style="note", align="right", dx=-4, dy=-7, clip=True)
        layers.add("levels_text", words.encode(alt.XValue("width"), _WORDS))
    if panel.marks:
        _add_switches(panel, layers, (x_low + x_high) / 2)
    if panel.end_labels:
        ends = layers.over("ends", _end_labels(panel, y_range)).transform_filter(SHOWN)
        words = ends.mark_text(style="note", align="left", dx=7, clip=True)
        layers.add("ends", words.encode(_X, _Y, alt.Text("series:N")))
    layers.charts[0] = layers.charts[0].add_params(_zoom(layers.index))
    return HEIGHT


def _zoom(index: int) -> alt.Parameter:
    """The page scrolls as ever: the wheel zooms with Ctrl or Command held, and only a mouse drags. A double click goes
    back."""
    return alt.selection_interval(
        name=f"zoom{index}",
        bind="scales",
        zoom="wheel![event.ctrlKey || event.metaKey]",
        translate="[pointerdown[event.pointerType == 'mouse'], window:pointerup] > window:pointermove!",
    )


def _add_series(panel: Panel, names: Mapping[str, Series], layers: Layers, x: alt.X, y: alt.Y) -> None:
    styles = {line.style for line in panel.lines}
    bars = any(line.low is not None for line in panel.lines)
    color = series_color(names)
    common: dict[str, Any] = {"low": [], "high": []} if bars else {}
    records = [common | _record(line) | {"line": index} for index, line in enumerate(panel.lines)]
    shown = layers.over("lines", records).transform_filter(SHOWN)
    points = shown.transform_flatten(["x", "y", *(("low", "high") if bars else ())])
    drawn = points.transform_filter("datum.style != 'points' && datum.style != 'rings'")
    layers.add("lines", drawn.mark_line(clip=True).encode(x, y, color, *_look(names)))
    if bars:
        ends = points.transform_filter("isValid(datum.low) && isValid(datum.y)").mark_rule(clip=True, strokeWidth=1.8)
        layers.add("bars", ends.encode(_X, alt.Y("low:Q"), alt.Y2("high:Q"), color))
    if styles & {"points", "points+line"}:
        dots = points.transform_filter("datum.style == 'points' || datum.style == 'points+line'")
        layers.add("points", dots.mark_point(style="dot", clip=True).encode(_X, _Y, color))
    if "rings" in styles:
        rings = points.transform_filter("datum.style == 'rings' && isValid(datum.y)")
        stroke = series_color(names, alt.Stroke)
        layers.add("rings", rings.mark_point(style="ring", fill=BACKGROUND[0], clip=True).encode(_X, _Y, stroke))


def _record(line: Line) -> dict[str, Any]:
    """One record a line, its points as arrays, which the specification flattens: half the size of a record a point."""
    record: dict[str, Any] = {"series": line.name, "style": line.style, "detail": line.detail}
    for name in ("x", "y", "low", "high"):
        values = getattr(line, name)
        if values is not None:
            record[name] = [rounded(float(value)) for value in values]
    return record


def _look(names: Mapping[str, Series]) -> tuple[Any, ...]:
    """What tells lines apart besides their colour: dashes, and how strong they are drawn."""
    dashes = [list(dash_of(series.slot, series.fitted)) for series in names.values()]
    dash = alt.Scale(domain=list(names), range=dashes)
    styles = ["solid", "dashed", "points+line", "faint"]
    opacity, width = (
        alt.Scale(type="ordinal", domain=styles, range=values) for values in ([1, 1, 1, 0.5], [1.8, 1.8, 1.8, 1.2])
    )
    return (
        alt.Detail("line:N"),
        alt.StrokeDash("series:N", scale=dash),
        alt.Opacity("style:O", scale=opacity, legend=None),
        alt.StrokeWidth("style:O", scale=width, legend=None),
    )


def _add_switches(panel: Panel, layers: Layers, middle: float) -> None:
    """Vertical lines, their words on the side where there is room."""
    records = [{"x": x, "text": text, "side": "left" if x <= middle else "right"} for x, text in panel.marks]
    base = layers.over("switches", records).encode(_X)
    layers.add("switches", base.mark_rule(style="switch", clip=True))
    for side, shift in (("left", 4), ("right", -4)):
        words = base.transform_filter(f"datum.side == '{side}'").mark_text(
            style=["note", side], dx=shift, dy=7, clip=True
        )
        layers.add(f"switches_{side}", words.encode(alt.YValue(0), _WORDS))


def _end_labels(panel: Panel, y_range: tuple[float, float]) -> Records:
    """Each line's name at its last point inside of the axis, moved down where it would lie on another's."""
    ends = []
    for line in panel.lines:
        inside = np.flatnonzero(np.isfinite(line.y) & (line.y >= y_range[0]) & (line.y <= y_range[1]))
        if line.style != "rings" and len(inside):
            ends.append((float(line.y[inside[-1]]), float(line.x[inside[-1]]), line.name))
    apart = 12 * (y_range[1] - y_range[0]) / HEIGHT
    records, free = [], math.inf
    for y, x, name in sorted(ends, reverse=True):
        free = min(y, free - apart)
        records.append({"x": rounded(x), "y": rounded(free), "series": name})
    return records
