"""What a segment's folder tells of how long its steps and saves take, over what the plan says."""

import statistics
from pathlib import Path

from tst_titan.files import read_json, write_json
from tst_titan.metrics_rows import last_training_rows
from tst_titan.results import SegmentFiles
from tst_titan.train.job import Job
from tst_titan.train.time_bounds import TimeBounds, bounds, planned_bounds

# A step that compiled, or a row with a save between its steps, is one of these and not the middle one.
ROWS = 3


def measured(job: Job) -> TimeBounds:
    """The plan's bounds with the time of the last steps and of the last save, where there are any."""
    recipe, hardware, held_out = job.segment.recipe, job.hardware, job.validation_tokens
    plan = planned_bounds(recipe, hardware, job.accelerator, held_out)
    rows = last_training_rows(job.files.metrics, ROWS)
    saved = job.files.last_save
    return bounds(
        recipe,
        hardware,
        held_out,
        step=statistics.median_low(row["step_time_s"] for row in rows) if rows else plan.step,
        save=read_json(saved)["seconds"] if saved.exists() else None,
    )


def record_save(folder: Path, step: int, seconds: float) -> None:
    """Note how long the save of `step` took."""
    write_json(SegmentFiles(folder).last_save, {"step": step, "seconds": seconds})
