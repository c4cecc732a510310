"""One row a logged step into `metrics.jsonl` as it comes (docs/files.md), beside torchtitan's own loggers.

Tokens are counted twice, by name: equivalent tokens are latent positions, which FLOPs and utilization follow; data
tokens are what was read, S times as many in superposition. torchtitan counts labels, which are neither in general.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torchtitan.components.metrics import LoggerContainer, MetricsProcessor, WandBLogger
from torchtitan.tools.logging import logger

from tst_titan.errors import UserError
from tst_titan.files import open_own, whole_file
from tst_titan.metrics_rows import read_rows
from tst_titan.results import METRICS
from tst_titan.train.peaks import peak_flops
from tst_titan.train.titan.routing import routing_statistics
from tst_titan.train.titan.upstream import loggers_of


class SegmentMetrics(MetricsProcessor):
    """Writes the rows of one segment; knows where the segment stands in its run."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        file: str = METRICS
        phase: str = "constant"
        bag_size: int = 1
        start_step: int = 0
        """First step of this job, exclusive."""
        end_step: int = 0
        stage_start_step: int = 0
        """First step of the stage, exclusive: `data_tokens_at_stage_start` were read by then."""
        data_tokens_at_stage_start: int = 0
        equivalent_tokens_per_step: int = 0
        data_tokens_per_step: int = 0
        flops_per_equivalent_token: float = 0.0

    config: Config

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        if config.enable_wandb and isinstance(self.logger, LoggerContainer):
            self._check_wandb(self.logger)
        self._file = Path(config.file)
        self._last_step = config.start_step
        self.num_validation_tokens = 0
        """How many held-out tokens a validation predicts; the validator says."""

    @staticmethod
    def _check_wandb(loggers: LoggerContainer) -> None:
        # torchtitan logs the failure and trains on without it.
        if not any(isinstance(logger, WandBLogger) for logger in loggers_of(loggers)):
            raise UserError(
                "hardware: wandb is on, but Weights & Biases did not start (see train.log). Install it: pip install "
                "wandb; then log in with `wandb login`, or set WANDB_MODE=offline and sync later"
            )

    def resume(self, step: int) -> None:
        """Forget the rows after `step`, which are about to be trained again."""
        self._last_step = step
        self.time_last_log = time.perf_counter()
        if dist.get_rank() == 0:
            keep = [row for row in read_rows(self._file) if row["step"] <= step]
            with whole_file(self._file) as part:
                part.write_text("".join(json.dumps(row) + "\n" for row in keep), encoding="utf-8")

    def should_log(self, step: int) -> bool:
        # The first step of a stage shows the jump at the switch, the last one where the segment ends.
        return super().should_log(step) or step in (self.config.stage_start_step + 1, self.config.end_step)

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Write the row of `step`; the signature is torchtitan's."""
        config, extra = self.config, extra_metrics or {}
        now = time.perf_counter()
        seconds = (now - self.time_last_log) / max(1, step - self._last_step)
        memory = self.device_memory_monitor.get_peak_stats()
        flops_per_step = config.equivalent_tokens_per_step * config.flops_per_equivalent_token
        row = {
            "step": step,
            "phase": config.phase,
            "bag_size": config.bag_size,
            "loss": global_avg_loss,
            "grad_norm": grad_norm,
            "learning_rate": next(value for key, value in extra.items() if key.startswith("lr/")),
            "equivalent_tokens": step * config.equivalent_tokens_per_step,
            "data_tokens": config.data_tokens_at_stage_start
            + (step - config.stage_start_step) * config.data_tokens_per_step,
            "flops": step * flops_per_step,
            "step_time_s": seconds,
            "tokens_per_s": config.equivalent_tokens_per_step / seconds,
            "data_tokens_per_s": config.data_tokens_per_step / seconds,
            "loader_wait_s": sum(self.data_loading_times) / max(1, len(self.data_loading_times)),
            "max_memory_gib": memory.max_reserved_gib,
            **self.utilization(flops_per_step / seconds),
            **self._routing(),
            "time": time.time(),
        }
        self._write(row)
        self.logger.log(_scalars({**row, "phase": _PHASES.index(config.phase)}), step)
        _say(
            f"step {step:>6}  loss {global_avg_loss:8.5f}  grad_norm {grad_norm:7.4f}  "
            f"{row['tokens_per_s']:,.0f} tokens/s  {memory.max_reserved_gib:.2f} GiB"
        )
        self._start_interval(step)

    def _routing(self) -> dict[str, Any]:
        assert self.model_parts is not None
        return routing_statistics(self.model_parts[0], self.parallel_dims)

    def utilization(self, flops_per_s: float) -> dict[str, float]:
        """Share of the devices' peak; absent where that is not known (`tst_titan.train.peaks`)."""
        peak = peak_flops(self.device_memory_monitor.device_name, float8=self.has_quantization)
        return {"utilization": flops_per_s / (peak * self.parallel_dims.world_size)} if peak else {}

    def log_validation(self, loss: float, step: int, extra_metrics: dict[str, Any] | None = None) -> None:
        """Write a validation row; the time it took counts for no training step."""
        row = {
            "step": step,
            "validation_loss": loss,
            "validation_tokens": self.num_validation_tokens,
            **(extra_metrics or {}),
            "time": time.time(),
        }
        self._write(row)
        self.logger.log(row, step)
        _say(f"step {step:>6}  validation loss {loss:7.5f}")
        self._start_interval(step)

    def _start_interval(self, step: int) -> None:
        self._last_step = step
        self.ntokens_since_last_log = 0
        self.data_loading_times.clear()
        self.time_last_log = time.perf_counter()
        self.device_memory_monitor.reset_peak_stats()

    def _write(self, row: dict[str, Any]) -> None:
        if dist.get_rank() == 0:
            with open_own(self._file, "a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _say(line: str) -> None:
    """Log what is the same on every rank, once."""
    if dist.get_rank() == 0:
        logger.info(line)


def _scalars(row: dict[str, Any]) -> dict[str, Any]:
    """A row for loggers of single numbers: `name/0`, `name/1`, ... for a list of one value a layer."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= (
            {f"{key}/{layer}": item for layer, item in enumerate(value)} if isinstance(value, list) else {key: value}
        )
    return flat


_PHASES = ("superposition", "recovery", "constant", "decay")
