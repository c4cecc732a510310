"""Hours used: every attempt counted, every segment once, Slurm's accounts where there are any."""

import os
from pathlib import Path

import pandas as pd
import pytest
from collect_support import fill_results, make_plan

from tst_titan.cluster.accounting import JobUsage, job_usage, read_accounts
from tst_titan.collect.study import gather, segments_table
from tst_titan.collect.usage import run_columns, segment_attempts, study_usage, total, usage_of
from tst_titan.files import read_json, write_json

RECORDED = Path(__file__).parent / "data" / "slurm"
# Two budgets share their superposition and most of the constant rate.
TWO_BUDGETS = """\
corpus: {source: python-stdlib, tokenizer: bpe-4096, validation_tokens: 200k, max_document_tokens: 2048}
models: 2M
steps: [1200, 2400]
arms:
  baseline: {}
training: {seq_len: 128, sequences_per_step: 8, warmup_steps: 60, learning_rate: 3e-3, precision: float32}
"""


def attempt(start: float, end: float | None, outcome: str | None, **more: object) -> dict[str, object]:
    return {
        "start": start,
        "end": end,
        "outcome": outcome,
        "step": 1,
        "world_size": 2,
        "devices": 2,
        "device_kind": "GPU",
    } | more


def test_what_sacct_recorded_is_summed_over_requeues() -> None:
    found = read_accounts((RECORDED / "sacct.txt").read_text())
    assert found["12"] == JobUsage(12 / 3600, pytest.approx(16 * 12 / 3600), pytest.approx(2 * 12 / 3600))
    # Requeued after 4 s on four GPUs, waiting since.
    assert found["18"] == JobUsage(4 / 3600, pytest.approx(16 / 3600), pytest.approx(4 / 3600))
    # A task of an array goes by two ids, a job without GPUs has none.
    assert found["16_1"] == found["17"]
    assert found["14"].gpu_hours is None


def test_a_machine_without_accounts_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_usage(["1", "2"], since=0.0) == {}
    (tmp_path / "sacct").write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2; exit 1\n")
    (tmp_path / "sacct").chmod(0o755)
    assert job_usage(["1", "2"], since=0.0) == {}


def test_slurm_is_asked_once_for_all_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path, TWO_BUDGETS)
    results = tmp_path / "results"
    tool = tmp_path / "sacct"
    tool.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/calls\nprintf '7|7|3600|cpu=4,gres/gpu=2\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for number, id in enumerate(plan.segments):
        tries = [attempt(100_000.0, 103_000.0, "finished", slurm_job_id=str(7 + number))]
        write_json(results / "segments" / id / "attempts.json", tries)
    used = list(study_usage(plan, results).values())
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert f"-j {','.join(sorted(str(7 + number) for number in range(len(plan.segments))))}" in call
    # Known to Slurm: its 3600 s on two GPUs. The others: the launcher's 3000 s.
    assert (used[0].hours, used[0].source) == (2.0, "sacct")
    assert (used[1].hours, used[1].source) == (pytest.approx(2 * 3000 / 3600), "launcher")
    everything = total(used)
    assert everything is not None
    assert everything.source == "sacct and launcher"


def test_failed_and_killed_attempts_count_and_a_shared_job_is_divided() -> None:
    attempts = {
        "a": [
            attempt(0, 1800, "killed", slurm_job_id="5"),
            attempt(1800, 3600, "finished", slurm_job_id="5"),
        ],
        "b": [attempt(0, 900, "failed", slurm_job_id="6"), attempt(900, 3600, "finished", slurm_job_id="5")],
    }
    used = usage_of(attempts, {"5": JobUsage(2.0, 4.0, 8.0)})
    # The launcher's hours in job 5: 1 + 1 of segment a, 1.5 of b; Slurm's four are divided alike.
    assert used["a"].hours == pytest.approx(4 * 2 / 3.5)
    assert used["a"].failed_hours == pytest.approx(4 * 1 / 3.5)
    assert used["b"].hours == pytest.approx(0.5 + 4 * 1.5 / 3.5)
    assert (used["b"].failed, used["b"].failed_hours, used["b"].attempts) == (1, 0.5, 2)
    assert used["b"].source == "launcher and sacct"


def test_where_slurm_counts_no_gpus_its_time_is_taken_and_our_count() -> None:
    used = usage_of({"a": [attempt(0, 60, "finished", slurm_job_id="5")]}, {"5": JobUsage(1.0, None, 64.0)})
    assert used["a"].hours == 2.0


def test_an_attempt_under_way_counts_to_its_last_sign_of_life(tmp_path: Path) -> None:
    write_json(tmp_path / "attempts.json", [attempt(0, 100, "failed"), attempt(1000, None, None)])
    (tmp_path / "train.log").write_text("step 1\n")
    os.utime(tmp_path / "train.log", (1500, 1500))
    assert [tried["end"] for tried in segment_attempts(tmp_path)] == [100, 1500]
    (tmp_path / "attempts.json").write_text("{")
    assert segment_attempts(tmp_path) == []


def test_shares_of_runs_add_up_to_the_study_which_counts_each_segment_once(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, TWO_BUDGETS)
    results = tmp_path / "results"
    fill_results(plan, results)
    used = study_usage(plan, results)
    columns = run_columns(plan, used)
    everything = total(used.values())
    assert everything is not None
    assert sum(row["device_hours_share"] for row in columns.values()) == pytest.approx(everything.hours)
    shared = next(id for id in plan.runs[0].segments if id in plan.runs[1].segments)
    for run in plan.runs:
        row = columns[run.run]
        assert row["device_hours"] - row["device_hours_share"] == pytest.approx(used[shared].hours / 2)
        assert row["gpu_hours_planned"] == run.gpu_hours
    table = segments_table(gather(plan, results).costs)
    assert table["device_hours"].sum() == pytest.approx(everything.hours)
    assert set(table["device_hours_source"]) == {"launcher"}
    # Attempts of earlier versions name no device: hours are of ranks, and it says so.
    assert set(table["device_kind"]) == {"rank"}


def test_nothing_used_is_missing_never_zero(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, TWO_BUDGETS)
    table = gather(plan, tmp_path / "results").table
    assert table["device_hours"].isna().all()
    assert table["device_hours_share"].isna().all()
    assert (table["gpu_hours_planned"] > 0).all()


def test_the_report_states_hours_kind_source_and_failures(tmp_path: Path) -> None:
    from tst_titan.report.study import collect_study

    plan = make_plan(tmp_path)
    results, out = tmp_path / "results", tmp_path / "out"
    fill_results(plan, results)
    done_file = results / "segments" / plan.runs[0].final / "done.json"
    done = read_json(done_file)
    tries = [attempt(0, 1800, "failed"), attempt(1800, 5400, "finished")]
    write_json(done_file, done | {"attempts": tries})
    collect_study(plan, plan.file, results, out)
    page = (out / "report.html").read_text()
    assert "1 in 1 of" in page
    assert "GPU" in page
    assert "launcher" in page
    row = pd.read_csv(out / "segments.csv").set_index("segment").loc[plan.runs[0].final]
    assert (row["attempts"], row["failed_attempts"], row["failed_device_hours"], row["device_hours"]) == (
        2,
        1,
        1.0,
        3.0,
    )
