"""Folders that this user alone may write to, in places where another could have made them first.

What lies there is run (compiled kernels) or trusted (locks). In /tmp another user can make a folder of any name before
us, and its sticky bit keeps us from removing it.
"""

import hashlib
import os
import platform
import stat
from pathlib import Path

from tst_titan.errors import UserError


def private_folder(folder: Path, mend: str) -> Path:
    """`folder`, made with mode 0700 where there is none; `UserError`, with `mend`, where others may write to what is
    there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"cannot be made: {error.strerror}; {mend}", where=folder) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"is another user's, or no folder; {mend}", where=folder)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"others may write there; delete it, or {mend}", where=folder)
    return folder


def cache_folder(*names: str) -> Path:
    """This user's own folder of that name for what can be made again: below `XDG_CACHE_HOME`, or ~/.cache."""
    mend = "set XDG_CACHE_HOME to a folder of yours"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"this user has no home, and so no folder for caches; {mend}") from error
    folder = private_folder(base / "tst-titan", mend)
    for name in names:
        folder = private_folder(folder / name, mend)
    return folder


def processor_kind() -> str:
    """8 hex digits, the same on machines whose processors run the same instructions: what is compiled for one may not
    run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
