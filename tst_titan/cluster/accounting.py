"""What Slurm says that jobs used, where it keeps accounts: one `sacct` call for any number of jobs."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from tst_titan.cluster.notation import parse_tres
from tst_titan.cluster.slurm import ask

# A job id comes around again after a while; nothing older than its first attempt, by this margin, is the same job.
MARGIN_SECONDS = 86400.0


@dataclass(frozen=True)
class JobUsage:
    """One Slurm job over all its requeues: hours that it held nodes (`hours`), and those times GPUs and times CPU
    cores.

    `gpu_hours` is None where the cluster does not account GPUs (`AccountingStorageTRES` without `gres/gpu`).
    """

    hours: float
    gpu_hours: float | None
    cpu_hours: float


def job_usage(job_ids: Iterable[str], since: float) -> dict[str, JobUsage]:
    """Slurm's accounts of the jobs that it knows, by id; {} where there is no `sacct` or nothing is accounted.

    `since`: start of the earliest of them, in seconds since 1970.
    """
    ids = sorted(set(job_ids))
    if not ids:
        return {}
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(max(0.0, since - MARGIN_SECONDS)))
    # -D: every requeue of a job is a record of its own. -X: whole jobs, not their steps.
    columns = "JobID,JobIDRaw,ElapsedRaw,AllocTRES"
    answer = ask(["sacct", "-X", "-D", "-n", "-P", "-S", start, "-j", ",".join(ids), "-o", columns])
    return read_accounts(answer.text) if answer.ok else {}


def read_accounts(text: str) -> dict[str, JobUsage]:
    """The usage in `sacct -P -n -o JobID,JobIDRaw,ElapsedRaw,AllocTRES`, by both ids of a job (an array's task has
    two)."""
    found: dict[str, JobUsage] = {}
    for line in text.splitlines():
        job_id, raw_id, seconds, allocated = line.split("|")
        if not seconds.isdigit():
            continue
        counts, hours = parse_tres(allocated), int(seconds) / 3600
        gpus = counts.get("gpu")
        for name in {job_id, raw_id}:
            before = found.get(name, JobUsage(0.0, None, 0.0))
            found[name] = JobUsage(
                hours=before.hours + hours,
                gpu_hours=before.gpu_hours if gpus is None else (before.gpu_hours or 0.0) + gpus * hours,
                cpu_hours=before.cpu_hours + hours * counts.get("cpu", 0),
            )
    return found
