"""The training processes of one node: how they are started, how a stop signal reaches them, and how they end together.

Without Slurm the launcher starts the ranks itself. Under Slurm it starts `srun`, which starts this module once on every
node, and this starts the ranks there: `python -m tst_titan.train.node job.json`, with `--master HOST:PORT` where there
are several. Slurm gives signals (time limit, preemption, scancel --signal) to the tasks of a step, so each node hears
them for itself; the ranks agree on the step at which all stop (`tst_titan.train.titan.trainer`).

When one rank fails, the others may wait for it in a collective for as long as its timeout: they get some seconds for a
word of their own and are killed. Ranks are children of whoever holds their locks, inherit these, and are killed when it
ends.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from tst_titan.cluster import own_job, slurm
from tst_titan.files import write_json
from tst_titan.meeting import private_meeting
from tst_titan.private import cache_folder, processor_kind
from tst_titan.processes import FAREWELL_SECONDS, Process, ending_with_parent, kill, start_ranks
from tst_titan.train.failures import first_failure, has_failure, record_failure
from tst_titan.train.job import EXIT_CONTINUE, STOP_SIGNALS, Job, read_job

# glibc returns each freed buffer of some megabytes to the system and faults it in anew every step. Kept, a CPU
# superposition step of the quickstart's model costs 1.04 instead of 1.21 recovery steps (benchmarks/cpu_overhead.py).
MALLOC_KEEPS_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
# What a node's task takes as: end your ranks now. srun passes it on.
END_SIGNAL = signal.SIGUSR2
WORKER = "tst_titan.train.titan.worker"
ROUND_SECONDS = 0.2
# A signal is passed on again and again, as it is lost on a worker that has not yet begun.
ROUNDS_A_SIGNAL = 5
# How long the tasks of a step that is to end may take before srun is killed.
STEP_END_SECONDS = 20.0


def environment(job: Job) -> dict[str, str]:
    """The environment of the ranks, on this node or behind srun.

    Left to itself torch compiles with 32 processes a rank, whatever the job was granted, and runs what it finds in
    /tmp, where another user may have put it.
    """
    threads = str(job.hardware.threads)
    compiled = {}
    if job.hardware.compile or job.segment.recipe.attention == "document":  # flex attention is compiled always
        cache = cache_folder("compiled", processor_kind())
        compiled = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    return (
        MALLOC_KEEPS_BUFFERS
        | compiled
        | {"TORCHINDUCTOR_COMPILE_THREADS": threads}
        | slurm.environment()
        | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    )


class Running(Protocol):
    """Training processes as `supervise` sees them."""

    def wait(self, seconds: float) -> int | None:
        """The status once all have ended, or None after `seconds`."""

    def failed(self) -> bool:
        """Whether one of them has failed."""

    def stop(self) -> None:
        """Tell them to save and stop; harmless to those that have been told."""

    def end(self) -> None:
        """End them at once."""


@dataclass
class Ranks:
    """The ranks of one node, the first of which is `first`."""

    job: Job
    processes: Sequence[Process]
    first: int = 0
    ended: bool = False

    def wait(self, seconds: float) -> int | None:
        running = next((process for process in self.processes if process.poll() is None), None)
        if running is not None:
            with suppress(subprocess.TimeoutExpired):
                running.wait(seconds)
        self.failed()
        if any(process.poll() is None for process in self.processes):
            return None
        return next((process.returncode for process in self.processes if process.returncode), 0)

    def failed(self) -> bool:
        """Also notes the end of those that had no time to do so themselves."""
        ended = [(rank, process.poll()) for rank, process in enumerate(self.processes, self.first)]
        for rank, status in ended:
            if status and not self.ended and not has_failure(self.job.folder, rank):
                record_failure(self.job.folder, rank, _end_of_rank(rank, status), known=False)
        return any(status for _, status in ended)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        self.ended = True  # what was killed here needs no reason
        kill(self.processes)


@dataclass
class Step:
    """The ranks of all nodes behind `srun`, which passes signals on to the nodes' tasks."""

    job: Job
    srun: Process

    def wait(self, seconds: float) -> int | None:
        try:
            return self.srun.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def failed(self) -> bool:
        return first_failure(self.job.folder) is not None

    def stop(self) -> None:
        self.srun.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        self.srun.send_signal(END_SIGNAL)
        try:
            self.srun.wait(STEP_END_SECONDS)
        except subprocess.TimeoutExpired:  # a node that is gone does not answer
            kill([self.srun])


def start_here(
    job: Job,
    node_environment: Mapping[str, str],
    *,
    meeting: Path | str,
    node: int = 0,
    output: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Ranks:
    """Start the ranks of one node, the `node`-th of the job; they meet at `meeting` (`start_ranks`)."""
    hardware = job.hardware
    first = node * hardware.processes
    command = [sys.executable, "-m", WORKER, str(job.files.job.absolute())]
    processes = start_ranks(
        command,
        hardware.processes,
        environment=node_environment,
        meeting=meeting,
        first=first,
        world_size=hardware.world_size,
        output=output,
        ignored=STOP_SIGNALS,
        pass_fds=pass_fds,
    )
    return Ranks(job, processes, first)


def start_step(
    job: Job, node_environment: Mapping[str, str], *, master: str | None, output: int, pass_fds: Sequence[int]
) -> Step:
    """Start srun of this module on every node of the job, the first of which this process is on.

    `master`: HOST:PORT where rank 0 listens, None where there is one node.
    """
    hardware = job.hardware
    command = [
        *own_job.srun(hardware.nodes, hardware.processes * hardware.threads),
        sys.executable,
        "-m",
        "tst_titan.train.node",
        str(job.files.job.absolute()),
        *(["--master", master] if master else []),
    ]
    # When this process is killed, srun lives to tell the tasks.
    srun = subprocess.Popen(
        command,
        env=node_environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=ending_with_parent(END_SIGNAL),
        pass_fds=pass_fds,
    )
    return Step(job, srun)


def supervise(running: Running, each_round: Callable[[], bool] = lambda: False, *, said: str = "") -> int:
    """Wait for the end of `running`; once this process is told to stop or `each_round` says so, tell it to until it
    has.

    Returns its status. Whatever `each_round` raises ends it at once, a rank that failed ends it soon.
    """
    told_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    rounds_told, farewell = 0, float("inf")
    try:
        while (status := running.wait(ROUND_SECONDS)) is None:
            told_to_stop = each_round() or told_to_stop
            if told_to_stop:
                if rounds_told == 0 and said:
                    print(said, file=sys.stderr, flush=True)
                if rounds_told % ROUNDS_A_SIGNAL == 0:
                    running.stop()
                rounds_told += 1
            if running.failed():
                farewell = min(farewell, time.monotonic() + FAREWELL_SECONDS)
                if time.monotonic() > farewell:
                    running.end()
        return status
    except BaseException:
        running.end()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def silent_nodes(job: Job) -> list[int]:
    """Ranks of the nodes whose processes did not live to tell their end."""
    return [rank for rank in range(job.hardware.nodes) if not job.files.node(rank).exists()]


def _end_of_rank(rank: int, status: int) -> str:
    """What is known of a rank that ended without a word."""
    if status > 0:
        return f"rank {rank} on {socket.gethostname()} ended with status {status} without a word"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    why = " (out of host memory? dmesg tells)" if -status == signal.SIGKILL else ""
    return (
        f"rank {rank} on {socket.gethostname()} was killed by {name}{why}; run again to go on from the last checkpoint"
    )


class EndedFromAbove(Exception):
    """The launcher ended this node's ranks, or has ended itself."""


def main() -> int:
    """One node's task under srun."""
    parser = argparse.ArgumentParser(prog="python -m tst_titan.train.node")
    parser.add_argument("job", type=Path)
    parser.add_argument("--master", metavar="HOST:PORT")
    args = parser.parse_args()
    job, node = read_job(args.job), int(os.environ["SLURM_NODEID"])

    ended_from_above = threading.Event()
    signal.signal(END_SIGNAL, lambda number, frame: ended_from_above.set())

    def each_round() -> bool:
        if ended_from_above.is_set():
            raise EndedFromAbove
        return False

    try:
        with nullcontext(args.master) if args.master else private_meeting() as meeting:
            status = supervise(start_here(job, os.environ, meeting=meeting, node=node), each_round)
    except EndedFromAbove:
        status = 1
    write_json(job.files.node(node), {"host": socket.gethostname(), "status": status})
    # Slurm shows a task's status to whoever looks at the step; ours is read from the files.
    return status if status in (0, EXIT_CONTINUE) else 1


if __name__ == "__main__":
    sys.exit(main())
