"""Heat maps of grids: values in cells, the best outlined, those not told apart from it dashed."""

import altair as alt
import numpy as np

from tst_titan.report.charts import HeatMap
from tst_titan.report.layers import HEIGHT, Layers, Records, rounded

# Columns of a heat map whose values are written into their cells.
_MOST_WRITTEN = 16
_TOLD = {"best": "\nthe best cell", "same": "\nnot told apart from the best", "": ""}


def heat_map_layers(chart: HeatMap, layers: Layers) -> int:
    """Add the layers of a heat map; returns its height."""
    plain = alt.Axis(labelAngle=0, domain=False, ticks=False)
    columns, rows = (alt.Scale(domain=list(names), padding=0) for names in (chart.columns, chart.rows))
    base = layers.over("cells", _cells(chart)).encode(
        alt.X("column:O", title=chart.x_label, axis=plain, scale=columns),
        alt.Y("row:O", title=chart.y_label, scale=rows),
        alt.Tooltip("hint:N"),
    )
    opacity = alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 0.8]), legend=None)
    layers.add("cells", base.mark_rect(style="heat").encode(opacity))
    if len(chart.columns) <= _MOST_WRITTEN:
        words = base.mark_text(style="cell-text", size=11 if len(chart.columns) <= 10 else 9.5)
        layers.add("values", words.encode(alt.Text("value:Q", format=".3f")))
    for kind in ("same", "best"):
        outlined = base.transform_filter(f"datum.kind == '{kind}'")
        layers.add(kind, outlined.mark_rect(style=kind, filled=False))
    return HEIGHT


def _cells(chart: HeatMap) -> Records:
    losses = chart.values if chart.lower_is_better else -chart.values
    finite = losses[np.isfinite(losses)]
    # The worst cells (long superposition of large bags) are far off: colour resolves the better 80%.
    low, high = float(finite.min()), float(np.quantile(finite, 0.8))
    shares = 1 - np.clip((losses - low) / (high - low), 0, 1) if high > low else np.ones_like(losses)
    cells: Records = []
    for row, column in np.argwhere(np.isfinite(losses)).tolist():
        kind = "best" if (row, column) == chart.best else "same" if (row, column) in chart.same else ""
        value, share = float(chart.values[row, column]), float(shares[row, column])
        cell = {"row": chart.rows[row], "column": chart.columns[column], "value": rounded(value)}
        hint = f"{chart.y_label} = {chart.rows[row]}, {chart.x_label} = {chart.columns[column]}: {value:.4f}"
        cells.append(cell | {"kind": kind, "share": rounded(share), "hint": hint + _TOLD[kind]})
    return cells
