"""Seals: what ties a checkpoint to its segment and step, and its files to the bytes that were saved.

Every rank that saves leaves `seal-RANK.json` with the digests of the data files that it wrote, and then the first one,
last of all, `seal-index.json` for the index. Whoever loads the checkpoint compares. What was compared is noted in
`verified.json`, so that it is read again only where a file is another one. Checkpoints of earlier versions have no
seals. No torch here.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tst_titan.bounds import read_file
from tst_titan.errors import UserError
from tst_titan.files import digest_file, digest_json, read_json, write_json
from tst_titan.results import INDEX, segment_of_checkpoint

VERIFIED = "verified.json"
_FORMAT = 1


@dataclass(frozen=True)
class FileSeal:
    """Bytes of a file and their SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Seals:
    """All seals of a checkpoint together: whose it is, and its files by name."""

    checkpoint: Path
    segment: str
    step: int
    files: Mapping[str, FileSeal]

    @cached_property
    def digest(self) -> str:
        """16 hex digits: the same for a copy of the checkpoint, others for another training or another step."""
        files = {name: asdict(seal) for name, seal in self.files.items()}
        return digest_json({"segment": self.segment, "step": self.step, "files": files}, length=16)

    def check_owner(self, segment: str, step: int) -> None:
        """Raise `UserError` where this is the checkpoint of another segment, or of another step."""
        if (self.segment, self.step) != (segment, step):
            raise UserError(
                f"is the checkpoint of {self.segment} at step {self.step}, not of {segment} at step {step}: it was put "
                f"into a place that is not its own; bring back the right one, or {_train_again(self.checkpoint)}",
                where=self.checkpoint,
            )

    def cover(self, names: set[str]) -> bool:
        """Whether these files and the index are sealed, and all that is sealed is there in its size."""
        if not (names | {INDEX}) <= self.files.keys():
            return False
        return all(file_size(self.checkpoint / name) == seal.size for name, seal in self.files.items())


@dataclass(frozen=True)
class Sharing:
    """How the ranks that load a checkpoint share the work of reading it; one process reads all of it in `threads`.

    `least` returns the smallest of the numbers that the ranks call it with; all must call it.
    """

    rank: int = 0
    size: int = 1
    least: Callable[[int], int] = lambda number: number
    threads: int = 1


def write_seal(checkpoint: Path, part: str, segment: str, step: int, files: Mapping[str, FileSeal]) -> None:
    """Write `seal-PART.json`, whole."""
    content = {"format": _FORMAT, "segment": segment, "step": step}
    write_json(
        checkpoint / f"seal-{part}.json",
        content | {"files": {name: asdict(seal) for name, seal in sorted(files.items())}},
    )


def read_seals(checkpoint: Path) -> Seals | None:
    """The seals of a checkpoint, None where it has none (one of an earlier version).

    Raises `UserError` where one is damaged or two of them disagree.
    """
    owners: dict[tuple[str, int], Path] = {}
    files: dict[str, FileSeal] = {}
    for path in sorted(checkpoint.glob("seal-*.json")):
        value = read_json(path, mend=_train_again(checkpoint))
        segment, step, sealed = _content(value, path)
        owners[segment, step] = path
        if any(files.get(name, seal) != seal for name, seal in sealed.items()):
            raise _no_seal(path, "another seal says otherwise of the same file")
        files |= sealed
    if len(owners) > 1:
        said = " and ".join(f"{path.name} is of {segment} at step {step}" for (segment, step), path in owners.items())
        raise UserError(f"files of several checkpoints: {said}; {_train_again(checkpoint)}", where=checkpoint)
    for segment, step in owners:
        return Seals(checkpoint, segment, step, files)
    return None


def check_files(seals: Seals, sharing: Sharing) -> None:
    """Raise `UserError`, on every rank, where a file is not to the byte what was saved.

    What `verified.json` says was read before, and is the same file in time, size and place since, is not read again.
    """
    first = sharing.rank == 0
    states = _states(seals) if first else {}
    if sharing.least(int(not first or _verified(seals) == states)):
        return
    names = sorted(seals.files, key=lambda name: (-seals.files[name].size, name))
    mine = range(sharing.rank, len(names), sharing.size)
    with ThreadPoolExecutor(max(1, sharing.threads)) as pool:
        wrong = dict(zip(mine, pool.map(lambda number: _difference(seals, names[number]), mine), strict=True))
    number = sharing.least(min((number for number, reason in wrong.items() if reason), default=len(names)))
    if number < len(names):
        reason = wrong.get(number) or "not what was saved"
        raise UserError(
            f"{seals.checkpoint / names[number]}: {reason}: the checkpoint is damaged; bring back a copy of that file, "
            f"or {_train_again(seals.checkpoint)}"
        )
    if first and states == _states(seals):
        _note_verified(seals, states)


def unsealed(checkpoint: Path) -> str:
    """The warning for a checkpoint of an earlier version."""
    return (
        f"{checkpoint}: saved before checkpoints were sealed, so whether it is damaged, or another segment's, is not "
        "checked"
    )


def check_recorded(checkpoint: Path, seals: Seals | None) -> None:
    """Raise `UserError` where the segment's `done.json` says that it ended with another checkpoint, or with a sealed
    one."""
    done_file = segment_of_checkpoint(checkpoint).done
    done = read_json(done_file) if done_file.is_file() else {}
    recorded = done.get("checkpoint_digest") if isinstance(done, dict) else None
    if not recorded or Path(str(done.get("checkpoint"))).name != checkpoint.name:
        return
    if seals is None:
        raise UserError(
            f"its seals (seal-*.json) are missing; bring them back, or {_train_again(checkpoint)}",
            where=checkpoint,
        )
    if seals.digest != recorded:
        raise UserError(
            f"is another checkpoint ({seals.digest}) than the one that {done_file} was written for ({recorded}); bring "
            f"that back, or {_train_again(checkpoint)}",
            where=checkpoint,
        )


def not_covered(seals: Seals, names: set[str]) -> UserError:
    """The error for an index that names files without a seal."""
    return UserError(
        f"no seal has {', '.join(sorted(names)[:3])}; bring back the missing seal-*.json, or "
        f"{_train_again(seals.checkpoint)}",
        where=seals.checkpoint,
    )


def _train_again(checkpoint: Path) -> str:
    return (
        f"delete {checkpoint} (and {segment_of_checkpoint(checkpoint).done}, if it is there) and train that segment "
        "again, which goes on from the checkpoint before, if there is one"
    )


def _content(value: Any, path: Path) -> tuple[str, int, dict[str, FileSeal]]:
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise _no_seal(path, f"not of format {_FORMAT}; a later version of tst-titan wrote it, or it is damaged")
    try:
        segment, step = str(value["segment"]), int(value["step"])
        files = {name: FileSeal(int(seal["size"]), str(seal["sha256"])) for name, seal in value["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_seal(path, repr(error)) from error
    for name in files:
        if Path(name).name != name:
            raise _no_seal(path, f"names {name}, no file of this folder")
    return segment, step, files


def _no_seal(path: Path, reason: str) -> UserError:
    return UserError(f"not a whole seal ({reason}); {_train_again(path.parent)}", where=path)


def _difference(seals: Seals, name: str) -> str:
    """How a file differs from its seal; "" where it does not."""
    path, seal = seals.checkpoint / name, seals.files[name]
    size = file_size(path)
    if size != seal.size:
        return "missing" if size < 0 else f"has {size:,} bytes, {seal.size:,} were saved"
    try:
        return "" if digest_file(path) == seal.sha256 else "its bytes are not those that were saved (SHA-256)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def file_size(file: Path) -> int:
    """Bytes of a file; -1 where there is none, or no longer."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _states(seals: Seals) -> dict[str, list[int]]:
    """What changes when a file does: size, times, inode."""
    states = {}
    for name in seals.files:
        try:
            stat = (seals.checkpoint / name).stat()
        except OSError:
            continue
        states[name] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return states


def _verified(seals: Seals) -> dict[str, list[int]] | None:
    """The states of the files when these seals were last compared with them."""
    try:
        value = json.loads(read_file(seals.checkpoint / VERIFIED))
    except (OSError, ValueError):
        return None
    known = isinstance(value, dict) and value.get("seals") == seals.digest
    return value.get("files") if known else None


def _note_verified(seals: Seals, states: dict[str, list[int]]) -> None:
    # In a folder that is another user's it is compared each time.
    with suppress(UserError):
        write_json(seals.checkpoint / VERIFIED, {"seals": seals.digest, "files": states})
