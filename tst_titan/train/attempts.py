"""What each attempt at a segment used: `attempts.json`, from its start to its end, failed ones included.

An attempt holds `start` and `end` (seconds since 1970, `end` None while it runs), `outcome` (finished, stopped: saved and to be
run again, failed, killed: it had no time to say), `step` (last saved), `host`, `nodes`, `processes` (a node),
`world_size`, `devices` of `device_kind` ("GPU" or "CPU core", over all nodes), and in a Slurm job its `slurm_job_id` and
`slurm_restart` (how often Slurm had requeued it).
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tst_titan.files import read_json, write_json
from tst_titan.train.hardware import Hardware

Attempt = dict[str, Any]


def start_attempt(folder: Path, hardware: Hardware, gpus_per_node: int) -> None:
    """Note the start of an attempt in `folder/attempts.json`; one before it that was killed ended when it last wrote."""
    attempts = [_ended(attempt, folder) for attempt in read_attempts(folder)]
    cores = hardware.world_size * hardware.threads
    attempt = {
        "start": time.time(), "end": None, "outcome": None, "step": None, "host": socket.gethostname(),
        "nodes": hardware.nodes, "processes": hardware.processes, "world_size": hardware.world_size,
        "devices": hardware.nodes * gpus_per_node if gpus_per_node else cores,
        "device_kind": "GPU" if gpus_per_node else "CPU core",
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)) if "SLURM_JOB_ID" in os.environ else None,
    }  # fmt: skip
    write_json(folder / "attempts.json", [*attempts, attempt])


def end_attempt(folder: Path, outcome: dict[str, Any] | None) -> list[Attempt]:
    """Note the end of the last attempt, with the workers' `outcome` (None: they failed); returns all attempts."""
    *before, last = read_attempts(folder)
    how = "failed" if outcome is None else "stopped" if outcome["stopped"] else "finished"
    attempts = [
        *before,
        last | {"end": time.time(), "outcome": how, "step": outcome["step"] if outcome else None},
    ]
    write_json(folder / "attempts.json", attempts)
    return attempts


def read_attempts(folder: Path) -> list[Attempt]:
    """All attempts at a segment that is not finished, the running one last; [] before the first."""
    path = folder / "attempts.json"
    return read_json(path) if path.exists() else []


def _ended(attempt: Attempt, folder: Path) -> Attempt:
    if attempt["end"] is not None:
        return attempt
    return attempt | {"end": last_sign_of_life(attempt, folder), "outcome": "killed"}


def last_sign_of_life(attempt: Attempt, folder: Path) -> float:
    """When the attempt that runs, or was killed, last wrote (seconds since 1970)."""
    written = [folder / name for name in ("metrics.jsonl", "train.log")]
    return max([attempt["start"], *(path.stat().st_mtime for path in written if path.exists())])


def device_hours(attempt: Attempt) -> float:
    """Hours that an ended attempt took, times its devices."""
    return (attempt["end"] - attempt["start"]) * num_devices(attempt) / 3600


def usage_record(attempts: list[Attempt]) -> dict[str, Any]:
    """What a finished segment used, by the launcher's clock, for its provenance; Slurm's own number is asked for when results are collected."""
    kinds = dict.fromkeys(attempt.get("device_kind") or "rank" for attempt in attempts)
    return {
        "device_hours": sum(device_hours(attempt) for attempt in attempts),
        "device_kind": " and ".join(kinds),
        "device_hours_source": "launcher",
        "attempts": len(attempts),
        "slurm_job_ids": list(dict.fromkeys(job for attempt in attempts if (job := attempt["slurm_job_id"]))),
    }


def num_devices(attempt: Attempt) -> int:
    """Devices that an attempt had; its ranks where it says no devices."""
    return int(attempt.get("devices") or attempt["world_size"])
