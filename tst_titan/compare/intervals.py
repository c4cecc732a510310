"""Intervals of estimates, all at one level."""

from dataclasses import dataclass

LEVEL = 0.90


@dataclass(frozen=True)
class Interval:
    """A 90% interval. `low` or `high` is infinite where the data bounds one side only; both None: absent."""

    low: float | None = None
    high: float | None = None
    absent_because: str = ""
