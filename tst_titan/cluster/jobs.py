"""Slurm's jobs as the processes of one see them: its id and node, and whether another runs."""

import os
import subprocess

from tst_titan.errors import UserError

COMMAND_SECONDS = 60
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


def environment() -> dict[str, str]:
    """The environment in which Slurm's commands find their cluster."""
    configuration = os.environ.get("TST_TITAN_SLURM_CONF")
    return os.environ | ({"SLURM_CONF": configuration} if configuration else {})


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


def run(*command: str) -> str:
    """What a command of Slurm's says; "" where it knows no such job. `UserError` where it fails or does not answer."""
    try:
        done = subprocess.run(
            command,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]}: not found; is Slurm on PATH on the compute nodes?") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)}: no answer in {COMMAND_SECONDS} s") from None
    if done.returncode:
        if "Invalid job id" in done.stderr:
            return ""
        raise UserError(f"{' '.join(command)}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
