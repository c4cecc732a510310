"""Several processes that evaluate one checkpoint: each scores its share of the sequences, all hold all answers.

Every rank runs the same lm-eval on the same requests; only the model's work is divided (`lm.TitanLM`). So every rank
computes the same scores, and the first one writes them. What ranks exchange are answers, a few numbers a request, as
JSON over gloo: torch's own exchange of objects would unpickle whatever came. A model that does not fit
one GPU can be divided between them instead (`shard_model`): then all of them score the same sequences.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tst_titan.errors import UserError
from tst_titan.meeting import met_ranks, private_meeting
from tst_titan.processes import start_ranks, wait_for_ranks

T = TypeVar("T")
# The slowest share of a large task may take hours longer than the fastest.
_LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate together; one process is the first of one."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `size`-th item, starting with this rank's."""
        return items[self.rank :: self.size]

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all ranks, plain data as JSON has them (a tuple comes as a list). All ranks must call it."""
        if self.size == 1:
            return items
        return [item for part in _gathered(json.dumps(items).encode(), self.size) for item in json.loads(part)]

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first rank, made there alone: plain data as JSON has them. All ranks must call it.

        A mistake that it raises there is raised everywhere, so that no rank waits for another.
        """
        if self.size == 1:
            return make()
        made: list[Any] = []
        if self.first:
            try:
                made = [make(), None]
            except UserError as error:
                made = [None, str(error)]
        value, mistake = json.loads(_gathered(json.dumps(made).encode(), self.size)[0])
        if mistake is not None:
            raise UserError(mistake)
        return value


def _gathered(data: bytes, size: int) -> list[bytes]:
    """The bytes of every rank, in their order."""
    lengths = torch.zeros(size, dtype=torch.int64)
    dist.all_gather(list(lengths.split(1)), torch.tensor([len(data)]))
    longest = int(lengths.max())
    own = torch.zeros(longest, dtype=torch.uint8)
    own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own)
    return [bytes(part[:length].numpy()) for part, length in zip(parts, lengths.tolist(), strict=True)]


def join_ranks() -> Ranks:
    """Meet the other processes of an evaluation, if there are any."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    if not dist.is_initialized():
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        with met_ranks():
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=_LONGEST_WAIT)
    return Ranks(dist.get_rank(), size)


def shard_model(model: Any, device: str) -> None:
    """Divide a decoder's weights between all ranks (FSDP); each layer is whole only while it computes.

    Embeddings and head stay whole after the first batch: the head is applied outside of the model's forward pass.
    """
    if model.enable_weight_tying:
        raise UserError("--shard: a model with tied embeddings is evaluated whole; leave --shard away")
    mesh = init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))
    for layer in model.layers.values():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def among_ranks() -> bool:
    """Whether this process is one of several that `run_on` started."""
    return "LOCAL_WORLD_SIZE" in os.environ


def leave(error: Exception) -> NoReturn:
    """End this rank for `error` at once: what runs at an orderly exit may wait for other ranks, which wait for this
    one."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)


def run_on(processes: int, arguments: Sequence[str], locks: Sequence[int]) -> int:
    """Run `tst-titan ARGUMENTS` on that many ranks of this machine; returns the exit status.

    Each rank has a GPU of its own, where there are GPUs; else they share the cores. All hold `locks`, and end with this
    process.
    """
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with private_meeting() as meeting:
        return wait_for_ranks(
            start_ranks(
                [sys.executable, "-m", "tst_titan.cli", *arguments],
                processes,
                environment=environment,
                meeting=meeting,
                pass_fds=locks,
            )
        )
