"""Figures as files and inside of pages: SVG without a browser or the network, specifications as JSON, and the library's
script."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert

from tst_titan.errors import UserError
from tst_titan.files import write_text
from tst_titan.private import cache_folder
from tst_titan.report.charts import Chart, legend
from tst_titan.report.declared import declared
from tst_titan.report.layers import HIDDEN
from tst_titan.report.theme import config, dark_figures

_WIDTH, _COLUMNS = 400, 2
_CLIP = re.compile(r'(?<=clip-path="url\(#)clip\d+(?=\)")|(?<=<clipPath id=")clip\d+(?=")')


@dataclass(frozen=True)
class FigureSection:
    """Charts under one heading, sentences above them, and where their numbers come from; `folded` is shown on
    request."""

    id: str
    title: str
    charts: Sequence[Chart]
    source: str
    notes: Sequence[str] = ()
    folded: Sequence[Chart] = ()

    @property
    def all_charts(self) -> list[Chart]:
        return [*self.charts, *self.folded]

    @cached_property
    def specs(self) -> list[dict[str, Any]]:
        """All charts as specifications: those of the page are those of the file."""
        names = legend(self.all_charts)
        return [declared(chart, names, index) for index, chart in enumerate(self.all_charts)]


def write_figure(section: FigureSection, folder: Path) -> None:
    """Write `ID.svg`, all charts of a section side by side; none where it has no charts."""
    if section.all_charts:
        write_text(folder / f"{section.id}.svg", figure_svg(section))


def figure_svg(section: FigureSection) -> str:
    """A whole SVG of a section's charts that follows the reader's light or dark setting."""
    svg = vl_convert.vegalite_to_svg(figure_spec(section), allowed_base_urls=[])
    # Vega numbers its clips over all that the process draws: the same figure shall have the same bytes.
    order: dict[str, str] = {}
    svg = _CLIP.sub(lambda found: order.setdefault(found[0], f"clip{len(order)}"), svg)
    head, _, body = svg.partition(">")
    return f'{head} role="img" aria-label="{escape(section.title)}"><style>{dark_figures()}</style>{body}\n'


def figure_spec(section: FigureSection) -> dict[str, Any]:
    """The charts of a section side by side as one specification, with a legend."""
    names = legend(section.all_charts)
    panels = [
        {key: value for key, value in spec.items() if key not in ("$schema", "params", "datasets", "padding")}
        | {"width": _WIDTH}
        for spec in section.specs
    ]
    datasets = {name: records for spec in section.specs for name, records in spec["datasets"].items()}
    letters = 7 * max((len(name) for name in names), default=0) + 50
    columns = max(1, min(len(panels), _COLUMNS) * (_WIDTH + 70) // letters)
    look = config()
    look["legend"] |= {"columns": columns} if len(names) > 1 else {"disable": True}
    return {
        "$schema": section.specs[0]["$schema"],
        "params": [{"name": HIDDEN, "value": []}],
        "datasets": datasets,
        "concat": panels,
        "columns": _COLUMNS,
        "spacing": 30,
        "config": look,
    }


def script_json(value: Any) -> str:
    """JSON that is inert inside of a `<script>`: no `<`, so neither its end nor a comment's beginning."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def script_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script that sets `vegaEmbed`.

    Making it takes a second and 130 MB, so it is kept in this user's cache, where there can be one.
    """
    try:
        file = cache_folder("report") / f"vega-embed-{version('vl-convert-python')}.js"
    except UserError:
        return _bundled()
    if not file.exists():
        write_text(file, _bundled())
    return file.read_text(encoding="utf-8")


def _bundled() -> str:
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def script_hash(script: str) -> str:
    """As a content security policy names an inline script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
