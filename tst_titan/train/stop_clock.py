"""When a job with a time limit is told to stop, so that it has saved and is queued again before the limit.

Slurm's TIMEOUT is an end: such a job is not run again. The time to stop follows the bounds of
`tst_titan.train.time_bounds` and is computed anew as steps and saves are measured. The launcher holds this clock, on
the job's first node.
"""

import math
import time

from tst_titan.metrics_rows import last_training_rows
from tst_titan.train.job import Job
from tst_titan.train.measured import ROWS, measured

LOOK_SECONDS = 5.0


class StopClock:
    """Of one start of a job, `seconds_left` before its limit (infinite where there is none)."""

    def __init__(self, job: Job, seconds_left: float):
        self._job = job
        self._seconds_left = seconds_left
        self._limit = time.monotonic() + seconds_left
        self._began = time.time()
        self._next_look = time.monotonic()
        self._stop_seconds = 0.0

    def is_due(self) -> bool:
        """Whether the job must be told to stop now."""
        if math.isinf(self._limit):
            return False
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._stop_seconds = self.stop_seconds()
        return now > self._limit - self._stop_seconds

    def stop_seconds(self) -> float:
        """Seconds before the limit at which the job stops, by what is known now.

        The user's own wins. Until this start has logged a step, half of its time is the most: a plan may be wrong, and
        earlier rows may be of other hardware.
        """
        if self._job.hardware.stop_seconds:
            return self._job.hardware.stop_seconds
        needed = measured(self._job).stop_seconds
        rows = last_training_rows(self._job.files.metrics, ROWS)
        seen = bool(rows) and rows[-1]["time"] >= self._began
        return needed if seen else min(needed, self._seconds_left / 2)

    def warning(self) -> str | None:
        """What is wrong with a time limit of which more than half goes into stopping; None for a good one."""
        own, bounds = self._job.hardware.stop_seconds, measured(self._job)
        needed = own or bounds.stop_seconds
        if 2 * needed <= self._seconds_left:
            return None
        why = (
            "hardware.stop_seconds says so"
            if own
            else f"a step takes {bounds.step:.1f} s, a validation {bounds.validation:.0f} s, a save {bounds.save:.0f} s; "  # noqa: E501
            "hardware.stop_seconds says otherwise"
        )
        return (
            f"the job's time limit is {self._seconds_left:.0f} s away and it stops {needed:.0f} s before it ({why}), "
            "which "
            f"leaves less than half for training; give jobs {2 * needed / 60:.0f} minutes or more (site.max_minutes)"
        )
