"""How much one thing from somebody else may take, so that no file fills the memory of whoever reads it.

Each bound is settable in the environment, which jobs inherit. A bound is part of no identity: it changes no result, it
refuses.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tst_titan.errors import UserError

_PIECE = 2**20


@dataclass(frozen=True)
class Bound:
    """The most of something, bytes as a rule: `default`, unless the environment's `variable` says otherwise.

    `what` ends the sentence "more than N bytes, the most that ...".
    """

    variable: str
    default: int
    what: str = ""

    def most(self) -> int:
        """The number that holds now. Raises `UserError` where the environment's is none."""
        text = os.environ.get(self.variable, str(self.default))
        if not re.fullmatch("[1-9][0-9]{0,14}", text):
            raise UserError(f"{self.variable} = {text!r}: must be a whole number from 1")
        return int(text)

    @property
    def mend(self) -> str:
        return f"set the environment's {self.variable}"


# A worker holds a few times as much of one document: its bytes, its characters, its JSON.
DOCUMENT_BYTES = Bound("TST_TITAN_MAX_DOCUMENT_BYTES", 64 * 2**20, "one line or document may have, unpacked")
# What an unpacker keeps of what it has unpacked: the zstd program's own bound without `--long=31`; `xz -9` asks for
# half.
WINDOW_BYTES = Bound("TST_TITAN_MAX_WINDOW_BYTES", 128 * 2**20, "an unpacker's window may have")
# corpus.json of 100,000 shards or the list of a dataset's 300,000 files have less; objects take ten times as much as
# their text.
RECORD_BYTES = Bound("TST_TITAN_MAX_RECORD_BYTES", 128 * 2**20, "a file of settings or results may have")
# Rows of two million steps.
METRICS_BYTES = Bound("TST_TITAN_MAX_METRICS_BYTES", 2**30, "a segment's metrics may have")
# lm-eval holds all of it.
TASK_DATA_BYTES = Bound("TST_TITAN_MAX_TASK_DATA_BYTES", 2**29, "a task's data file may have, unpacked")
# A study, a site's file or a task's definition.
YAML_BYTES = Bound("TST_TITAN_MAX_YAML_BYTES", 16 * 2**20, "a YAML file may have")


def read_bounded(file: IO[bytes], where: object, bound: Bound) -> bytes:
    """All that is left of `file`. Raises `UserError`, which names `where`, once it is more than the bound."""
    most, size, pieces = bound.most(), 0, []
    while piece := file.read(_PIECE):
        size += len(piece)
        if size > most:
            raise too_much(where, bound)
        pieces.append(piece)
    return b"".join(pieces)


def read_file(path: Path, bound: Bound = RECORD_BYTES) -> bytes:
    """A file's bytes, at most as many as the bound allows. Raises `UserError` for more, `OSError` as reading does."""
    with Path(path).open("rb") as file:
        return read_bounded(file, path, bound)


def bounded_lines(file: IO[bytes], path: Path, bound: Bound) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line with its end) of each line. Raises `UserError` for a line of more bytes than the bound."""
    most, number = bound.most(), 0
    while line := file.readline(most + 1):
        number += 1
        if len(line) > most:
            raise too_much(f"{path}, line {number}", bound)
        yield number, line


def too_much(where: object, bound: Bound) -> UserError:
    """What is said of a thing that is larger than its bound."""
    return UserError(
        f"more than {bound.most():,} bytes, the most that {bound.what}; make it smaller or leave it out, or, to read "
        f"it, {bound.mend}",
        where=where,
    )
