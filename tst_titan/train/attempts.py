"""What each attempt at a segment used: `attempts.json`, from its start to its end, failed ones included.

An attempt holds `start` and `end` (seconds since 1970, `end` None while it runs), `outcome` (finished, stopped: saved
and to be run again, failed, killed: not by its own doing, or it had no time to say), `step` (from which the next goes
on), `host`, `nodes`, `processes` (a node), `world_size`, `devices` of `device_kind` ("GPU" or "CPU core", over all
nodes), and in a Slurm job its `slurm_job_id` and `slurm_restart` (how often Slurm had requeued it).
"""

import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

from tst_titan.cluster import own_job
from tst_titan.files import read_json, write_json
from tst_titan.results import SegmentFiles, checkpoint_index, checkpoint_steps
from tst_titan.train.job import Job

# Attempts in a row that end at one step before it is no use to try again.
STANDSTILL = 3

Attempt = dict[str, Any]


def start_attempt(job: Job, gpus_per_node: int) -> None:
    """Note the start of an attempt; one before it that has no end was killed when it last wrote."""
    hardware = job.hardware
    attempts = [
        attempt
        if attempt["end"] is not None
        else attempt | {"end": last_sign_of_life(attempt, job.folder), "outcome": "killed", "step": _saved_step(job)}
        for attempt in read_attempts(job.folder)
    ]
    in_slurm = "SLURM_JOB_ID" in os.environ
    attempt = {
        "start": time.time(), "end": None, "outcome": None, "step": None, "host": socket.gethostname(),
        "nodes": hardware.nodes, "processes": hardware.processes, "world_size": hardware.world_size,
        "devices": hardware.nodes * gpus_per_node or hardware.world_size * hardware.threads,
        "device_kind": "GPU" if gpus_per_node else "CPU core",
        "slurm_job_id": os.environ["SLURM_JOB_ID"] if in_slurm else None,
        "slurm_restart": own_job.restarts() if in_slurm else None,
    }  # fmt: skip
    write_json(job.files.attempts, [*attempts, attempt])


def end_attempt(job: Job, outcome: Literal["finished", "stopped", "failed", "killed"]) -> list[Attempt]:
    """Note the end of the last attempt and the step from which the next would go on; returns all attempts."""
    *before, last = read_attempts(job.folder)
    attempts = [*before, last | {"end": time.time(), "outcome": outcome, "step": _saved_step(job)}]
    write_json(job.files.attempts, attempts)
    return attempts


def read_attempts(folder: Path) -> list[Attempt]:
    """All attempts at a segment that is not finished, the running one last; [] before the first."""
    path = SegmentFiles(folder).attempts
    return read_json(path) if path.exists() else []


def last_sign_of_life(attempt: Attempt, folder: Path) -> float:
    """When the attempt that runs, or was killed, last wrote (seconds since 1970)."""
    written = SegmentFiles(folder).metrics, SegmentFiles(folder).log
    return max([attempt["start"], *(path.stat().st_mtime for path in written if path.exists())])


def _saved_step(job: Job) -> int:
    steps = checkpoint_steps(job.checkpoints)
    saved = [step for step in steps if checkpoint_index(job.files.checkpoint(step)).exists()]
    return max(saved, default=job.segment.start_step)


def stands_still(attempts: list[Attempt]) -> bool:
    """Whether the last attempts all ended where the one before them had."""
    steps = [attempt["step"] for attempt in attempts[-STANDSTILL - 1 :]]
    if len(attempts) == STANDSTILL:  # all there were: none left the start if none of them moved
        return len(set(steps)) == 1
    return len(attempts) > STANDSTILL and len(set(steps)) == 1


def num_devices(attempt: Attempt) -> int:
    """Devices that an attempt had; its ranks where it says no devices."""
    return int(attempt.get("devices") or attempt["world_size"])


def device_hours(attempt: Attempt) -> float:
    """Hours that an ended attempt took, times its devices."""
    return (attempt["end"] - attempt["start"]) * num_devices(attempt) / 3600


def usage_record(attempts: list[Attempt]) -> dict[str, Any]:
    """What a finished segment used by the launcher's clock, for its provenance; Slurm is asked when results are
    collected."""
    kinds = dict.fromkeys(attempt.get("device_kind") or "rank" for attempt in attempts)
    return {
        "device_hours": sum(device_hours(attempt) for attempt in attempts),
        "device_kind": " and ".join(kinds),
        "device_hours_source": "launcher",
        "attempts": len(attempts),
        "slurm_job_ids": list(dict.fromkeys(job for attempt in attempts if (job := attempt["slurm_job_id"]))),
    }
