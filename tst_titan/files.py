"""Whole files or none: write beside, flush to disk, then rename."""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tst_titan.bounds import read_file
from tst_titan.errors import UserError

# What flock says on file systems that carry no locks: Lustre without `flock`, NFS without lockd.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def try_flock(file: IO[str]) -> bool | None:
    """Lock an open file until every process that inherits it is gone; False: another has it, None: no locks on this
    file system."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def open_own(path: Path, mode: str) -> IO[str]:
    """Open a text file to write in place, as `open` does with `mode` ("a", "a+", "r+"), but no symbolic link.

    In a shared folder a link may have been put there to have another file of ours overwritten. `UserError` names it.
    """

    def without_links(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, mode, encoding="utf-8", opener=without_links)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                "is a symbolic link, and would have another file written to; remove it", where=path
            ) from error
        raise UserError(f"cannot be written: {error.strerror}", where=path) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` only if the block succeeds.

    A crash, a full disk or a signal leaves what ``path`` held before. Errors of the file system become a
    ``UserError`` that names the path.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror} ({error.filename})", where=path) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=path) from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *, mend: str = "delete it and run again") -> Any:
    """Read a JSON file; a missing, damaged or enormous one is a ``UserError`` that names it and ``mend``."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers or nesting without end
        raise UserError(f"not a whole JSON file ({error}); {mend}", where=path) from error


def digest_json(value: Any, length: int = 8) -> str:
    """First ``length`` hex digits of the SHA-256 of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hex, read in constant memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
