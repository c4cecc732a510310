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
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from tst_titan.train.job import STOP_SIGNALS
from tst_titan.train.titan.agreement import Agreement, Decision
from tst_titan.train.titan.replicas import ReplicaSums
from tst_titan.train.titan.upstream import LOSS_NOT_FINITE


class SegmentTrainer(Trainer):
    """Trains from the loaded step to the segment's end, or until a stop signal reached any rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        checkpoint_minutes: float = 0.0
        """Save when this many minutes passed since the last checkpoint (0: by steps alone)."""
        longest_wait: float = 600.0
        """Seconds that another rank may be late before a step."""

    config: Config  # type: ignore[assignment]

    def __init__(self, config: Config):
        self.stop_signal: int = 0
        self.stopped = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        super().__init__(config)
        self._last_save = time.monotonic()
        self._agreement: Agreement | None = None
        # A captured graph runs no Python: each of its replays all-reduces as the captured micro-batch did.
        self._replica_sums = None
        if self.parallel_dims.dp_replicate_enabled and config.training.disable_cuda_graphs:
            (model,) = self.model_parts
            self._replica_sums = ReplicaSums(
                model,  # type: ignore[arg-type]
                self.gradient_accumulation_steps,
                head_apart=isinstance(self.loss_fn, ChunkedLossWrapper),
            )

    def forward_backward_step(self, **micro_batch: Any) -> torch.Tensor:
        if self._replica_sums is not None:
            self._replica_sums.next_micro_batch()
        return super().forward_backward_step(**micro_batch)

    def train_step(self, data_iterator: Any) -> None:
        try:
            super().train_step(data_iterator)
        except RuntimeError as error:
            if LOSS_NOT_FINITE in str(error):
                raise FloatingPointError(str(error)) from error
            raise

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
        decision = Decision(bool(self.stop_signal), save)
        if dist.get_world_size() > 1:
            self._agreement = self._agreement or Agreement(dist.get_rank(), self.config.longest_wait)
            decision = self._agreement.ask(self.step, stop=decision.stop, save=save)
        if decision.stop:
            logger.warning(f"Told to stop (signal {self.stop_signal or 'on another rank'}) after step {self.step}")
        return decision.stop, decision.save
