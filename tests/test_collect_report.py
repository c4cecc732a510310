"""The report is one file that loads nothing, escapes what users wrote, and opens without an error in a browser."""

import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from collect_support import STUDY, fill_results, make_plan, smooth_loss, write_evaluation

from tst_titan.report.curve_charts import running_mean
from tst_titan.report.published_study import collect_published
from tst_titan.report.study import collect_study
from tst_titan.study.yaml_file import read_yaml

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
GRID = STUDY.replace(
    "{bag_size: 4, step_ratio: 0.3}", "{bag_size: [2, 4, 8], step_ratio: [0.2, 0.4]}"
).replace("steps: 1200", "steps: [1200, 2400]\nseeds: [0, 1]\ncompare: [equal_flops, equal_loss, equal_data]")


def noisy_loss(segment, step):
    random = np.random.default_rng([segment.recipe.seed, segment.end_step, segment.stages[0].bag_size])
    return smooth_loss(segment, step) + 0.02 * random.normal(size=len(step))


@pytest.fixture(scope="module")
def grid_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    plan = make_plan(folder, GRID, name="grid")
    fill_results(plan, folder / "results", loss=noisy_loss)
    for run in plan.runs:
        write_evaluation(
            folder / "results", plan.segments[run.final], {"cloze": (0.3 + 0.01 * run.bag_size, 0.02)}
        )
    collect_study(plan, plan.file, folder / "results", folder / "out")
    return folder / "out" / "report.html"


class Links(html.parser.HTMLParser):
    """Everything in a page that a browser would fetch or run from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "action", "data") and value != "data:,"
        ]


def test_page_names_nothing_to_load(grid_report):
    links = Links()
    text = grid_report.read_text()
    links.feed(text)
    assert links.found == []
    assert "@import" not in text
    assert "url(" not in text
    assert not {"link rel=stylesheet", "iframe", "img", "object"} & set(links.tags)


def test_the_report_of_a_study_that_extends_others_holds_what_they_say_together(tmp_path):
    """It held the overlay alone: three lines from which nobody could repeat the study."""
    base = tmp_path / "studies" / "bases" / "base.yaml"
    base.parent.mkdir(parents=True)
    base.write_text(STUDY)
    plan = make_plan(tmp_path, "extends: bases/base.yaml\nseeds: [5]\n")
    fill_results(plan, tmp_path / "results")
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    shown = html.unescape(
        re.search(r"<h2>Study definition</h2>\s*<pre>(.*?)</pre>", page, re.DOTALL).group(1)
    )
    assert yaml.safe_load(shown) == read_yaml(base) | {"seeds": [5]}
    for file in (plan.file, base):
        name = file.relative_to(plan.file.parent)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"<code>{name}</code> (SHA-256 <code>{digest}</code>)" in page


def test_the_digests_of_a_study_follow_every_file_that_it_extends(tmp_path):
    """A segment's provenance held the digest of the overlay alone."""
    base = tmp_path / "studies" / "base.yaml"
    base.parent.mkdir()
    base.write_text(STUDY)
    first = make_plan(tmp_path, "extends: base.yaml\nseeds: [5]\n").digests
    base.write_text(STUDY + "# the same\n")
    commented = make_plan(tmp_path, "extends: base.yaml\nseeds: [5]\n").digests
    base.write_text(STUDY.replace("steps: 1200", "steps: 600"))
    changed = make_plan(tmp_path, "extends: base.yaml\nseeds: [5]\n").digests
    assert [file["name"] for file in first["files"]] == ["base.yaml", "tiny.yaml"]
    assert len({json.dumps(one["files"]) for one in (first, commented, changed)}) == 3
    assert first["sha256"] == commented["sha256"] != changed["sha256"]
    assert first["files"][1] == commented["files"][1] == changed["files"][1]


def test_text_of_users_is_escaped_wherever_it_is_shown(tmp_path):
    evil = "<script>alert(1)</script>\\\"'&"
    plan = make_plan(tmp_path, STUDY + f'description: "{evil}"\n')
    fill_results(plan, tmp_path / "results")
    run = plan.runs[1]
    write_evaluation(
        tmp_path / "results", plan.segments[run.final], {"<img src=x onerror=alert(1)>": (0.5, None)}
    )
    path = tmp_path / "results" / "segments" / run.final / "provenance.json"
    path.write_text(json.dumps({"git_commit": "<b>x</b>", "device": "<i>y</i>"}))
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    for bad in ("<script>alert", "<img", "<b>x", "<i>y"):
        assert bad not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;img src=x" in text


def test_every_figure_is_a_whole_svg_and_marks_the_switch(grid_report):
    for name in ("curves", "grids", "budgets"):
        root = ElementTree.fromstring((grid_report.parent / f"{name}.svg").read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    curves = (grid_report.parent / "curves.svg").read_text()
    for text in (
        "Training loss",
        "Validation loss",
        "Recovery",
        "loss (nats a token)",
        ">step<",
        "unigram entropy",
    ):
        assert text in curves


def test_running_mean_leaves_a_straight_line_where_it_is_to_the_last_point():
    line = 5.0 - 0.1 * np.arange(30)
    assert running_mean(line, 9) == pytest.approx(line)
    bump = np.zeros(30)
    bump[15] = 9.0
    assert running_mean(bump, 9)[15] == pytest.approx(1.0)
    line[15] = np.nan
    assert np.isfinite(running_mean(line, 9)).all()


def test_switch_is_marked_at_its_step(tmp_path):
    plan = make_plan(tmp_path)
    fill_results(plan, tmp_path / "results")
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    chart = page[page.index('aria-label="Training loss') :]
    low, high, _ = map(float, re.search(r'data-x="([^"]+)"', chart)[1].split())
    left, _, right, _ = map(float, re.search(r'data-box="([^"]+)"', chart)[1].split())
    mark = float(re.search(r'class="mark" d="M([\d.]+) ', chart)[1])
    assert low + (mark - left) / (right - left) * (high - low) == pytest.approx(360, abs=2)


def test_report_has_every_part(grid_report):
    text = grid_report.read_text()
    for part in (
        "What was compared",
        "Bag size by step ratio",
        "Corpus <code>python-stdlib",
        "6.5123 nats a token",
        "Plan against actual cost",
        "segments are shared between runs",
        "Study definition",
        "bag_size: [2, 4, 8]",
        "Provenance",
        "abc1234",
        "mean of the last 6 to 12 logged rows",
    ):
        assert part in text, part


def test_collecting_twice_gives_the_same_page(tmp_path):
    plan = make_plan(tmp_path)
    fill_results(plan, tmp_path / "results")
    pages = []
    for _ in range(2):
        collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
        pages.append((tmp_path / "out" / "report.html").read_bytes())
    assert pages[0] == pages[1]


PROBE = """<script>addEventListener("load", () => {
  const svg = document.querySelector("svg.chart[data-box]"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * .6, clientY: box.top + 80}));
  const tip = document.getElementById("tip");
  const button = svg.closest("section").querySelector(".toggle"), name = button.dataset.name;
  button.click();
  const series = [...document.querySelectorAll(".series")].filter((s) => s.dataset.name === name);
  console.log("probe " + JSON.stringify({
    tip: tip.hidden ? "" : tip.textContent,
    hidden: series.every((s) => s.style.display === "none"),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    milliseconds: Math.round(performance.now()),
    wide: document.documentElement.scrollWidth,
    window: innerWidth,
  }));
});</script>"""


def browse(page, folder, width, height):
    """Open a page in a browser that resolves no host name; returns its console messages and the screenshot.

    A page that asks for anything leaves an error there, for the name is not resolved.
    """
    shot = folder / f"{width}.png"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}", "--enable-logging=stderr", f"--screenshot={shot}", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(folder)}
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], shot


@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the report is not opened in a browser"
)
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
@pytest.mark.parametrize("which", ["a study", "the full published grid"])
def test_opens_in_a_browser_without_error_or_request(grid_report, tmp_path, which, width):
    """A probe appended to the page hovers over a chart, hides an arm and reports what it saw on the console."""
    report = grid_report
    if which != "a study":
        report = tmp_path / "report.html"
        collect_published(tmp_path)
    assert report.stat().st_size < 8e6
    page = tmp_path / "page.html"
    page.write_text(report.read_text() + PROBE)
    # No window is narrower than 500 pixels: a frame makes the phone.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:2400px">'
    )
    # Opened again where it took long: a machine that is busy with other tests is no fault of the page.
    for _ in range(3):
        (line,), shot = browse(frame, tmp_path, max(width, 500), 2400)
        seen = json.loads(re.search(r"probe (\{.*\})\"", line)[1].replace('\\"', '"'))
        if seen["milliseconds"] < 3000:
            break
    assert shot.stat().st_size > 20_000
    assert seen["requests"] == []
    assert seen["milliseconds"] < 3000
    assert seen["tip"].startswith("steps (equal FLOPs)")
    assert "baseline" in seen["tip"]
    assert seen["hidden"]
    assert seen["wide"] <= seen["window"] == width


def test_published_report_is_written_whole(tmp_path):
    collect_published(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "≥ 2.50×" in text
    assert "Study definition" not in text
    assert len((tmp_path / "grids.csv").read_text().splitlines()) == 503
