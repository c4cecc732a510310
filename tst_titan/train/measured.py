"""What a segment's folder tells of how long its steps and saves take, over what the plan says."""

import json
import os
import statistics
from pathlib import Path
from typing import Any

from tst_titan.files import read_json, write_json
from tst_titan.train.job import Job
from tst_titan.train.time_bounds import TimeBounds, bounds, planned_bounds

LAST_SAVE = "last_save.json"
# A step that compiled, or a row with a save between its steps, is one of these and not the middle one.
ROWS = 3


def measured(job: Job) -> TimeBounds:
    """The plan's bounds with the time of the last steps and of the last save, where there are any."""
    recipe, hardware, held_out = job.segment.recipe, job.hardware, job.validation_tokens
    plan = planned_bounds(recipe, hardware, job.accelerator, held_out)
    rows = last_training_rows(job.folder / "metrics.jsonl", ROWS)
    saved = job.folder / LAST_SAVE
    return bounds(
        recipe,
        hardware,
        held_out,
        step=statistics.median_low(row["step_time_s"] for row in rows) if rows else plan.step,
        save=read_json(saved)["seconds"] if saved.exists() else None,
    )


def record_save(folder: Path, step: int, seconds: float) -> None:
    """Note how long the save of `step` took."""
    write_json(folder / LAST_SAVE, {"step": step, "seconds": seconds})


def last_training_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The last whole rows with a training loss, the newest last, read from the file's end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8192 * count))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows: list[dict[str, Any]] = []
    for line in reversed(lines[:-1]):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "loss" in row:
            rows.insert(0, row)
        if len(rows) == count:
            break
    return rows
