"""torchtitan's trainer over one segment: it also stops when told to, on all ranks at one step.

Everything else is torchtitan's loop as it is. `should_continue_training` is asked before every step, by every rank
at the same step: the place where ranks agree.
"""

import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class SegmentTrainer(Trainer):
    """Trains from the loaded step to the segment's end, or until a stop signal reached any rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        checkpoint_minutes: float = 0.0
        """Save when this many minutes passed since the last checkpoint (0: by steps alone)."""
        agree_every: int = 1
        """Ask all ranks whether to stop or save at steps divisible by this."""

    config: Config  # type: ignore[assignment]

    def __init__(self, config: Config):
        self.stop_signal: int = 0
        self.stopped = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        super().__init__(config)
        self._last_save = time.monotonic()
        self._resumed = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = self.stop_signal or number

    def batch_generator(self, data_iterable: Iterable[Any]) -> Any:
        # The loop calls this once, right after the checkpoint was loaded and before the first step.
        self.metrics_processor.resume(self.step)  # type: ignore[attr-defined]
        return super().batch_generator(data_iterable)

    def should_continue_training(self) -> bool:
        if not super().should_continue_training():
            return False
        stop, save = self._agree()
        if stop or save:
            if self.step > self.checkpointer.config.expected_start[0]:  # type: ignore[attr-defined]
                self.checkpointer.save_now(self.step)  # type: ignore[attr-defined]
            self._last_save = time.monotonic()
        if stop:
            self.checkpointer.finish_saving()  # type: ignore[attr-defined]
        self.stopped = stop
        return not stop

    def _agree(self) -> tuple[bool, bool]:
        """Whether any rank was told to stop, and whether rank 0's clock says to save: the same on every rank."""
        minutes = self.config.checkpoint_minutes
        save = bool(minutes) and time.monotonic() - self._last_save > 60 * minutes
        flags = [bool(self.stop_signal), save and dist.get_rank() == 0]
        if dist.get_world_size() > 1:
            if self.step % self.config.agree_every:
                return False, False
            wishes = torch.tensor(flags, dtype=torch.int32, device=self.device)
            dist.all_reduce(wishes, op=dist.ReduceOp.MAX)
            flags = [bool(flag) for flag in wishes.tolist()]
        if flags[0]:
            logger.warning(
                f"Told to stop (signal {self.stop_signal or 'on another rank'}) after step {self.step}"
            )
        return flags[0], flags[1]
