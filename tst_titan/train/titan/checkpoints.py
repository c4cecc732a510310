"""Checkpoints of a segment: torchtitan's, with what a chain of segments needs.

A segment starts from its parent's last checkpoint (model, moments, schedule, loader position and step) or, once it
has saved, from its own latest whole one. Nothing that is not whole, and nothing that its seals do not vouch for, is
loaded; nothing that is not finite is saved.
"""

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torchtitan.components.checkpointer.base import DATALOADER, MODEL, OPTIMIZER, TRAIN_STATE
from torchtitan.tools.logging import logger
from torchtitan.tools.utils import GarbageCollection

from tst_titan.errors import UserError
from tst_titan.results import checkpoint_index, checkpoint_steps, step_folder, step_of
from tst_titan.train.checkpoint_reader import (
    CUT_SHORT,
    check_checkpoint,
    check_shapes,
    files_of,
    first_failure,
    load_into,
    read_index,
)
from tst_titan.train.checkpoint_writer import SealingWriter
from tst_titan.train.measured import record_save
from tst_titan.train.seals import Sharing, file_size, read_seals, unsealed
from tst_titan.train.titan.initial import reinitialize_embeddings
from tst_titan.train.titan.plain_weights import PlainWeights
from tst_titan.train.titan.upstream import AsyncMode, CheckpointHooks


class SegmentCheckpoints(CheckpointHooks):
    """When a segment's checkpoints are loaded, saved and deleted; what is loaded and saved is checked.

    Saves are due by steps (`interval`), when the trainer says (`save_now`) and at the segment's end. All go one way:
    the checkpoints before the last `keep_latest_k` whole ones are deleted, the next one is written. So a folder never
    holds more than those and the one that is being written.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointHooks.Config):
        segment: str = ""
        """The segment's id, which its checkpoints are sealed with."""
        parent: str | None = None
        """Id of the segment whose checkpoint it starts from."""
        expected_start: tuple[int, int] = (0, 0)
        """Step and data tokens that the parent's checkpoint must stand at."""
        reinit_seed: int | None = None
        """Re-initialize embedding and head with this seed when starting from the parent."""

    def __init__(self, config: Config, **kwargs: Any):
        self._deletion = ThreadPoolExecutor(1, thread_name_prefix="old-checkpoints")
        self._deleted: Future[None] | None = None
        super().__init__(config, **kwargs)
        self.states[MODEL] = PlainWeights(kwargs["model_parts"])
        self.config = config
        self.last_saved_step = 0
        self._due_step = -1
        self._own_step = -1

    def load_state(self, step: int) -> bool:
        self._own_step = self._agree_on_own_step()
        resumes = self._own_step != -1
        source = self.checkpoint_folder(self._own_step) if resumes else self.initial_load_path
        if source:
            self._check_seals(Path(source), resumes)
            self._check_shapes(Path(source))
        loaded = super().load_state(step)
        state = self.states[TRAIN_STATE]
        if loaded and not resumes:
            found = (state.step, self.states[DATALOADER].data_tokens)
            if found != self.config.expected_start:
                raise UserError(
                    f"{self.initial_load_path}: the checkpoint stands at step {found[0]} and data token {found[1]}, "
                    "but "
                    "this segment starts at step {} and data token {}: it belongs to another run; delete that "
                    "segment's folder and train it again".format(*self.config.expected_start)
                )
            if self.config.reinit_seed is not None:
                self._reinitialize(self.config.reinit_seed)
        self.last_saved_step = state.step if resumes else 0
        return loaded

    def load(self, step: int = -1) -> bool:
        """Load what `load_state` does; a file that is cut short or gone is one `UserError`, on every rank."""
        try:
            return bool(super().load(step))
        except CUT_SHORT as error:
            own = self._own_step != -1
            source = self.checkpoint_folder(self._own_step) if own else Path(self.initial_load_path or "")
            segment = source.parent.parent
            raise UserError(
                f"damaged: a file of this checkpoint is cut short or gone ({error!r}); bring it back, or delete the "
                f"checkpoint{'' if own else f' and {segment}/done.json'}, and train {'/'.join(segment.parts[-2:])} "
                "again",
                where=source,
            ) from error

    def _agree_on_own_step(self) -> int:
        """The step to go on from, or -1; rank 0 looks, after it removed what is broken or too old.

        Others wait for its answer instead of looking at a folder that changes, or that their node's file system still
        shows as it was.
        """
        step = -1
        if dist.get_rank() == 0:
            folder = Path(self.folder)
            for name in discard_broken(folder):
                logger.warning(f"{folder / name}: not a whole checkpoint; discarded")
            step = max(checkpoint_steps(folder), default=-1)
            self.delete_old()
            self._wait_for_deletion()
        agreed = torch.tensor(step, device=self._device())
        dist.broadcast(agreed, src=0)
        return int(agreed)

    def step_to_load(self) -> int:
        return self._own_step

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        load_into(state_dict, Path(checkpoint_id))
        self.states[MODEL].load_state_dict(state_dict)

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future[Any] | None:
        folder = Path(checkpoint_id)
        step = step_of(folder)
        assert step is not None, f"{folder}: torchtitan names checkpoints otherwise"
        writer = SealingWriter(folder, segment=self.config.segment, step=step)
        if async_mode == AsyncMode.ASYNC:
            # torch's own choice for a writer that stages nothing itself.
            stager = DefaultStager(StagingOptions(False, False, False, False))
            saving: Any = dcp.async_save(state_dict, storage_writer=writer, process_group=self.pg, async_stager=stager)
            saving.add_done_callback(lambda _: stager.close())
            return saving
        dcp.save(state_dict, storage_writer=writer)
        GarbageCollection.collect("after a checkpoint")
        return None

    def _check_seals(self, checkpoint: Path, own: bool) -> None:
        """Raise `UserError`, on every rank, for a checkpoint that is damaged or not the one that is wanted."""
        segment, step = (
            (self.config.segment, self._own_step) if own else (self.config.parent, self.config.expected_start[0])
        )
        sharing = Sharing(dist.get_rank(), dist.get_world_size(), self._least)
        if check_checkpoint(checkpoint, segment or "", step, sharing) is None and dist.get_rank() == 0:
            logger.warning(unsealed(checkpoint))

    def _least(self, number: int) -> int:
        """The smallest of all ranks' numbers."""
        least = torch.tensor(number, device=self._device())
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least)

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

    def save_now(self, step: int) -> None:
        """Save `step` whatever the interval says, unless that is done already."""
        self._due_step = step
        self.save(step)

    def is_due(self, step: int, last_step: bool) -> bool:
        return super().is_due(step, last_step) or step == self._due_step

    def save_state(self, step: int, last_step: bool) -> bool:
        if not self.is_due(step, last_step):
            return False
        another = step != self.last_saved_step
        if another:
            self._save_another(step)
        if last_step:
            self.finish_saving()
        return another

    def _save_another(self, step: int) -> None:
        self.finish_saving()
        self._wait_for_deletion()
        # Every rank waits here for every other: none makes the next folder before rank 0 deleted the last but one.
        if not self._weights_are_finite():
            raise FloatingPointError(f"weights are not finite at step {step}")
        self._due_step = step
        begin = time.monotonic()
        try:
            # The last checkpoint of a segment is like any other: torchtitan would write it without optimizer, or purge
            # nothing.
            super().save_state(step, last_step=False)
        except CheckpointException as error:
            raise first_failure(error) from error
        if self.save_future is None:
            self._record(step, begin)
        else:
            self.save_future.add_done_callback(lambda _: self._record(step, begin))
        self.last_saved_step = step

    def _record(self, step: int, begin: float) -> None:
        if dist.get_rank() == 0:
            record_save(Path(self.folder).parent, step, time.monotonic() - begin)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is whole on the disk (where it is written behind the training)."""
        if self.save_future is None:
            return
        try:
            self.maybe_wait_for_staging()
            self.maybe_wait_for_saving()
        except CheckpointException as error:
            raise first_failure(error) from error
        self.delete_old()

    def delete_old(self) -> None:
        """Start to delete all but the last `keep_latest_k` checkpoints; what is being written yet does not count."""
        if dist.get_rank() != 0 or self.save_future is not None:
            return
        folder = Path(self.folder)
        stale = checkpoint_steps(folder)[: -self.keep_latest_k]
        self._wait_for_deletion()
        self._deleted = self._deletion.submit(_delete, [step_folder(folder, step) for step in stale])

    def _wait_for_deletion(self) -> None:
        if self._deleted is not None:
            self._deleted.result()
            self._deleted = None

    def end(self) -> None:
        self._deletion.shutdown(wait=True)
        super().end()

    def _device(self) -> torch.device:
        return next(self.states[MODEL].model[0].parameters()).device

    def _weights_are_finite(self) -> bool:
        finite = torch.ones((), dtype=torch.int32)
        for model in self.states[MODEL].model:
            for parameter in model.parameters():
                local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                if not torch.isfinite(local).all():
                    finite.zero_()
        if dist.get_world_size() > 1:
            finite = finite.to(self._device())
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        return bool(finite)


def whole_checkpoint(folder: Path) -> bool:
    """Whether every file that a DCP checkpoint's index names is there in full, and sealed, where it has seals."""
    if not checkpoint_index(folder).is_file():
        return False
    try:
        needed = files_of(read_index(folder))
    except UserError:  # it names what no index does: for a user to look at
        raise
    except Exception as error:  # a damaged index can fail in any way; whatever it is, the folder is not whole
        logger.warning(f"{folder}: the checkpoint's index cannot be read ({error!r})")
        return False
    try:
        seals = read_seals(folder)
    except UserError:  # its seals contradict one another: loading says so
        return True
    if seals is not None:
        return seals.cover(set(needed))
    return all(file_size(folder / name) >= size for name, size in needed.items())


def latest_whole_step(folder: Path) -> int | None:
    """The last step of the whole checkpoints `step-N` in `folder`, or None."""
    steps = reversed(checkpoint_steps(folder))
    return next((step for step in steps if whole_checkpoint(step_folder(folder, step))), None)


def discard_broken(folder: Path) -> list[str]:
    """Remove the `step-N` folders that a killed save or a damaged disk left incomplete; returns their names."""
    found = [step_folder(folder, step) for step in checkpoint_steps(folder)]
    broken = [path for path in found if not whole_checkpoint(path)]
    for path in broken:
        shutil.rmtree(path)
    return [path.name for path in broken]


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        try:
            shutil.rmtree(folder)
            logger.info(f"{folder}: deleted, newer checkpoints are there")
        except OSError as error:  # the next checkpoint's deletion tries again
            logger.warning(f"{folder}: an old checkpoint that cannot be deleted ({error})")
