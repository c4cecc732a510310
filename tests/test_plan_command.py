"""`tst-titan plan`: as people read it and as programs do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import REPOSITORY as ROOT
from checkouts import copy_checkout

from tst_titan import cli
from tst_titan.files import write_json
from tst_titan.plan import load_plan, segment_to_dict


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, fresh: Path):
    """Run `tst-titan plan ...` in a fresh clone with results elsewhere; gives status, stdout, stderr."""
    monkeypatch.setattr(cli, "COMMANDS", ("tst_titan.plan.command",))
    monkeypatch.chdir(fresh)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["plan", *arguments, "--results", str(tmp_path / "results")])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_json_has_runs_segments_and_totals(command) -> None:
    status, out, _ = command("studies/quickstart", "--json")
    plan = json.loads(out)
    assert status == 0
    keys = "run arm model bag_size step_ratio steps seed equivalent_tokens data_tokens flops gpu_hours segments"
    for run in plan["runs"]:
        assert set(keys.split()) <= set(run)
    baseline, tst = plan["runs"]
    assert baseline["flops"] == tst["flops"]
    assert baseline["equivalent_tokens"] == tst["equivalent_tokens"] == baseline["data_tokens"]
    assert tst["data_tokens"] > baseline["data_tokens"]
    ids = [segment["id"] for segment in plan["segments"]]
    assert {id for run in plan["runs"] for id in run["segments"]} == set(ids)
    totals = plan["totals"]
    assert totals["flops_without_sharing"] == baseline["flops"] + tst["flops"]
    assert totals["flops_with_sharing"] == sum(segment["flops"] for segment in plan["segments"])


@pytest.mark.parametrize(
    "name", ["quickstart", "studies/quickstart", "studies/quickstart.yaml", "{fresh}/studies/quickstart"]
)
def test_a_study_is_found_by_any_of_its_names(command, fresh: Path, name: str) -> None:
    status, out, _ = command(name.format(fresh=fresh), "--json")
    assert (status, json.loads(out)["study"]) == (0, "quickstart")


def test_a_misspelt_study_is_told_its_name(command) -> None:
    status, out, err = command("studies/quikstart")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "did you mean 'quickstart'?" in err


def test_the_table_names_every_run_uncut_and_the_totals(command) -> None:
    _, out, _ = command("scaling")
    plan = load_plan(ROOT / "studies/scaling.yaml", Path("nowhere"))
    for run in plan.runs:
        assert run.run in out
    assert "sharing saves" in out
    assert "B200-hours at 40% of peak" in out
    assert "(0 reused from results)" in out


def test_hours_follow_the_stated_accelerator(command) -> None:
    def hours(*arguments: str) -> float:
        return json.loads(command("scaling", "--json", *arguments)[1])["totals"]["gpu_hours_with_sharing"]

    assert hours("--utilization", "0.2") == pytest.approx(2 * hours())
    assert hours("--accelerator", "h100") == pytest.approx(hours() * 2250 / 989)
    status, _, err = command("scaling", "--accelerator", "abacus")
    assert status == 2
    assert "'abacus'" in err


def test_what_is_trained_is_shown_as_done_and_what_an_edit_retrains_as_new(command, tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "studies"
    folder.mkdir()
    text = (ROOT / "studies/quickstart.yaml").read_text()
    (folder / "mine.yaml").write_text(text)
    for id, segment in load_plan(folder / "mine.yaml", results).segments.items():
        write_json(results / "segments" / id / "settings.json", segment_to_dict(segment))
        write_json(results / "segments" / id / "done.json", {})
    _, out, _ = command(str(folder / "mine.yaml"), "--segments")
    assert out.count("done") == 2 + 5
    assert "in 0 of 5 segments (5 reused from results)" in out
    (folder / "mine.yaml").write_text(
        text.replace("bag_size: 4, step_ratio: 0.3", "bag_size: 4, step_ratio: 0.3, weight_decay: 0.2")
    )
    _, out, _ = command(str(folder / "mine.yaml"))
    assert "in 3 of 5 segments (2 reused from results)" in out
    assert "recipe.weight_decay: cached 0.1, current 0.2" in out
    assert out.count("recipe.weight_decay") == 1


def test_a_broken_neighbour_is_a_note(command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((ROOT / "studies/quickstart.yaml").read_text())
    (tmp_path / "broken.yaml").write_text("- 1\n")
    status, out, err = command(str(tmp_path / "mine.yaml"), "--json")
    assert (status, json.loads(out)["study"]) == (0, "mine")
    assert err.startswith("note: broken is left out: ")


def test_planning_all_published_studies_is_quick_and_imports_nothing_heavy(fresh: Path) -> None:
    """Of the processor, not of the clock, which a busy machine stretches: at most five seconds, ten times what it
    takes."""
    code = (
        "import sys, time; start = time.process_time()\n"
        "from pathlib import Path\n"
        "from tst_titan.plan import load_plans\n"
        "plans, errors = load_plans(Path('studies'), Path('no-results'))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval', 'pandas', 'numpy'} & set(sys.modules)\n"
        "print(time.process_time() - start, sum(len(plan.runs) for plan in plans.values()), sorted(heavy))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=fresh,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    ).stdout
    seconds, runs, heavy = out.split(maxsplit=2)
    assert int(runs) > 500
    assert float(seconds) < 5
    assert heavy.strip() == "[]"
