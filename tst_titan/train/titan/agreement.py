"""All ranks stop or save at one step, as rank 0 decides and tells the others through the store where they met.

Host to host: nothing here is a collective of the device, which would have the host wait for every step that it has
queued. Rank 0 also says before which step to ask next, by its own clock, so that all ask at the same steps: about once
a second, or at every step where one takes longer. benchmarks/agreement.py measures what it costs.
"""

import json
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from tst_titan.meeting import connect
from tst_titan.train.time_bounds import ASK_SECONDS

# Answers that are kept for a rank that lags behind: far more than ranks can be apart, as they meet in every step.
KEPT_ANSWERS = 100


@dataclass(frozen=True)
class Decision:
    """Whether all ranks stop, or save, before the step that was asked about."""

    stop: bool = False
    save: bool = False


class Cadence:
    """How many steps make about `ASK_SECONDS`; at most twice as many as the last time, as a first step may be any."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._steps = 1

    def steps(self, step: int, now: float) -> int:
        """Until the next time, at least 1; `now` in seconds of any clock."""
        if self._last is not None:
            a_step = (now - self._last[1]) / (step - self._last[0])
            self._steps = max(1, min(2 * self._steps, int(ASK_SECONDS / max(a_step, 1e-9))))
        self._last = step, now
        return self._steps


class Agreement:
    """One rank's side of it. `longest_wait`: seconds that rank 0 may be late."""

    def __init__(self, rank: int, longest_wait: float, *, cadence: Cadence | None = None):
        self._rank = rank
        # A connection of its own: waiting on it blocks nobody else's.
        self._store = dist.PrefixStore(
            "agreement",
            connect(timedelta(seconds=longest_wait)),
        )
        self._next_step = 0
        self._cadence = cadence or Cadence()
        self._wished = False
        self._answers: deque[str] = deque()

    def ask(self, step: int, *, stop: bool, save: bool) -> Decision:
        """What is done after `step`, the same on every rank: all call this after every step.

        `stop`: this rank was told to. `save`: the clock says so; rank 0's counts.
        """
        if stop and not self._wished:
            self._store.set("stop", "")
            self._wished = True
        if step < self._next_step:
            return Decision()
        if self._rank == 0:
            self._tell(step, save)
        answer = json.loads(self._store.get(str(step)))
        self._next_step = answer["next_step"]
        return Decision(answer["stop"], answer["save"])

    def _tell(self, step: int, save: bool) -> None:
        answer = {
            "stop": self._store.check(["stop"]),
            "save": save,
            "next_step": step + self._cadence.steps(step, time.monotonic()),
        }
        self._store.set(str(step), json.dumps(answer))
        self._answers.append(str(step))
        if len(self._answers) > KEPT_ANSWERS:
            self._store.delete_key(self._answers.popleft())
