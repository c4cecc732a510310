"""The report is one file that loads nothing and escapes what users wrote."""

import base64
import hashlib
import html.parser
import json
import re

import pytest
import yaml
from collect_support import STUDY, fill_results, make_plan, write_evaluation
from report_studies import write_grid_report

from tst_titan.report.published_study import collect_published
from tst_titan.report.study import collect_study
from tst_titan.study.yaml_file import read_yaml


@pytest.fixture(scope="module")
def grid_report(tmp_path_factory):
    return write_grid_report(tmp_path_factory.mktemp("grid"))


class Links(html.parser.HTMLParser):
    """Everything in a page that a browser would fetch or run from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action", "data") and value != "data:,"
        ]


def test_page_names_nothing_to_load(grid_report):
    links = Links()
    text = grid_report.read_text()
    links.feed(text)
    assert links.found == []
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles
    assert not {"iframe", "img", "object", "embed"} & set(links.tags)


def test_page_forbids_itself_all_but_its_own_scripts(grid_report):
    """By a content security policy: nothing is fetched, and no script runs but the two whose digests it names."""
    text = grid_report.read_text()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'",
        "style-src 'unsafe-inline'",
        "img-src data:",
    ]


def test_without_scripts_a_page_names_the_files_of_its_figures(grid_report):
    notes = re.findall(r"<noscript>(.*?)</noscript>", grid_report.read_text(), re.DOTALL)
    named = [re.search(r"<code>(.*?)</code>", note)[1] for note in notes]
    assert {"curves.svg", "grids.svg", "comparisons.svg", "budgets.svg"} <= set(named)
    assert all((grid_report.parent / name).exists() for name in named)


def test_the_report_of_a_study_that_extends_others_holds_what_they_say_together(tmp_path):
    """It held the overlay alone: three lines from which nobody could repeat the study."""
    base = tmp_path / "studies" / "bases" / "base.yaml"
    base.parent.mkdir(parents=True)
    base.write_text(STUDY)
    plan = make_plan(tmp_path, "extends: bases/base.yaml\nseeds: [5]\n")
    fill_results(plan, tmp_path / "results")
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    shown = html.unescape(re.search(r"<h2>Study definition</h2>\s*<pre>(.*?)</pre>", page, re.DOTALL).group(1))
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
    write_evaluation(tmp_path / "results", plan.segments[run.final], {"<img src=x onerror=alert(1)>": (0.5, None)})
    path = tmp_path / "results" / "segments" / run.final / "provenance.json"
    path.write_text(json.dumps({"git_commit": "<b>x</b>", "device": "<i>y</i>"}))
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    for bad in ("<script>alert", "<img src=x", "<b>x", "<i>y"):
        assert bad not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;img src=x" in text


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


def test_published_report_is_written_whole(tmp_path):
    collect_published(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "≥ 2.50×" in text
    assert "Study definition" not in text
    assert len((tmp_path / "grids.csv").read_text().splitlines()) == 503
