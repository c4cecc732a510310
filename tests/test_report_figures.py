"""Figures are declared as their readers need them, hold nothing that users could run, and are written as whole SVG
files."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import vl_convert
from collect_support import fill_results, make_plan
from report_studies import drawn_marks, write_grid_report

from tst_titan.report.charts import HeatMap, Line, Panel, Row, RowChart, Series, legend
from tst_titan.report.curve_charts import running_mean
from tst_titan.report.declared import declared
from tst_titan.report.figures import FigureSection, figure_spec, figure_svg, script_bundle, script_json
from tst_titan.report.study import collect_study
from tst_titan.report.theme import SERIES, dark_figures

EVIL = "</script><img src=x onerror=\"pwned=1\">' + datum.pwned + '\\"
STEP = np.arange(1.0, 9.0)


def panel(name="arm", **more):
    lines = (
        Line("baseline", 0, STEP, 4 - 0.1 * STEP),
        Line(name, 1, STEP, 4 - 0.2 * STEP, "faint", detail=name),
        Line(name, 1, STEP, 4 - 0.2 * STEP, "points+line", 3.9 - 0.2 * STEP, 4.1 - 0.2 * STEP),
        Line(name, 1, STEP[-1:], np.array([2.5]), "rings", detail="published"),
        Line("fit", 2, STEP, 3 / STEP, "dashed"),
    )
    marks, levels = ((3.0, "switch"),), ((2.0, "unigram entropy"),)
    return Panel(f"Loss: {name}", "step", name, lines, marks, levels, end_labels=True, caption=name, **more)


def heat_map(name="2"):
    values = np.array([[3.3, 3.1, 3.2], [3.0, np.nan, 3.01]])
    same = frozenset({(1, 2)})
    return HeatMap(
        f"Grid: {name}", "bag size s", "step ratio r", (name, "4", "8"), ("0.1", "0.2"), values, (1, 0), same
    )


def rows(name="arm"):
    found = (
        Row((name, "2M, 1k"), name, 1, -0.1, "-0.1000", -0.2, np.inf, published=-0.05),
        Row((name, "2M, 1k"), "other", 2, 0.3, "≥ 0.30", bound="at least"),
    )
    return RowChart("Equal FLOPs", "nats", found, reference=(0.0, "baseline"))


CHARTS = [
    panel(),
    panel(x_log=True, y_log=True),
    heat_map(),
    rows(),
    RowChart("Hours", "h", rows().rows, bars=True),
]


@pytest.mark.parametrize("chart", CHARTS, ids=["lines", "logarithmic lines", "heat map", "rows", "bars"])
def test_declarations_follow_the_schema_of_vega_lite(chart):
    """Collecting itself does not check them: it would take longer than all else."""
    spec = declared(chart, legend(CHARTS), validate=True)
    assert spec == declared(chart, legend(CHARTS))


def expressions(spec, inside=""):
    """All text of a specification but its data, titles and the series that a scale maps."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key not in ("datasets", "title", "domain"):
                yield key
                yield from expressions(value, key)
    elif isinstance(spec, list):
        for value in spec:
            yield from expressions(value, inside)
    else:
        yield str(spec)


@pytest.mark.parametrize("make", [panel, heat_map, rows])
def test_what_users_wrote_is_in_no_expression_and_no_name_of_a_field(make):
    spec = declared(make(EVIL), legend([make(EVIL)]))
    assert EVIL in json.dumps(spec["datasets"], ensure_ascii=False).replace('\\"', '"').replace("\\\\", "\\")
    found = list(expressions(spec))
    assert any("indexof(hidden" in text for text in found) or make is heat_map
    assert not [text for text in found if "pwned" in text]


def test_embedded_specifications_cannot_end_their_script():
    text = script_json(declared(panel(EVIL), legend([panel(EVIL)])))
    assert "<" not in text
    assert EVIL in [line["series"] for line in json.loads(text)["datasets"]["lines0"]]


def test_published_values_are_hollow_rings_in_the_colour_of_their_arm(tmp_path):
    file = tmp_path / "figure.svg"
    file.write_text(figure_svg(FigureSection("figure", "", [panel(), rows()], "")))
    rings = drawn_marks(file, "rings")
    assert [ring.get("fill") for ring in rings] == ["#ffffff"] * 2
    assert [ring.get("stroke") for ring in rings] == [SERIES[1][0]] * 2


def test_arms_differ_in_dash_where_the_colours_come_round():
    lines = tuple(Line(f"arm {slot}", slot, STEP, STEP) for slot in range(20))
    encoding = declared(Panel("", "", "", lines), legend([Panel("", "", "", lines)]))["layer"][0]["encoding"]
    colors, dashes = (encoding[channel]["scale"]["range"] for channel in ("color", "strokeDash"))
    assert len({*zip(colors, map(tuple, dashes), strict=True)}) == len(lines)
    assert colors[0] not in colors[1:]


def test_a_number_that_does_not_exist_breaks_its_line():
    broken = Line("arm", 1, STEP, np.where(STEP == 4, np.nan, STEP))
    spec = declared(Panel("", "", "", (broken,)), {"arm": Series(1)})
    assert spec["datasets"]["lines0"][0]["y"] == [1, 2, 3, None, 5, 6, 7, 8]


@pytest.fixture(scope="module")
def grid_report(tmp_path_factory):
    return write_grid_report(tmp_path_factory.mktemp("grid"))


def test_every_figure_is_a_whole_svg_with_a_legend(grid_report):
    for name in ("curves", "grids", "budgets", "comparisons", "downstream", "hours"):
        text = (grid_report.parent / f"{name}.svg").read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "role-legend" in text, name
    curves = (grid_report.parent / "curves.svg").read_text()
    for text in (
        "Training loss",
        "Validation loss",
        "Recovery",
        "loss (nats a token)",
        ">step<",
        "unigram entropy",
        ">switch<",
    ):
        assert text in curves


def test_files_follow_the_readers_preference_for_dark(grid_report):
    """Every colour that a figure uses has its counterpart in the style that a dark reader's viewer applies."""
    text = (grid_report.parent / "curves.svg").read_text()
    root = ElementTree.fromstring(text)
    used = {mark.get(name) for mark in root.iter() for name in ("fill", "stroke")} - {
        None,
        "none",
        "transparent",
    }
    assert f"<style>{dark_figures()}</style>" in text
    assert SERIES[0][0] in used
    assert not [color for color in used if f"'{color}'" not in dark_figures()]


def test_the_same_figure_has_the_same_bytes():
    """Vega numbers what it clips over all figures that the process drew."""
    section = FigureSection("figure", "", [panel(), heat_map(), rows()], "")
    first = figure_svg(section)
    assert "clip0" in first
    assert figure_svg(section) == first


def test_a_section_without_charts_is_no_file(tmp_path):
    plan = make_plan(tmp_path)
    fill_results(plan, tmp_path / "results")
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").glob("*.svg")} == {"curves.svg", "hours.svg"}


def test_charts_of_one_file_keep_their_own_data():
    section = FigureSection("figure", "", [panel(), panel("b")], "")
    spec = figure_spec(section)
    assert {"lines0", "lines1"} <= set(spec["datasets"])
    used = {layer["data"]["name"] for layer in spec["concat"][1]["layer"]}
    assert all(name.endswith("1") for name in used)


def test_running_mean_leaves_a_straight_line_where_it_is_to_the_last_point():
    line = 5.0 - 0.1 * np.arange(30)
    assert running_mean(line, 9) == pytest.approx(line)
    bump = np.zeros(30)
    bump[15] = 9.0
    assert running_mean(bump, 9)[15] == pytest.approx(1.0)
    line[15] = np.nan
    assert np.isfinite(running_mean(line, 9)).all()


def test_the_pages_script_is_the_librarys_and_is_the_same_without_a_cache(tmp_path, monkeypatch):
    """Where others may write to the cache, nothing of it is trusted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = script_bundle()
    (kept,) = (tmp_path / "tst-titan" / "report").iterdir()
    assert kept.read_text() == made == vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in made
    kept.write_text("changed by another")
    (tmp_path / "tst-titan").chmod(0o777)
    assert script_bundle() == made
