"""Validation on plain next-token loss, whatever the model is trained on (design pitfall: validation on bags)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss, ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.validate import Validator

from tst_titan.data.manifest import open_corpus
from tst_titan.data.validation import validation_windows
from tst_titan.train.titan.components import positions_of
from tst_titan.train.titan.upstream import BaseDataLoader


class HeldOutDataLoader(BaseDataLoader):
    """The held-out windows, split over data-parallel ranks; the last batch is filled with ignored rows.

    Every rank makes the same number of batches, so that no rank waits for another.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        corpus: str = ""
        max_tokens: int = 0
        """How many held-out tokens to use (0: all)."""
        positions: str = "none"
        """As of the training loader."""
        infinite: bool = False
        """Set by torchtitan's validator, which stops after a number of steps; not used."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        seq_len: int,
        local_batch_size: int,
        **kwargs: Any,
    ):
        self.windows = validation_windows(Path(config.corpus), seq_len, config.max_tokens)
        self.positions = config.positions
        self.eos_id = open_corpus(Path(config.corpus)).eos_id
        self.rank, self.num_ranks, self.batch_size = dp_rank, dp_world_size, local_batch_size

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        stride = self.batch_size * self.num_ranks
        for start in range(0, len(self.windows), stride):
            first = start + self.rank * self.batch_size
            windows_BT = torch.from_numpy(self.windows[first : first + self.batch_size])
            inputs_BL = torch.zeros(self.batch_size, self.windows.shape[1] - 1, dtype=torch.int64)
            labels_BL = torch.full_like(inputs_BL, IGNORE_INDEX)
            inputs_BL[: len(windows_BT)] = windows_BT[:, :-1]
            labels_BL[: len(windows_BT)] = windows_BT[:, 1:]
            yield {"input": inputs_BL, **positions_of(inputs_BL, self.positions, self.eos_id)}, labels_BL

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Each validation starts at the first window."""


class PlainValidator(Validator):
    """torchtitan's validator with a loss of its own: cross-entropy on single tokens in every phase."""

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        loss: BaseLoss.Config = field(default_factory=CrossEntropyLoss.Config)
        end_step: int = 0

    def __init__(self, config: Config, *, loss_fn: BaseLoss, **kwargs: Any):
        plain_loss = config.loss.build()
        if isinstance(plain_loss, ChunkedLossWrapper):
            assert isinstance(loss_fn, ChunkedLossWrapper)
            assert loss_fn.lm_head is not None
            plain_loss.set_lm_head(loss_fn.lm_head)
        super().__init__(config, loss_fn=plain_loss, **kwargs)
        self.last_step = 0
        assert isinstance(config.dataloader, HeldOutDataLoader.Config)
        windows = validation_windows(Path(config.dataloader.corpus), self.seq_len, config.dataloader.max_tokens)
        self.metrics_processor.num_validation_tokens = windows.shape[0] * self.seq_len  # type: ignore[attr-defined]

    def should_validate(self, step: int) -> bool:
        assert isinstance(self.config, PlainValidator.Config)
        return step % self.config.freq == 0 or step == self.config.end_step

    def validate(self, model_parts: list[torch.nn.Module], step: int) -> None:
        super().validate(model_parts, step)
        _reshard(model_parts)
        self.last_step = step


def _reshard(model_parts: list[torch.nn.Module]) -> None:
    """Give the gathered weights of every FSDP group back.

    Groups that keep theirs for the backward (norm and head, and the root) would keep them after a forward that has
    none. A step that replays a CUDA graph runs no hooks, so nothing would gather anew: a graph captured now would
    compute with these weights for ever, and so would the next validation.
    """
    for module in (module for part in model_parts for module in part.modules()):
        if isinstance(module, FSDPModule):
            module.reshard()
