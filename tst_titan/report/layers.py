"""What the declarations of all charts share: layers over tables, scales, colours, rounding.

What users wrote (names of arms, models and tasks) is in data, titles and scale domains alone: nothing of it is part of
an expression or a field's name, which Vega would run.
"""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np

from tst_titan.report.charts import Series
from tst_titan.report.theme import SERIES, color_index

HEIGHT = 280
# The page's list of hidden series.
HIDDEN = "hidden"
SHOWN = f"indexof({HIDDEN}, datum.series) < 0"

Records = list[dict[str, Any]]


class Layers:
    """The layers of one chart and their tables, under names that are its own among the charts of a section
    (`rings3`)."""

    def __init__(self, index: int):
        self.index = index
        self.tables: dict[str, Records] = {}
        self.charts: list[alt.Chart] = []

    def over(self, name: str, records: Records) -> alt.Chart:
        """A chart over a table, to be given marks."""
        self.tables[f"{name}{self.index}"] = records
        return alt.Chart(alt.NamedData(name=f"{name}{self.index}"))

    def add(self, name: str, chart: alt.Chart) -> None:
        """Draw `chart` over what is there; its marks carry the name in the SVG."""
        chart.name = f"{name}{self.index}"
        self.charts.append(chart)


def extent(values: list[np.ndarray], log: bool, margin: float) -> tuple[float, float]:
    """Range of all finite values (positive ones on a logarithmic axis), widened by the share `margin` on both sides."""
    joined = np.concatenate([np.asarray(array, dtype=float) for array in values] or [np.empty(0)])
    joined = joined[np.isfinite(joined) & ((joined > 0) if log else True)]
    if not len(joined):
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(joined.min()), float(joined.max())
    if log:
        factor = (high / low) ** margin if high > low else 2.0
        return low / factor, high * factor
    pad = (high - low) * margin if high > low else max(abs(high) * 0.1, 0.5)
    return low - pad, high + pad


def range_scale(limits: tuple[float, float], log: bool = False) -> alt.Scale:
    """A scale over exactly these limits: hiding a series moves no other."""
    ends = [float(f"{end:.8g}") for end in limits]
    kind = {"type": "log"} if log else {"zero": False}
    return alt.Scale(domain=ends, nice=False, **kind)


def series_color(names: Mapping[str, Series], channel: type = alt.Color) -> Any:
    """Each series in its slot's colour."""
    colors = [SERIES[color_index(series.slot)][0] for series in names.values()]
    return channel("series:N", scale=alt.Scale(domain=list(names), range=colors))


def rounded(value: float) -> float | int | None:
    """As far as a drawing shows: whole numbers as they are, others to six digits; what is no finite number is null."""
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")
