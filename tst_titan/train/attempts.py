"""The attempts at a segment: when each began and ended, where, and which step it reached (`attempts.json`)."""

import os
import socket
import time
from typing import Any

from tst_titan.files import read_json, write_json
from tst_titan.train.job import Job

# Attempts in a row that end at one step before it is no use to try again.
STANDSTILL = 3


def start_attempt(job: Job) -> dict[str, Any]:
    """Note the start of this attempt; one before that was killed ended when it last wrote."""
    path = job.folder / "attempts.json"
    attempts = read_json(path) if path.exists() else []
    for attempt in attempts:
        if attempt["end"] is None:
            written = [
                file.stat().st_mtime
                for name in ("metrics.jsonl", "train.log")
                if (file := job.folder / name).exists()
            ]
            attempt["end"] = max([attempt["start"], *written])
    attempt = {
        "start": time.time(), "end": None, "step": None, "host": socket.gethostname(),
        "world_size": job.hardware.world_size, "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }  # fmt: skip
    write_json(path, [*attempts, attempt])
    return attempt


def end_attempt(job: Job, attempt: dict[str, Any], outcome: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Note the end of this attempt and the step from which the next would go on; returns all attempts."""
    path = job.folder / "attempts.json"
    attempts = read_json(path)
    attempts[-1] = attempt | {"end": time.time(), "step": outcome["step"] if outcome else _saved_step(job)}
    write_json(path, attempts)
    return attempts


def _saved_step(job: Job) -> int:
    numbers = [path.parent.name.removeprefix("step-") for path in job.checkpoints.glob("step-*/.metadata")]
    return max((int(number) for number in numbers if number.isdigit()), default=job.segment.start_step)


def stands_still(attempts: list[dict[str, Any]]) -> bool:
    """Whether the last attempts all ended where the one before them had."""
    steps = [attempt["step"] for attempt in attempts[-STANDSTILL - 1 :]]
    if len(attempts) == STANDSTILL:  # all there were: none left the start if none of them moved
        return len(set(steps)) == 1
    return len(attempts) > STANDSTILL and len(set(steps)) == 1
