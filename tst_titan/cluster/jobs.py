"""Slurm's jobs as the processes of one see them: its id and node, and whether another runs."""

import os

from tst_titan.cluster.slurm import run
from tst_titan.errors import UserError

# States in which a job has processes, or is about to.
RUNNING_STATES = {
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
}


def job_id() -> str | None:
    """Id of the Slurm job that this process belongs to."""
    return os.environ.get("SLURM_JOB_ID")


def node_name() -> str | None:
    """Slurm's name of the node that this process is on."""
    return os.environ.get("SLURMD_NODENAME")


def job_state(job: str) -> str | None:
    """Slurm's word for a job's state; None where it knows no such job any more."""
    lines = run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").split()
    return lines[0] if lines else None


def job_runs(job: str) -> bool:
    """Whether a job may still have processes. A Slurm that does not answer is taken for yes: never two writers."""
    try:
        return job_state(job) in RUNNING_STATES
    except UserError:
        return True
