"""What a training job asks of Slurm about itself: where it runs, one task a node, its state, and to be run again.

Everything here is Slurm's own commands. Nothing is asked unless the profile says that jobs are Slurm's:
`TST_TITAN_LAUNCHER=srun` in the job's environment (slurm/config.yaml).
"""

import contextlib
import os
import re
import shlex
import socket
import sys
import time

from tst_titan.cluster.jobs import job_id, node_name
from tst_titan.cluster.notation import parse_duration
from tst_titan.cluster.slurm import run
from tst_titan.errors import UserError

# A controller that restarts, or is changed for its backup, is away for minutes: no reason to lose a job that trains.
PATIENCE_SECONDS = 1200.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
# What Slurm says that asking again does not change.
_REFUSED = re.compile(r"denied|disabled|invalid|not permitted|not found", re.IGNORECASE)
# In a job's environment: a site's own options of the srun that starts training.
SRUN_OPTIONS = "TST_TITAN_SRUN_OPTIONS"


def launches() -> bool:
    """Whether training processes are to be started by srun."""
    return os.environ.get("TST_TITAN_LAUNCHER") == "srun" and job_id() is not None


def restarts() -> int:
    """How often Slurm has started this job again."""
    return int(os.environ.get("TST_TITAN_SLURM_RESTARTS") or os.environ.get("SLURM_RESTART_COUNT") or 0)


def own_state() -> str | None:
    """Slurm's word for the state of this start of our job; None where Slurm has queued or started it anew since.

    A node whose slurmd died is lost to Slurm, which starts the job elsewhere; its processes may live on. `NoAnswer`
    where Slurm stays away.
    """
    lines = _ask(
        "squeue", "--noheader", "--states=all", f"--jobs={job_id()}", "--Format=State:30,RestartCnt:30"
    ).split()
    return lines[0] if lines and int(lines[1]) == restarts() else None


def seconds_left() -> float:
    """Until this job's time limit; infinite where there is none, or Slurm stays away."""
    try:
        left = _ask("squeue", "--noheader", f"--jobs={job_id()}", "--format=%L").strip()
    except NoAnswer as error:
        print(
            f"warning: time left is not known, so nothing is saved just before the limit: {error}",
            file=sys.stderr,
        )
        return float("inf")
    return parse_duration(left)


def run_again(*, after: str | None = None) -> bool:
    """Put this job back into the queue, behind the end of job `after`; False where Slurm has ended it already.

    Slurm ends the processes of a job that it requeues (SIGTERM, KillWait, SIGKILL): call this when nothing is left to
    do but exit. A job that was cancelled, preempted, lost a node or runs anew is in Slurm's hands, and left there.
    """
    job = job_id()
    if job is None or own_state() != "RUNNING":
        return False
    _ask("scontrol", "requeue", job)
    if after is not None:
        _ask("scontrol", "update", f"JobId={job}", f"Dependency=afterany:{after}")
    return True


def describe(comment: str) -> None:
    """Show `comment` in squeue (`--format=%k`) for this job; no reason to fail where a site forbids it."""
    with contextlib.suppress(UserError):
        run("scontrol", "update", f"JobId={job_id()}", f"Comment={comment}")


def address_in_job() -> str:
    """The address of this node on the network by which it reaches the job's other nodes, as Slurm knows their
    addresses.

    Not what its own name resolves to, which is a loopback address on many systems.
    """
    # Snakemake's executor takes the list of nodes out of the environment of what it starts.
    nodes = _ask("squeue", "--noheader", f"--jobs={job_id()}", "--format=%N").strip()
    names = _ask("scontrol", "show", "hostnames", nodes).split()
    other = next((name for name in names if name != node_name()), names[0])
    found = re.search(r"NodeAddr=(\S+)", _ask("scontrol", "show", "node", other))
    host = found.group(1) if found else other
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as route:
            route.connect(address)  # asks the kernel for the way; nothing is sent
            return str(route.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"node {other}: its address {host!r} in Slurm cannot be reached from {node_name()}: {error.strerror}"
        ) from error


def srun(nodes: int, cpus: int) -> list[str]:
    """The command that starts one task on each of the job's nodes with all that the job has there.

    --overlap: the step shares the nodes with the one that this process may be in. --mem=0: all of the job's memory.
    When one node's processes end, those of the others have a minute to end by themselves and to say why.
    """
    return [
        "srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}",
        "--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=60", "--unbuffered", "--job-name=train",
        *shlex.split(os.environ.get(SRUN_OPTIONS, "")),
    ]  # fmt: skip


class NoAnswer(UserError):
    """Slurm was asked for as long as `PATIENCE_SECONDS` and did not answer."""


def _ask(*command: str) -> str:
    """The answer to a command that a controller which is away for some minutes only delays; the log says that it
    does."""
    start, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    while True:
        try:
            answer = run(*command)
        except UserError as error:
            waited = time.monotonic() - start
            if _REFUSED.search(str(error)):
                raise
            if waited + pause > PATIENCE_SECONDS:
                raise NoAnswer(f"Slurm did not answer for {waited / 60:.0f} minutes: {error}") from None
            if pause == FIRST_PAUSE_SECONDS:
                print(
                    f"no answer from Slurm, asking again for {PATIENCE_SECONDS / 60:.0f} minutes: {error}",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            if pause > FIRST_PAUSE_SECONDS:
                print("Slurm answers again", file=sys.stderr, flush=True)
            return answer
