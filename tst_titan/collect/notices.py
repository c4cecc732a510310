"""What a reader must know before trusting a number: one line each, collected on the way."""

from dataclasses import dataclass
from typing import Literal

from tst_titan.errors import UserError
from tst_titan.shown import printable

MOST_LISTED = 4

Kind = Literal["damaged", "unfinished", "single seed", "repeated data", "uncertain", "not compared"]


@dataclass(frozen=True)
class Notice:
    """One warning: where it was found (a file or a run) and what it means for the numbers."""

    kind: Kind
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def damage(error: UserError) -> Notice:
    """The notice that a file cannot be read."""
    return Notice("damaged", printable(error.where), printable(error.what))


def listed(items: list[str] | list[int], between: str = ", ") -> str:
    """``1, 2, 3, 4 and 7 more``: a list in a sentence, bounded."""
    shown = between.join(str(item) for item in items[:MOST_LISTED])
    return shown if len(items) <= MOST_LISTED else f"{shown} and {len(items) - MOST_LISTED} more"
