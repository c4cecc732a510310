"""Several ranks on this machine that train a list of jobs, one after the other, in the same processes."""

import faulthandler
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tst_titan.meeting import MEETING_FILE, met_ranks
from tst_titan.train.job import Job, write_job

# Of ranks that wait for one another in vain; a busy machine is slower than a quiet one.
LONGEST = 600


def train_on_ranks(
    jobs: dict[str, Job], world_size: int, train: dict[str, Callable[[Job], None]] | None = None
) -> None:
    """Train every job on `world_size` ranks; each leaves `initial.pt`, its metrics and its checkpoint in its folder.

    A job that fails leaves `error-RANK.txt` instead and the next one runs, so that one start of the processes, which
    costs as much as all the training, serves many tests. `train` names what to call instead of `train_recorded`.
    """
    tasks = [((train or {}).get(name, train_recorded), job) for name, job in jobs.items()]
    for job in jobs.values():
        write_job(job)
    ranks = mp.spawn(_rank, args=(world_size, tasks), nprocs=world_size, join=False)
    deadline = time.monotonic() + LONGEST
    while not ranks.join(timeout=5):
        if time.monotonic() > deadline:
            for process in ranks.processes:
                process.kill()
            raise TimeoutError(f"the ranks were not done after {LONGEST} seconds: one waits for another")


def _rank(rank: int, world_size: int, tasks: list[tuple[Callable[[Job], None], Job]]) -> None:
    faulthandler.dump_traceback_later(LONGEST - 10)
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    for train, job in tasks:
        os.environ[MEETING_FILE] = str(job.folder / "meeting")
        try:
            with met_ranks():
                train(job)
        except Exception:
            (job.folder / f"error-{rank}.txt").write_text(traceback.format_exc())
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def train_recorded(job: Job) -> None:
    """Train a job with the real trainer, and keep the weights that it started from."""
    from tst_titan.train.titan.config import trainer_config

    trainer = trainer_config(job).build()
    try:
        initial = whole_weights(trainer.model_parts[0])
        if dist.get_rank() == 0:
            torch.save(initial, job.folder / "initial.pt")
        trainer.train()
    finally:
        trainer.close()


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter of a model as one whole tensor, under its name without wrappers."""
    return {_plain(name): _whole(parameter) for name, parameter in model.named_parameters()}


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    whole: Any = getattr(tensor, "full_tensor", None)
    return (whole() if whole else tensor).detach().clone()


def initial_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "initial.pt", weights_only=True)


def errors(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("error-*.txt")))
