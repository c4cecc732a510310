"""One writer a folder: the lock beside a segment's checkpoints, or a corpus's shards, on one machine and across a
cluster.

`lock` names its holder: node, process, Slurm job, a token that is new each time, and a count that the holder raises
every few seconds (its heartbeat). On the holder's own node the kernel's lock on the file tells whether it lives,
exactly: the ranks inherit it from the launcher and are killed when that ends, so it ends with the last of them however
they die. File systems that nodes share do not carry such locks reliably, so from another node the holder is gone when
Slurm no longer runs its job (or it was no job of Slurm) *and* its count has stood still. Where the file system carries
no such locks at all, the same holds on one node. A holder that finds another's token in the file has lost the lock and
must end.
"""

import _thread
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from tst_titan.bounds import read_file
from tst_titan.cluster import jobs
from tst_titan.errors import UserError
from tst_titan.files import open_own, try_flock

BEAT_SECONDS = 5.0
# How long a count must stand still: longer than Slurm takes to end the processes of a job (KillWait, 30 s), and than a
# shared file system needs to show a change.
QUIET_SECONDS = 60.0
# Between writing a token and believing it: two nodes that take one free lock at once both see the later token.
SETTLE_SECONDS = 1.0
POLL_SECONDS = 1.0
LOCK_BYTES = 512


class LockLost(UserError):
    """Another process took the folder over."""


@dataclass(frozen=True)
class Holder:
    """Who holds a folder. `node` is Slurm's name of the machine where there is one."""

    node: str
    process: int
    slurm_job: str | None
    token: str
    count: int = 0

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.process} on {self.node}{job}"


def myself() -> Holder:
    """This process as a holder, with a token of its own."""
    return Holder(
        node=jobs.node_name() or socket.gethostname(),
        process=os.getpid(),
        slurm_job=jobs.job_id(),
        token=secrets.token_hex(8),
    )


def read_holder(path: Path) -> Holder | None:
    """Who is written into a lock file; None where nobody is."""
    try:
        return Holder(**json.loads(read_file(path)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class HeldByJob(Exception):
    """A segment is held by another running Slurm job (its id)."""

    def __init__(self, job: str):
        self.job = job


class FolderLock:
    """A held lock. `beat` must be called at least every few seconds, `fileno` is for children to inherit."""

    def __init__(self, path: Path, file: IO[str], holder: Holder, doing: str):
        self.path, self.file, self.holder, self.doing = path, file, holder, doing
        self._next_beat = 0.0

    def fileno(self) -> int:
        return self.file.fileno()

    def write(self) -> None:
        _write(self.path, json.dumps(asdict(self.holder)))

    def check(self) -> None:
        """`LockLost` if the file names another holder."""
        found = read_holder(self.path)
        if found is not None and found.token != self.holder.token:
            raise LockLost(f"taken over by {found}", where=self.path)

    def beat(self) -> None:
        """Raise the count if it is time; `LockLost` if the file names another holder."""
        if time.monotonic() < self._next_beat:
            return
        self.check()
        self.holder = replace(self.holder, count=self.holder.count + 1)
        self.write()
        self._next_beat = time.monotonic() + BEAT_SECONDS


def segment_lock(folder: Path) -> AbstractContextManager[FolderLock]:
    """Hold a segment's `lock`, waiting for another holder's end.

    Raises `HeldByJob` at once where both are jobs of Slurm and the other runs: waiting is better done in its queue.
    """
    return folder_lock(folder, doing="trained", behind_jobs=True)


@contextmanager
def folder_lock(folder: Path, *, doing: str, name: str = "lock", behind_jobs: bool = False) -> Iterator[FolderLock]:
    """Hold `folder/name`, waiting for another holder's end; `doing` is what a holder does with the folder (built,
    trained).

    With `behind_jobs` another running job of Slurm's is not waited for but raised (`HeldByJob`).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_own(folder / name, "a+")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=folder) from error
    with file:
        lock = FolderLock(folder / name, file, myself(), doing)
        _acquire(lock, behind_jobs)
        try:
            yield lock
        finally:
            found = read_holder(lock.path)
            if found is None or found.token == lock.holder.token:
                _write(lock.path, "")


@contextmanager
def lock_if_free(folder: Path) -> Iterator[FolderLock]:
    """Hold the `lock` of a folder that is there, without waiting: `UserError` names who is at work, or was on another
    node."""
    with open_own(folder / "lock", "a+") as file:
        lock = FolderLock(folder / "lock", file, myself(), "held")
        free, other = try_flock(file), read_holder(lock.path)
        # On another node the kernel's lock may not be seen: there a name alone counts.
        if free is False or (other is not None and not (free and other.node == lock.holder.node)):
            raise UserError(
                f"{other or 'another process'} is at work here: wait for its end (if it was killed, and runs no more, "
                f"delete {lock.path.name})",
                where=folder,
            )
        lock.write()
        try:
            yield lock
        finally:
            _write(lock.path, "")


@contextmanager
def beating(lock: FolderLock) -> Iterator[None]:
    """Beat in the background while the block runs; `LockLost`, out of the block, once another has taken the lock."""
    ended, lost = threading.Event(), list[LockLost]()

    def beat() -> None:
        try:
            while not ended.wait(BEAT_SECONDS / 5):
                lock.beat()
        except LockLost as error:
            lost.append(error)
            _thread.interrupt_main()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost:
            raise
    finally:
        ended.set()
        thread.join()
    if lost:
        raise lost[0]


def _acquire(lock: FolderLock, behind_jobs: bool) -> None:
    waiting_for: str | None = None
    last, since = None, time.monotonic()
    kernel_decides = True
    while True:
        free = try_flock(lock.file)
        if free is None and kernel_decides:
            kernel_decides = False
            print(
                f"{lock.path}: this file system carries no locks (flock); holders are told apart by what they write "
                f"there, and one that was killed is waited for {QUIET_SECONDS:g} s",
                file=sys.stderr,
            )
        other = read_holder(lock.path)
        if free is not False and (
            other is None
            or (kernel_decides and other.node == lock.holder.node)
            or _gone(other, last, since, lock.holder)
        ):
            lock.write()
            # On one machine the kernel's lock has decided already.
            if kernel_decides and jobs.job_id() is None:
                return
            time.sleep(SETTLE_SECONDS)
            found = read_holder(lock.path)
            if found is not None and found.token == lock.holder.token:
                return
            continue
        if behind_jobs and other is not None and other.slurm_job and _runs_elsewhere(other, lock.holder):
            raise HeldByJob(other.slurm_job)
        if other is not None and other != last:
            last, since = other, time.monotonic()
        if waiting_for != str(other):
            waiting_for = str(other)
            print(
                f"{lock.path.parent}: being {lock.doing} by {other or 'another job'}; waiting for it",
                file=sys.stderr,
            )
        if free:  # not while waiting: whoever comes to this node later decides by the same rules
            fcntl.flock(lock.file, fcntl.LOCK_UN)
        time.sleep(POLL_SECONDS)


def _runs_elsewhere(other: Holder, me: Holder) -> bool:
    return me.slurm_job not in (None, other.slurm_job) and jobs.job_runs(str(other.slurm_job))


def _gone(other: Holder, last: Holder | None, since: float, me: Holder) -> bool:
    """Whether a holder on another node has ended, having been `last` seen with the same count from `since` on."""
    if other != last or time.monotonic() - since < QUIET_SECONDS:
        return False
    # The same job, started again by Slurm: its earlier start has ended.
    return other.slurm_job in (None, me.slurm_job) or not jobs.job_runs(str(other.slurm_job))


def _write(path: Path, text: str) -> None:
    # In place, as the kernel's lock is on this very file, and in one call over what was there: who reads meanwhile
    # never finds it empty. A handle of its own, closed at once, shows it to other nodes.
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.pwrite(handle, text.encode().ljust(LOCK_BYTES), 0)
        os.fsync(handle)
    finally:
        os.close(handle)
