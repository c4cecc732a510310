"""`tst-titan status` from files alone: states, progress, failures, totals."""

import io
import json
import os
import shutil

import pytest
from collect_support import fill_results, make_plan, training_row
from rich.console import Console

from tst_titan.collect.status import segment_statuses, show_status, totals
from tst_titan.files import write_json

NOW = 2_000_000_000.0


@pytest.fixture
def study(tmp_path):
    """The baseline is finished; of TST's three segments nothing is there."""
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    fill_results(plan, results)
    shutil.rmtree(results / "segments" / "2M-tst-s4")
    return plan, results


def tst_segments(plan):
    return [plan.segments[id] for id in plan.runs[1].segments]


def states(plan, results):
    found = {status.id: status for status in segment_statuses(plan, results, now=NOW)}
    return [found[segment.id] for segment in tst_segments(plan)]


def start(plan, results, *, end=None, step=None, age=5.0):
    """The first TST segment as the launcher leaves it: 20 of its 360 steps logged, the next row half written."""
    segment = tst_segments(plan)[0]
    folder = results / "segments" / segment.id
    write_json(folder / "attempts.json", [{"start": NOW - 60, "end": end, "step": step, "world_size": 1}])
    rows = [json.dumps(training_row(segment, step, 7.25)) for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 30, "lo')
    (folder / "train.log").write_text("step 20\n")
    for path in folder.iterdir():
        os.utime(path, (NOW - age, NOW - age))
    return folder


def test_a_segment_is_queued_when_its_parent_is_done_and_waits_otherwise(study):
    assert [status.state for status in states(*study)] == ["queued", "waiting", "waiting"]


def test_a_running_segment_shows_its_last_row_and_the_time_left(study):
    start(*study)
    status = states(*study)[0]
    assert (status.state, status.step, status.end_step, status.loss) == ("running", 20, 360, 7.25)
    assert status.left_s == pytest.approx(340 * 0.1)
    assert status.tokens_per_s == 10240


def test_an_attempt_that_ended_with_a_save_is_stopped(study):
    start(*study, end=NOW - 10, step=20)
    assert states(*study)[0].state == "stopped"


def test_an_attempt_without_end_that_fell_silent_was_killed(study):
    start(*study, age=3600)
    assert states(*study)[0].state == "stopped"


def test_a_failed_segment_tells_the_last_error_of_its_log(study):
    folder = start(*study, end=NOW - 10, step=None)
    (folder / "train.log").write_text("step 20\nTraceback (most recent call last):\nRuntimeError: out of cheese\nbye\n")
    status = states(*study)[0]
    assert (status.state, status.message) == ("failed", "RuntimeError: out of cheese")


def test_the_launchers_own_record_of_a_failure_is_preferred(study):
    folder = start(*study, end=NOW - 10, step=None)
    write_json(folder / "failure.json", {"message": "corpus.json: no such file", "known": True})
    assert states(*study)[0].message == "corpus.json: no such file"


def test_view_and_totals(study):
    plan, results = study
    start(plan, results)
    text = io.StringIO()
    show_status(plan.file, results, Console(file=text, width=80))
    shown = text.getvalue()
    for folder, name in (segment.split("/") for segment in plan.segments):
        assert f"{folder}/ " in shown
        assert f"  {name} " in shown
    # Two finished segments of 1200 steps together, 20 of TST's 1200; 120 s on two ranks.
    line = totals(plan, segment_statuses(plan, results, now=NOW))
    assert line.startswith("5 segments: 2 finished, 1 running, 2 waiting. 1220 of 2400 steps (51%). Used: ")
    assert line[:40] in shown
