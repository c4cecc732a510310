"""What segments really used: hours times devices over all attempts, failed ones included.

Slurm's own accounts are taken for attempts in jobs that it knows; they begin when a job holds its nodes, before the
trainer starts. Elsewhere it is the launcher's clock. Each number says which. A segment that several runs share is used
once: a run's share of it is an equal part for every run of the study that passes it, so that the shares add up to the
study's total.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan.cluster.accounting import JobUsage, job_usage
from tst_titan.collect.segments import read_done
from tst_titan.errors import UserError
from tst_titan.plan import Plan
from tst_titan.results import Results
from tst_titan.train.attempts import Attempt, device_hours, last_sign_of_life, num_devices, read_attempts

SLURM, LAUNCHER = "sacct", "launcher"
# What hours of attempts that name no device are counted in.
RANK = "rank"


@dataclass(frozen=True)
class Usage:
    """Hours times devices that one or more segments used so far.

    `kind`: what a device is, such as "GPU" or "CPU core" (several joined by " and "). `source`: sacct, launcher or
    both. `failed_hours` and `failed`: hours and number of the attempts that failed or were killed, also in `hours`.
    """

    hours: float
    kind: str
    source: str
    attempts: int
    failed: int
    failed_hours: float
    slurm_jobs: tuple[str, ...] = ()


def total(usages: Iterable[Usage]) -> Usage | None:
    """Several segments' usage as one; None of none."""
    usages = list(usages)
    if not usages:
        return None
    return Usage(
        hours=sum(usage.hours for usage in usages),
        kind=_joined(usage.kind for usage in usages),
        source=_joined(usage.source for usage in usages),
        attempts=sum(usage.attempts for usage in usages),
        failed=sum(usage.failed for usage in usages),
        failed_hours=sum(usage.failed_hours for usage in usages),
        slurm_jobs=tuple(dict.fromkeys(job for usage in usages for job in usage.slurm_jobs)),
    )


def study_usage(plan: Plan, results: Path, *, ask_slurm: bool = True) -> dict[str, Usage]:
    """The usage of every segment of a plan that was ever attempted, by id; Slurm is asked once for all of them."""
    attempts = {}
    for id, segment in plan.segments.items():
        folder = Results(results).segment(id).folder
        # A record that cannot be believed tells no hours either.
        done, _ = read_done(segment, folder)
        if found := segment_attempts(folder, done):
            attempts[id] = found
    started = [attempt for found in attempts.values() for attempt in found if attempt.get("slurm_job_id")]
    accounts: Mapping[str, JobUsage] = {}
    if ask_slurm and started:
        since = min(attempt["start"] for attempt in started)
        accounts = job_usage((attempt["slurm_job_id"] for attempt in started), since)
    return usage_of(attempts, accounts)


def segment_attempts(folder: Path, done: Mapping[str, Any] | None = None) -> list[Attempt]:
    """All attempts at a segment, ended: one that runs ends when it last wrote. [] where there are none, or none that
    can be read."""
    try:
        attempts = read_attempts(folder) if done is None else done["attempts"]
        ended = [
            attempt if attempt["end"] is not None else attempt | {"end": last_sign_of_life(attempt, folder)}
            for attempt in attempts
        ]
        for attempt in ended:
            device_hours(attempt)
    except (UserError, KeyError, TypeError):
        return []
    return ended


def usage_of(attempts: Mapping[str, list[Attempt]], accounts: Mapping[str, JobUsage]) -> dict[str, Usage]:
    """Each segment's usage from its attempts and Slurm's accounts; a Slurm job of several attempts is divided by their
    own hours."""
    in_job: defaultdict[str, list[float]] = defaultdict(list)
    for found in attempts.values():
        for attempt in found:
            in_job[str(attempt.get("slurm_job_id"))].append(device_hours(attempt))

    def hours_of(attempt: Attempt) -> tuple[float, str]:
        own = device_hours(attempt)
        job = accounts.get(str(attempt.get("slurm_job_id")))
        if job is None:
            return own, LAUNCHER
        in_all = in_job[str(attempt["slurm_job_id"])]
        share = own / sum(in_all) if sum(in_all) else 1 / len(in_all)
        return share * _job_hours(job, attempt), SLURM

    return {id: _segment_usage(found, [hours_of(attempt) for attempt in found]) for id, found in attempts.items()}


def _job_hours(job: JobUsage, attempt: Attempt) -> float:
    """Slurm's hours times devices of the attempt's kind; where it counts no GPUs, its hours times the attempt's own."""
    if attempt.get("device_kind") == "GPU" and job.gpu_hours is not None:
        return job.gpu_hours
    if attempt.get("device_kind") == "CPU core":
        return job.cpu_hours
    return job.hours * num_devices(attempt)


def _segment_usage(attempts: list[Attempt], hours: list[tuple[float, str]]) -> Usage:
    # An attempt that runs has no outcome yet.
    failed = [attempt.get("outcome") in ("failed", "killed") for attempt in attempts]
    return Usage(
        hours=sum(value for value, _ in hours),
        kind=_joined(attempt.get("device_kind") or RANK for attempt in attempts),
        source=_joined(source for _, source in hours),
        attempts=len(attempts),
        failed=sum(failed),
        failed_hours=sum(value for (value, _), ended_badly in zip(hours, failed, strict=True) if ended_badly),
        slurm_jobs=tuple(dict.fromkeys(job for attempt in attempts if (job := attempt.get("slurm_job_id")))),
    )


def _joined(words: Iterable[str]) -> str:
    """Distinct words in order of first use, "a and b" taken apart again."""
    return " and ".join(dict.fromkeys(word for words_ in words for word in words_.split(" and ")))


def run_columns(plan: Plan, usages: Mapping[str, Usage]) -> dict[str, dict[str, Any]]:
    """By run, the table's columns of cost: hours along its whole path, its share of them, what and whence they are, the
    plan's."""
    passing = Counter(id for run in plan.runs for id in run.segments)
    columns = {}
    for run in plan.runs:
        used = [(id, usages[id]) for id in run.segments if id in usages]
        whole = total(usage for _, usage in used)
        columns[run.run] = {
            "device_hours": whole and whole.hours,
            "device_hours_share": sum(usage.hours / passing[id] for id, usage in used) if used else None,
            "device_kind": whole and whole.kind,
            "device_hours_source": whole and whole.source,
            "gpu_hours_planned": run.gpu_hours,
        }
    return columns
