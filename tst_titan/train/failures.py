"""Why a training job failed: each rank's last word, and which of them is the reason.

A rank that fails writes `failures/RANK.json` before anything else, and whoever started it does so for one that had no
time to. The first one is not always the cause: when a rank runs out of memory, the others lose their connection to it
and may say so earlier.
"""

import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tst_titan.files import read_json, write_json
from tst_titan.results import SegmentFiles

# What ranks say, through gloo, NCCL and the store, of another rank that has ended or stands still.
_OF_ANOTHER_RANK = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|timed? ?out|remote process exited|DistBackendError|"
    r"DistNetworkError|DistStoreError|ncclRemoteError|ncclSystemError|unhandled system error",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """A rank's last word at `time` (seconds since 1970). `known`: a message for the user, who can mend it."""

    rank: int
    time: float
    message: str
    known: bool

    @property
    def consequence(self) -> bool:
        """Whether it tells of another rank's end rather than of a reason."""
        return not self.known and bool(_OF_ANOTHER_RANK.search(self.message))


def record_failure(folder: Path, rank: int, message: str, *, known: bool) -> None:
    """Write a rank's failure, whole, in the segment's `folder`."""
    write_json(SegmentFiles(folder).failure_of(rank), asdict(Failure(rank, time.time(), message, known)))


def has_failure(folder: Path, rank: int) -> bool:
    return SegmentFiles(folder).failure_of(rank).exists()


def first_failure(folder: Path) -> Failure | None:
    """The true reason as far as ranks told it: a known one before others, what only tells of another rank last; then
    the earliest."""
    failures = [Failure(**read_json(path)) for path in SegmentFiles(folder).failures.glob("*.json")]
    return min(failures, key=lambda each: (not each.known, each.consequence, each.time), default=None)
