"""The training processes of one node: how they are started, and how a stop signal reaches them.

Without Slurm the launcher starts torchrun itself. Under Slurm it starts `srun`, which starts this module once on every
node, and this starts torchrun there: `python -m tst_titan.train.node job.json --master HOST:PORT`. Slurm gives signals
(time limit, preemption, scancel --signal) to the tasks of a step, so each node hears them for itself; the ranks agree on
the step at which all stop (`tst_titan.train.titan.trainer`).
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tst_titan.files import write_json
from tst_titan.train import slurm
from tst_titan.train.job import EXIT_CONTINUE, Job, read_job

# glibc returns each freed buffer of some megabytes to the system and faults it in anew every step. Kept, a CPU
# superposition step of the quickstart's model costs 1.04 instead of 1.21 recovery steps (benchmarks/cpu_overhead.py).
MALLOC_KEEPS_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
WORKER = "tst_titan.train.titan.worker"
# What torchrun and its workers start with: a signal that comes before a worker can save is left to the next one, and
# torchrun, which would kill them 30 seconds later whether they have saved or not, never hears any.
IGNORING_SIGNALS = ["sh", "-c", 'trap "" TERM USR1 INT; exec "$@"', "sh"]
ROUND_SECONDS = 0.2
# A signal is passed on again and again, as it is lost on a worker that has not yet begun.
ROUNDS_A_SIGNAL = 5


def environment(job: Job) -> dict[str, str]:
    """The environment of torchrun, on this node or behind srun.

    Left to itself torch compiles with 32 processes a rank, whatever the job was granted.
    """
    threads = str(job.hardware.threads)
    return (
        MALLOC_KEEPS_BUFFERS
        | {"TORCHINDUCTOR_COMPILE_THREADS": threads}
        | slurm.environment()
        | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    )


def torchrun_command(job: Job, *, rank: int = 0, master: str | None = None) -> list[str]:
    """torchrun of the node `rank`; `master` is HOST:PORT of the first node, None where there is but one."""
    if master is None:
        rendezvous = ["--nnodes=1", "--standalone"]
    else:
        host, _, port = master.rpartition(":")
        rendezvous = [
            f"--nnodes={job.hardware.nodes}",
            f"--node-rank={rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
        ]
    return [
        *IGNORING_SIGNALS, sys.executable, "-m", "torch.distributed.run", *rendezvous,
        f"--nproc-per-node={job.hardware.processes}", "--signals-to-handle=SIGQUIT",
        "--log-dir", str(job.folder / "torchrun" / str(rank)), "-m", WORKER, str(job.folder / "job.json"),
    ]  # fmt: skip


def srun_command(job: Job) -> list[str]:
    """srun of this module on every node of the job, the first of which this process is on."""
    hardware = job.hardware
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    module = [sys.executable, "-m", "tst_titan.train.node", str((job.folder / "job.json").absolute())]
    return [
        *slurm.srun(hardware.nodes, hardware.processes * hardware.threads), *module,
        "--master", f"{slurm.first_node()}:{port}",
    ]  # fmt: skip


def signal_workers(process: "subprocess.Popen[bytes]") -> None:
    """Tell the workers of torchrun to save and stop; harmless to those that have been told."""
    for pid in _children(process.pid):
        try:
            if WORKER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGUSR1)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has just ended


def signal_srun(process: "subprocess.Popen[bytes]") -> None:
    """Tell the tasks of all nodes to save and stop: `process` is srun, which passes SIGUSR1 on."""
    process.send_signal(signal.SIGUSR1)


def supervise(
    process: "subprocess.Popen[bytes]",
    pass_on: Callable[["subprocess.Popen[bytes]"], None],
    each_round: Callable[[], bool] = lambda: False,
    *,
    said: str = "",
) -> int:
    """Wait for `process` to end; once this process is told to stop or `each_round` says so, `pass_on` until it has.

    Whatever `each_round` raises ends the process and all below it at once.
    """
    told_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    rounds_told = 0
    try:
        while True:
            try:
                return process.wait(timeout=ROUND_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            told_to_stop = each_round() or told_to_stop
            if told_to_stop:
                if rounds_told == 0 and said:
                    print(said, file=sys.stderr, flush=True)
                if rounds_told % ROUNDS_A_SIGNAL == 0:
                    pass_on(process)
                rounds_told += 1
    except BaseException:
        for pid in [process.pid, *_descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def silent_nodes(job: Job) -> list[int]:
    """Ranks of the nodes whose processes did not live to tell their end."""
    return [
        rank for rank in range(job.hardware.nodes) if not (job.folder / "nodes" / f"{rank}.json").exists()
    ]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    return [below for child in _children(pid) for below in (child, *_descendants(child))]


def main() -> int:
    """One node's task under srun."""
    parser = argparse.ArgumentParser(prog="python -m tst_titan.train.node")
    parser.add_argument("job", type=Path)
    parser.add_argument("--master", required=True, metavar="HOST:PORT")
    args = parser.parse_args()
    job, rank = read_job(args.job), int(os.environ["SLURM_NODEID"])
    process = subprocess.Popen(
        torchrun_command(job, rank=rank, master=args.master), stdin=subprocess.DEVNULL, start_new_session=True
    )
    returncode = supervise(process, signal_workers)
    write_json(job.folder / "nodes" / f"{rank}.json", {"host": socket.gethostname(), "status": returncode})
    # Slurm shows a task's status to whoever looks at the step; ours is read from the files.
    return returncode if returncode in (0, EXIT_CONTINUE) else 1


if __name__ == "__main__":
    sys.exit(main())
