"""A real rank of a training job that meets the fault named by FAULT in its third step:
`python -m faulty_rank job.json`."""

import atexit
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from tst_titan.train.titan import worker
from tst_titan.train.titan.trainer import SegmentTrainer

RANK = int(os.environ["RANK"])
LONGER_THAN_ANY_TEST = 3600.0


def hang(*args: Any) -> None:
    time.sleep(LONGER_THAN_ANY_TEST)


def out_of_memory() -> None:
    """Rank 1 runs out of memory; rank 0 waits for it, and so would rank 1's own orderly exit: as with NCCL."""
    if RANK == 0:
        hang()
    dist.destroy_process_group = hang
    atexit.register(hang)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def connection_closed_first() -> None:
    """Rank 0 loses its connection to rank 1, and says so before rank 1 says that it is out of memory."""
    if RANK == 0:
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]")
    while not list(Path(sys.argv[1]).parent.glob("failures/0.json")):
        time.sleep(0.01)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def killed() -> None:
    """The kernel kills rank 1, as it does when the host's memory is used up; rank 0 meets it in its next collective."""
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def standing_still() -> None:
    """Rank 1 stands still; rank 0 waits for it in a collective until the collective's timeout, here two seconds."""
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(timedelta(seconds=2), group)


def hanging_at_its_end() -> None:
    """All is saved; then rank 1 waits for ever in the library's farewell."""
    worker.END_SECONDS = 2
    if RANK == 1:
        dist.destroy_process_group = hang


def step_with_fault(self: SegmentTrainer, data: Any) -> None:
    if self.step == 3:
        globals()[os.environ["FAULT"]]()
    plain_step(self, data)


if __name__ == "__main__":
    plain_step = SegmentTrainer.train_step
    SegmentTrainer.train_step = step_with_fault  # type: ignore[method-assign]
    sys.exit(worker.main())
