"""A row a thing: differences and speedups with their intervals and bounds, hours as bars, each with its value in
words."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np

from tst_titan.report.charts import Row, RowChart, Series
from tst_titan.report.layers import SHOWN, Layers, extent, range_scale, rounded, series_color
from tst_titan.report.theme import BACKGROUND

# Room at the right of rows for their values in words.
VALUES = 72
_ROW, _LINE = 32, 14
_AXIS_LETTERS = 36
# One side only: the truth lies there.
_ARROWS = (("at least", 1, "triangle-right"), ("at most", -1, "triangle-left"))
_VALUE = alt.X("value:Q")
_WORDS = alt.Text("text:N")


def row_layers(chart: RowChart, names: Mapping[str, Series], layers: Layers) -> int:
    """Add the layers of a row chart; returns its height."""
    limits = _limits(chart)
    records = [_record(row, limits) | {"row": index} for index, row in enumerate(chart.rows)]
    rows = layers.over("rows", records).transform_filter(SHOWN)
    axis = alt.Axis(grid=True, tickCount=5, domain=False)
    title = textwrap.wrap(chart.x_label, _AXIS_LETTERS)
    x = alt.X("value:Q", title=title, axis=axis, scale=range_scale(limits))
    shown = rows.encode(_names(chart, layers.index), alt.Tooltip("hint:N"))
    color = series_color(names)
    if chart.reference:
        value, text = chart.reference
        base = layers.over("reference", [{"value": value, "text": text}]).encode(x)
        layers.add("reference", base.mark_rule(style="level"))
        words = base.mark_text(style="note", baseline="bottom")
        layers.add("reference_text", words.encode(alt.YValue(-3), _WORDS))
    if chart.bars:
        layers.add("hours", shown.mark_bar(opacity=0.75, height={"band": 0.64}).encode(x, color))
    else:
        spans = shown.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.8)
        layers.add("intervals", spans.encode(alt.X("low:Q"), alt.X2("high:Q"), color))
        _add_arrows(chart, shown, color, layers)
        layers.add("points", shown.mark_point(style="dot", size=60).encode(x, color))
    if any(row.published is not None for row in chart.rows):
        rings = shown.transform_filter("isValid(datum.published)").mark_point(style="ring", fill=BACKGROUND[0])
        layers.add("rings", rings.encode(alt.X("published:Q"), series_color(names, alt.Stroke)))
    words = shown.mark_text(style="value", align="left", dx=8)
    layers.add("words", words.encode(alt.XValue("width"), _WORDS))
    return _ROW * len(chart.rows)


def _names(chart: RowChart, index: int) -> alt.Y:
    """The axis knows a row's number; its name, in lines, is in the data."""
    lines = max(len(row.name) for row in chart.rows)
    axis = alt.Axis(
        labelExpr=f"data('rows{index}')[datum.value].name",
        labelOffset=_LINE / 2 * (1 - lines),
        labelLimit=150,
        labelOverlap=False,
        ticks=False,
        domain=False,
    )
    return alt.Y("row:O", title=None, axis=axis, scale=alt.Scale(domain=list(range(len(chart.rows)))))


def _add_arrows(chart: RowChart, shown: alt.Chart, color: alt.Color, layers: Layers) -> None:
    for bound, way, shape in _ARROWS:
        if any(row.bound == bound for row in chart.rows):
            bounds = shown.transform_filter(f"datum.bound == '{bound}'")
            stem = bounds.mark_rule(strokeWidth=1.8, x2Offset=14 * way)
            layers.add(f"stem_{shape}", stem.encode(_VALUE, alt.X2("value:Q"), color))
            layers.add(shape, bounds.mark_point(style="dot", shape=shape, xOffset=15 * way).encode(_VALUE, color))


def _record(row: Row, limits: tuple[float, float]) -> dict[str, Any]:
    hint = [f"{', '.join(row.name)}: {row.text}"]
    record: dict[str, Any] = {"name": list(row.name), "series": row.series, "text": row.text}
    record |= {"value": rounded(row.value), "bound": row.bound}
    if row.low is not None and row.high is not None:
        low, high = (rounded(float(np.clip(end, *limits))) for end in (row.low, row.high))
        record |= {"low": low, "high": high}
        hint.append(f"90% interval {row.low:.4g} to {row.high:.4g}")
    if row.published is not None:
        record["published"] = rounded(row.published)
        hint.append(f"published: {row.published:.4g}")
    return record | {"hint": "\n".join(hint)}


def _limits(chart: RowChart) -> tuple[float, float]:
    values = [row.value for row in chart.rows]
    ends = [end for row in chart.rows for end in (row.low, row.high)]
    values += [end for end in ends if end is not None and math.isfinite(end)]
    values += [row.published for row in chart.rows if row.published is not None]
    values += [0.0] if chart.bars else []
    values += [chart.reference[0]] if chart.reference else []
    low, high = extent([np.array(values)], False, 0.07)
    return (0.0 if chart.bars else low), high
