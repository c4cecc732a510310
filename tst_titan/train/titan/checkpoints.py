"""Checkpoints of a segment: torchtitan's, with what a chain of segments needs.

A segment starts from its parent's last checkpoint (model, moments, schedule, loader position and step) or, once it
has saved, from its own latest whole one. Nothing that is not whole is loaded, nothing that is not finite is saved.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.checkpointer.base import DATALOADER, MODEL, OPTIMIZER, TRAIN_STATE
from torchtitan.tools.logging import logger

from tst_titan.errors import UserError
from tst_titan.train.checkpoint_reader import load_into, read_index
from tst_titan.train.measured import record_save
from tst_titan.train.titan.models import reinitialize_embeddings
from tst_titan.train.titan.plain_weights import PlainWeights


class SegmentCheckpoints(CheckpointManager):
    """Loads from the segment itself or its parent; checks what it loads and saves."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        expected_start: tuple[int, int] = (0, 0)
        """Step and data tokens that the parent's checkpoint must stand at."""
        reinit_seed: int | None = None
        """Re-initialize embedding and head with this seed when starting from the parent."""

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.states[MODEL] = PlainWeights(kwargs["model_parts"])
        self.config = config
        self.last_saved_step = 0

    def _load(self, step: int = -1) -> bool:
        own_step = self._find_load_step()
        resumes = own_step != -1
        source = self._create_checkpoint_id(own_step) if resumes else self.initial_load_path
        if source:
            self._check_shapes(Path(source))
        loaded = super()._load(step)
        state = self.states[TRAIN_STATE]
        if loaded and not resumes:
            found = (state.step, self.states[DATALOADER].data_tokens)
            if found != self.config.expected_start:
                raise UserError(
                    f"{self.initial_load_path}: the checkpoint stands at step {found[0]} and data token {found[1]}, but "
                    "this segment starts at step {} and data token {}: it belongs to another run; delete that "
                    "segment's folder and train it again".format(*self.config.expected_start)
                )
            if self.config.reinit_seed is not None:
                self._reinitialize(self.config.reinit_seed)
        self.last_saved_step = state.step if resumes else 0
        return loaded

    def dcp_load(
        self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool
    ) -> None:
        load_into(state_dict, Path(checkpoint_id))
        self.states[MODEL].load_state_dict(state_dict)

    def _check_shapes(self, checkpoint: Path) -> None:
        entries = read_index(checkpoint).state_dict_metadata
        found = {name: getattr(entry, "size", None) for name, entry in entries.items()}
        state = self.states[MODEL].state_dict()
        wanted = {name: value.shape for name, value in state.items() if isinstance(value, torch.Tensor)}
        check_shapes(found, wanted, checkpoint)

    def _reinitialize(self, seed: int) -> None:
        """New embedding and head, with fresh moments: Table 2's ablation."""
        optimizers = self.states[OPTIMIZER].optimizers
        for model in self.states[MODEL].model:
            for name in reinitialize_embeddings(model, seed):
                parameter = model.get_parameter(name)
                for optimizer in optimizers:
                    for moment in ("exp_avg", "exp_avg_sq"):
                        if moment in optimizer.state.get(parameter, {}):
                            optimizer.state[parameter][moment].zero_()
                logger.info(f"{name}: initialized anew at step {self.states[TRAIN_STATE].step}")

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if not self._should_save(curr_step, last_step) or curr_step == self.last_saved_step:
            return False
        begin = time.monotonic()
        if not self._weights_are_finite():
            raise FloatingPointError(f"weights are not finite at step {curr_step}")
        saved = super()._save(curr_step, last_step)
        if dist.get_rank() == 0:
            record_save(Path(self.folder).parent, curr_step, time.monotonic() - begin)
        self.last_saved_step = curr_step
        return saved

    def _weights_are_finite(self) -> bool:
        finite = torch.ones((), dtype=torch.int32)
        for model in self.states[MODEL].model:
            for parameter in model.parameters():
                local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                if not torch.isfinite(local).all():
                    finite.zero_()
        if dist.get_world_size() > 1:
            finite = finite.to(local.device)
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        return bool(finite)


def check_shapes(
    found: dict[str, torch.Size | None], wanted: dict[str, torch.Size], checkpoint: Path
) -> None:
    """Whether a checkpoint holds this model's parameters, each in its shape."""
    missing = [name for name in wanted if name not in found]
    other = [
        f"{name} is {_sizes(found[name])} there, {list(shape)} here"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if missing:
        other.append(f"{len(missing)} parameters are not there, {missing[0]} for one")
    if other:
        raise UserError(
            f"{checkpoint}: a checkpoint of another model: {'; '.join(other[:3])}"
            + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
        )


def _sizes(size: torch.Size | None) -> list[int] | str:
    return "no tensor" if size is None else list(size)


def whole_checkpoint(folder: Path) -> bool:
    """Whether every file that a DCP checkpoint's index names is there in full."""
    if not (folder / ".metadata").is_file():
        return False
    try:
        places = read_index(folder).storage_data
    except UserError:  # it names what no index does: for a user to look at
        raise
    except Exception as error:  # a damaged index can fail in any way; whatever it is, the folder is not whole
        logger.warning(f"{folder}: the checkpoint's index cannot be read ({error!r})")
        return False
    needed: dict[str, int] = {}
    for place in places.values():
        needed[place.relative_path] = max(needed.get(place.relative_path, 0), place.offset + place.length)
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size >= size for name, size in needed.items()
    )


def latest_whole_step(folder: Path) -> int | None:
    """The last step of the whole checkpoints `step-N` in `folder`, or None."""
    steps = sorted((checkpoint_step(path) for path in folder.glob("step-*")), reverse=True)
    return next((step for step in steps if step >= 0 and whole_checkpoint(folder / f"step-{step}")), None)


def discard_broken(folder: Path) -> list[str]:
    """Remove the `step-N` folders that a killed save or a damaged disk left incomplete; returns their names."""
    broken = [
        path for path in folder.glob("step-*") if checkpoint_step(path) >= 0 and not whole_checkpoint(path)
    ]
    for path in broken:
        shutil.rmtree(path)
    return [path.name for path in broken]


def checkpoint_step(path: Path) -> int:
    """N of a folder `step-N`; -1 for any other name."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1
