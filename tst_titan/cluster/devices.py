"""Which GPUs a training job on this machine may use: each is held by one job at a time.

A held GPU is a locked file. The lock is the kernel's and ranks inherit it from the launcher, so it ends with the last
of them however they die, and a GPU is never given away under a rank that still has it. Ranks are killed when their
launcher ends (`tst_titan.processes`), so that this is soon. Where their folder carries no locks, a socket's name in the
kernel is the lock.
"""

import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tst_titan.errors import UserError
from tst_titan.files import try_flock
from tst_titan.private import cache_folder, private_folder

POLL_SECONDS = 0.5
Lock = IO[str] | socket.socket


@dataclass(frozen=True)
class HeldGpus:
    """GPUs by the names that `CUDA_VISIBLE_DEVICES` takes, and the open files whose locks ranks must inherit."""

    gpus: tuple[str, ...]
    locks: tuple[int, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What tells workers to use these alone; nothing where nothing is held."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.locks else {}


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that a process started with `environment` sees, as `CUDA_VISIBLE_DEVICES` names them; () without any."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        # CUDA takes the names up to the first that is no device, such as -1.
        names = [name.strip() for name in listed.split(",")]
        end = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return tuple(dict.fromkeys(names[:end]))
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(re.findall(r"^GPU (\d+):", shown.stdout, re.MULTILINE)) if shown.returncode == 0 else ()


def promised_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that Slurm gave this job on this node, also where neither Slurm's variable for CUDA nor the driver's
    tool shows any."""
    visible = visible_gpus(environment)
    count = environment.get("SLURM_GPUS_ON_NODE", "")
    if not visible and "CUDA_VISIBLE_DEVICES" not in environment and count.isdecimal():
        return tuple(map(str, range(int(count))))
    return visible


@contextmanager
def gpus_for_job(count: int) -> Iterator[HeldGpus]:
    """The GPUs of one training job on this machine: `count` of the visible ones, held; none on a machine without any.

    Waits, with one line on stderr, while other jobs hold too many. `UserError` where fewer than `count` are visible.
    """
    gpus = visible_gpus()
    if not gpus:
        yield HeldGpus(())
        return
    with hold_gpus(count, gpus, lock_folder()) as held:
        yield held


@contextmanager
def hold_gpus(count: int, gpus: tuple[str, ...], folder: Path) -> Iterator[HeldGpus]:
    """Hold `count` of `gpus` until the block ends and every process that inherited the locks is gone."""
    if count > len(gpus):
        raise UserError(
            f"hardware: {count} processes need {count} GPUs, this machine shows {len(gpus)} ({', '.join(gpus)}); use "
            "fewer processes, or more GPUs in CUDA_VISIBLE_DEVICES"
        )
    with ExitStack() as held:
        # One job at a time chooses, and waits while it does: two never hold half each of what both need, and one that
        # needs many is not overtaken for ever by those that need few.
        with _wait_for_lock(folder / "choosing"):
            locks = _try_to_hold(count, gpus, folder)
            if locks is None:
                print(
                    f"waiting for {count} of the GPUs {', '.join(gpus)}: other jobs hold them",
                    file=sys.stderr,
                )
            while locks is None:
                time.sleep(POLL_SECONDS)
                locks = _try_to_hold(count, gpus, folder)
        for lock in locks.values():
            held.enter_context(lock)
        yield HeldGpus(tuple(locks), tuple(lock.fileno() for lock in locks.values()))


def _try_to_hold(count: int, gpus: tuple[str, ...], folder: Path) -> dict[str, Lock] | None:
    locks: dict[str, Lock] = {}
    for gpu in gpus:
        if len(locks) == count:
            break
        lock = _lock(folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}")
        if lock is not None:
            locks[gpu] = lock
    if len(locks) == count:
        return locks
    for lock in locks.values():
        lock.close()
    return None


def _wait_for_lock(path: Path) -> Lock:
    while (lock := _lock(path)) is None:
        time.sleep(POLL_SECONDS)
    return lock


def _lock(path: Path) -> Lock | None:
    """A lock on `path` that lasts until every process that inherits it is gone; None while another holds it."""
    file: IO[str] = path.open("a")
    held = try_flock(file)
    if held:
        return file
    file.close()
    if held is None:  # no flock here: a name in the kernel can be bound once
        return _bound_name(f"\0tst-titan:{path}")
    return None


def _bound_name(name: str) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(name)
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return holder


def lock_folder() -> Path:
    """Where this user's GPU locks lie: on this machine alone, the same for every checkout.

    A Slurm job has a folder of its own: Slurm gives no GPU to two jobs, and both may call theirs "0". Where another
    user has taken the name in the temporary folder, the locks lie in this user's cache, by the machine's name.
    """
    slurm = f"-slurm-{os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    try:
        return private_folder(Path(tempfile.gettempdir()) / f"tst-titan-gpus-{os.getuid()}{slurm}", "")
    except UserError:
        return cache_folder(f"gpus-{socket.gethostname()}{slurm}")
