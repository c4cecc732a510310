"""Charts as Vega-Lite specifications, declared with Altair."""

import textwrap
from collections.abc import Mapping
from typing import Any

import altair as alt

from tst_titan.report.charts import Chart, HeatMap, Panel, Series
from tst_titan.report.heat_maps import heat_map_layers
from tst_titan.report.layers import HIDDEN, Layers
from tst_titan.report.line_panels import panel_layers
from tst_titan.report.row_panels import VALUES, row_layers

_TITLE_LETTERS = 48


def declared(chart: Chart, names: Mapping[str, Series], index: int = 0, *, validate: bool = False) -> dict[str, Any]:
    """The specification of a chart with its data inside, as wide as what holds it.

    `names`: all series of its section and what they look like; `index`: its place in the section.
    `validate` checks it against Vega-Lite's schema, which takes longer than all else; tests do.
    """
    layers = Layers(index)
    # Altair would check every object that is made, and the whole once more.
    with alt.utils.schemapi.debug_mode(validate):
        if isinstance(chart, Panel):
            height = panel_layers(chart, names, layers)
        elif isinstance(chart, HeatMap):
            height = heat_map_layers(chart, layers)
        else:
            height = row_layers(chart, names, layers)
        title = alt.Title(textwrap.wrap(chart.title, _TITLE_LETTERS) or "")
        figure = alt.layer(*layers.charts, title=title, width="container", height=height)
        spec = figure.to_dict(validate=validate)
    del spec["config"]
    right = 6 if isinstance(chart, Panel | HeatMap) else VALUES
    return spec | {
        "padding": {"left": 6, "top": 6, "right": right, "bottom": 6},
        "params": [{"name": HIDDEN, "value": []}, *spec.get("params", [])],
        "datasets": layers.tables,
    }
