"""What of torchtitan 0.3.0 is private, or lies elsewhere in its later versions: when one of it moves, this file is
mended.

`NAMES` says what each is for, `tests/test_train_contract.py` looks them up, and that no other file touches a private
name. What is replaced before torchtitan's other modules load is in `device.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchtitan.components.checkpointer import AsyncMode as AsyncMode
from torchtitan.components.checkpointer import CheckpointManager, ModelWrapper
from torchtitan.components.dataloader import BaseDataLoader as BaseDataLoader
from torchtitan.components.loss import BaseLoss
from torchtitan.components.metrics import BaseLogger, LoggerContainer
from torchtitan.config import CompileConfig
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.moe import GroupedExperts
from torchtitan.protocols.module import Module

NAMES = {
    "torchtitan.components.checkpointer:AsyncMode": "saves behind the training; torchtitan.components.checkpoint is going",  # noqa: E501
    "torchtitan.components.dataloader:BaseDataLoader": "what our loaders subclass; later torchtitan.components.data.loader",  # noqa: E501
    "torchtitan.components.checkpointer:CheckpointManager._load": "overridden: whose checkpoint is loaded, and checked before",  # noqa: E501
    "torchtitan.components.checkpointer:CheckpointManager._save": "overridden: all saves go one way, the last one like any other",  # noqa: E501
    "torchtitan.components.checkpointer:CheckpointManager._should_save": "overridden: saves are also due by the clock",
    "torchtitan.components.checkpointer:CheckpointManager._find_load_step": "overridden: all ranks go on from the step that rank 0 found",  # noqa: E501
    "torchtitan.components.checkpointer:CheckpointManager._create_checkpoint_id": "called: the folder of a step",
    "torchtitan.components.checkpointer:CheckpointManager._purge_stale_checkpoints": "overridden: none more than the last ones is kept",  # noqa: E501
    "torchtitan.components.checkpointer:CheckpointManager._close": "overridden: ends the thread that deletes",
    "torchtitan.components.checkpointer:ModelWrapper._get_state_dict": "overridden: float8 experts are saved as plain weights",  # noqa: E501
    "torchtitan.components.loss:BaseLoss._maybe_compile": "called: our loss is compiled as torchtitan's are",
    "torchtitan.components.metrics:LoggerContainer._loggers": "read: whether Weights & Biases has started",
    "torchtitan.models.common.decoder:Decoder._skip_lm_head": "set: evaluation applies the head where tokens are scored",  # noqa: E501
    "torchtitan.models.common.moe:GroupedExperts._grouped_mm": "called: products of experts in the dtype of their weights",  # noqa: E501
    "torchtitan.protocols.module:Module._param_init": "read: how a parameter was drawn, to draw it anew",
    "torchtitan.protocols.module:Module._init_self_buffers": "called: fills rotary caches and biases of a model that no trainer built",  # noqa: E501
}

# What the trainer says in a RuntimeError when the loss of a step is infinite or no number; the contract test has its
# source.
LOSS_NOT_FINITE = "Loss is not finite"


class CheckpointHooks(CheckpointManager):
    """torchtitan's checkpoints; what a subclass changes of them has names of ours, each doing as torchtitan does by
    itself."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        pass

    def load_state(self, step: int) -> bool:
        """Load the checkpoint `step` (-1: the one that there is to load); whether there was one."""
        return super()._load(step)

    def save_state(self, step: int, last_step: bool) -> bool:
        """Save `step` if that is due; whether it was."""
        return super()._save(step, last_step)

    def is_due(self, step: int, last_step: bool) -> bool:
        """Whether `step` is one to save."""
        return super()._should_save(step, last_step)

    def step_to_load(self) -> int:
        """The step of the own folder to go on from, -1 for none."""
        return super()._find_load_step()

    def delete_old(self) -> None:
        """Delete the checkpoints that are not to be kept."""
        super()._purge_stale_checkpoints()

    def end(self) -> None:
        """End the threads."""
        super()._close()

    def checkpoint_folder(self, step: int) -> Path:
        """Where checkpoint `step` lies."""
        return Path(self._create_checkpoint_id(step))

    def _load(self, step: int = -1) -> bool:
        return self.load_state(step)

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        return self.save_state(curr_step, last_step)

    def _should_save(self, curr_step: int, last_step: bool = False) -> bool:
        return self.is_due(curr_step, last_step)

    def _find_load_step(self, folder: str = "") -> int:
        return self.step_to_load()

    def _purge_stale_checkpoints(self) -> None:
        self.delete_old()

    def _close(self) -> None:
        self.end()


class CheckpointWeights(ModelWrapper):
    """torchtitan's view of a model for checkpoints; `tensors` may be overridden."""

    def tensors(self) -> dict[str, Any]:
        """What is saved and loaded, by name."""
        return super()._get_state_dict()

    def _get_state_dict(self) -> dict[str, Any]:
        return self.tensors()


def compile_loss(loss: BaseLoss, config: CompileConfig | None) -> None:
    """Compile `loss.fn` where the configuration says so."""
    loss._maybe_compile(config)


def loggers_of(container: LoggerContainer) -> list[BaseLogger]:
    """The loggers that have started."""
    return container._loggers


def skip_head(model: Decoder) -> None:
    """Have the model return hidden states `[B, L, D]` instead of logits."""
    model._skip_lm_head = True


def grouped_product(
    experts: GroupedExperts, inputs_RK: torch.Tensor, weights_EKN: torch.Tensor, offsets_E: torch.Tensor
) -> torch.Tensor:
    """Each expert's rows times its weights, `[R, N]`; `offsets_E` are the ends of its rows."""
    return experts._grouped_mm(A=inputs_RK, B_t=weights_EKN, offs=offsets_E)


def initializers(module: nn.Module) -> dict[str, Any]:
    """What draws a module's own parameters, by their names."""
    found: dict[str, Any] = module._param_init  # type: ignore[assignment]
    return found


def fill_buffers(model: nn.Module) -> None:
    """Fill the buffers of all of a model's modules, where they lie."""
    for module in model.modules():
        if isinstance(module, Module):
            module._init_self_buffers(buffer_device=None)
