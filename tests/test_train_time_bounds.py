"""How long things may take: planned, then measured; and when a job under a time limit is told to stop."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from training import chain, constant, make_job, published_recipe, recipe

from tst_titan.plan.costs import Accelerator, checkpoint_bytes
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job, read_job, write_job
from tst_titan.train.layouts import layouts
from tst_titan.train.measured import measured, record_save
from tst_titan.train.stop_clock import StopClock
from tst_titan.train.time_bounds import LEAST_TIMEOUT, TimeBounds, planned_bounds

DOCS = Path(__file__).parent.parent / "docs" / "training.md"
HELD_OUT = 10_000_000


def published_bounds(model: str, name: str) -> TimeBounds:
    accelerator = Accelerator("a100" if "40gb" in name else "h100", 0.4)
    return planned_bounds(published_recipe(model), layouts(model)[name].hardware, accelerator, HELD_OUT)


def test_a_slow_layout_has_the_time_that_its_steps_and_its_checkpoint_take() -> None:
    """10B-A1B on one node: 180 seconds, the same for all, were less than one save of 126 GB at a node's share of a
    disk."""
    slow = published_bounds("10B-A1B", "one-node")
    assert checkpoint_bytes(published_recipe("10B-A1B").model) == pytest.approx(126e9, rel=0.01)
    assert slow.save > 180
    assert 22 < slow.step < 44
    assert slow.stop_seconds > slow.step + slow.validation + 2 * slow.save
    assert published_bounds("270M", "several-nodes").stop_seconds < 180


@pytest.mark.parametrize("model", ["270M", "600M", "3B", "10B-A1B"])
def test_no_rank_gives_up_on_one_that_is_still_at_work(model: str) -> None:
    """A process group's timeout is longer than all that a rank does between two collectives, in every layout."""
    for name in set(layouts(model)) - {"cpu"}:
        bounds = published_bounds(model, name)
        assert bounds.longest_wait >= LEAST_TIMEOUT
        assert bounds.longest_wait > bounds.step + bounds.save + bounds.validation + bounds.discard
        assert bounds.longest_start > bounds.longest_wait + bounds.compile + bounds.draw + bounds.load + bounds.discard


def test_the_documented_table_is_the_codes() -> None:
    rows = []
    for model in ("270M", "600M", "3B", "10B-A1B"):
        size = checkpoint_bytes(published_recipe(model).model) / 1e9
        for name in layouts(model):
            if name == "cpu":
                continue
            b = published_bounds(model, name)
            seconds = (b.step, b.validation, b.save, b.load, b.discard, b.draw)
            rows.append(
                f"| {model} `{name}` | {size:.1f} | "
                + " | ".join(f"{value:.1f}" for value in seconds)
                + f" | {b.stop_seconds:.0f} | {b.longest_wait:.0f} | {b.longest_start:.0f} |"
            )
    documented = [
        line
        for line in DOCS.read_text().splitlines()
        if line.startswith("| ") and " `" in line and line.count("|") == 12
    ]
    assert documented == rows, "\n".join(rows)


def slow_job(tmp_path: Path, **hardware: Any) -> Job:
    (segment,) = chain(constant(100), recipe=recipe())
    job = make_job(segment, tmp_path, tmp_path, **hardware)
    job.folder.mkdir(parents=True)
    return job


def log(job: Job, *step_times: float, at: float | None = None) -> None:
    with (job.folder / "metrics.jsonl").open("a") as file:
        for seconds in step_times:
            row = {"step": 1, "loss": 1.0, "step_time_s": seconds, "time": at or time.time()}
            file.write(json.dumps(row) + "\n" + json.dumps({"step": 1, "validation_loss": 1.0}) + "\n")


def test_what_was_measured_takes_the_plans_place(tmp_path: Path) -> None:
    job = slow_job(tmp_path)
    assert measured(job) == planned_bounds(job.segment.recipe, job.hardware, job.accelerator, 512)
    log(job, 300.0)  # the first step compiles, and is all that is known
    assert measured(job).step == 300
    log(job, 20.0)
    assert measured(job).step == 20
    log(job, 90.0, 21.0)  # a save between two rows
    assert measured(job).step == 21
    record_save(job.folder, 4, 55.0)
    assert measured(job).save == 55
    assert measured(job).stop_seconds > 2 * (55 + 21)


def test_the_clock_goes_on_with_what_is_measured(tmp_path: Path) -> None:
    """Told early enough for steps of 20 and saves of 55 seconds, of which no plan knew."""
    job = slow_job(tmp_path)
    clock = StopClock(job, 1000)
    before = clock.stop_seconds()
    log(job, 20.0)
    record_save(job.folder, 4, 55.0)
    assert clock.stop_seconds() > before + 2 * (20 + 55)
    assert not clock.is_due()
    # As a job sees it that has 200 seconds left.
    assert StopClock(job, 200).stop_seconds() == 100, "rows of an earlier start may be of other hardware"
    late = StopClock(job, 200)
    log(job, 20.0)
    assert late.stop_seconds() > 200
    assert late.is_due()
    assert not StopClock(job, math.inf).is_due()


def test_the_users_own_stop_seconds_win(tmp_path: Path) -> None:
    job = slow_job(tmp_path, stop_seconds=7.0)
    log(job, 20.0)
    assert StopClock(job, 1000).stop_seconds() == 7
    assert Hardware().stop_seconds == 0


def test_a_time_limit_that_is_mostly_stopping_is_said_before_training(tmp_path: Path) -> None:
    job = slow_job(tmp_path)
    assert StopClock(job, 3600).warning() is None
    assert StopClock(job, math.inf).warning() is None
    record_save(job.folder, 4, 300.0)
    said = StopClock(job, 1800).warning()
    assert said is not None
    assert "a save 300 s" in said
    assert "site.max_minutes" in said
    own = StopClock(slow_job(tmp_path / "own", stop_seconds=100), 120).warning()
    assert own is not None
    assert "hardware.stop_seconds says so" in own


def test_a_plan_that_is_far_off_stops_nobody_before_the_first_step(tmp_path: Path) -> None:
    """A site that states no accelerator plans a GPU's steps for a CPU core."""
    (segment,) = chain(constant(10), recipe=published_recipe("3B"))
    job = make_job(segment, tmp_path, tmp_path, processes=8)
    assert measured(job).step <= 600
    clock = StopClock(job, 3600)
    assert clock.stop_seconds() == 1800
    assert not clock.is_due()


def test_the_accelerator_goes_into_the_job_file(tmp_path: Path) -> None:
    (segment,) = chain(constant(10), recipe=recipe())
    job = Job(**vars(make_job(segment, tmp_path, tmp_path)) | {"accelerator": Accelerator("h100", 0.3)})
    job.folder.mkdir(parents=True)
    assert read_job(write_job(job)).accelerator == Accelerator("h100", 0.3)
