"""The ranks of torch.distributed on one machine, as children of the process that starts them.

Not by torchrun, which closes what its workers should inherit (locks), lives on without its parent, waits half a minute
for workers that ignore SIGTERM, and keeps to itself which rank was the first to end and how. What it tells a worker, a
few variables, is told here.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tst_titan.meeting import LOOPBACK_ALONE, MEETING_FILE

Process = subprocess.Popen[bytes]
# From the first rank that fails to the end of the others: to say why themselves, as the first is not always the cause.
FAREWELL_SECONDS = 3.0
ROUND_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def ending_with_parent(number: int = signal.SIGKILL, ignored: Iterable[int] = ()) -> Callable[[], None]:
    """A `preexec_fn`: the kernel gives the child signal `number` when this thread ends, however it does.

    The child starts with the signals `ignored` ignored. Outside of Linux children outlive a parent that is killed.
    """
    parent = os.getpid()

    def prepare() -> None:
        for each in ignored:
            signal.signal(each, signal.SIG_IGN)
        if _LIBC is not None and _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0):
            os._exit(1)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)

    return prepare


@contextmanager
def held_port() -> Iterator[int]:
    """A port that no other process is given while the block runs; rank 0 can listen on it (SO_REUSEADDR) all the
    same."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def start_ranks(
    command: Sequence[str],
    count: int,
    *,
    environment: Mapping[str, str],
    meeting: Path | str,
    first: int = 0,
    world_size: int | None = None,
    output: int | None = None,
    ignored: Iterable[int] = (),
    pass_fds: Sequence[int] = (),
) -> list[Process]:
    """Start ranks `first` to `first + count - 1` of `world_size` (None: these are all); they end with this process.

    `meeting`: the file where they meet, or HOST:PORT where rank 0 listens (`tst_titan.meeting`). Each rank has a
    session of its own: Ctrl-C on the terminal reaches it through us alone. `pass_fds` (locks) are open in every rank,
    `output` is its stdout and stderr.
    """
    if isinstance(meeting, Path):
        place = {MEETING_FILE: str(meeting), **LOOPBACK_ALONE}
    else:
        host, _, port = meeting.rpartition(":")
        place = {"MASTER_ADDR": host, "MASTER_PORT": port}
    ranks: list[Process] = []
    try:
        for local in range(count):
            own = {
                "RANK": str(first + local), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world_size or count),
                "LOCAL_WORLD_SIZE": str(count), **place,
            }  # fmt: skip
            ranks.append(
                subprocess.Popen(
                    command, env={**environment, **own}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, preexec_fn=ending_with_parent(ignored=ignored), pass_fds=pass_fds,
                )
            )  # fmt: skip
    except BaseException:
        kill(ranks)
        raise
    return ranks


def wait_for_ranks(ranks: Sequence[Process]) -> int:
    """Wait until all ranks have ended; returns 0, or the status of the first that failed, soon after which the others
    are killed."""
    status, deadline = 0, float("inf")
    try:
        while any(rank.poll() is None for rank in ranks):
            if not status:
                status = next((rank.returncode for rank in ranks if rank.returncode), 0)
                deadline = time.monotonic() + FAREWELL_SECONDS if status else deadline
            if time.monotonic() > deadline:
                break
            time.sleep(ROUND_SECONDS)
    finally:
        kill(ranks)
    return status or next((rank.returncode for rank in ranks if rank.returncode), 0)


def kill(processes: Sequence[Process]) -> None:
    """End processes and all below them at once."""
    alive = [process for process in processes if process.poll() is None]
    for pid in [pid for process in alive for pid in (process.pid, *descendants(process.pid))]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in alive:
        process.wait()


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, started from its main thread or another."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(child) for child in task.read_text().split()]
    return [below for child in children for below in (child, *descendants(child))]
