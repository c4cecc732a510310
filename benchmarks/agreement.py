"""What it costs a step that ranks agree whether to stop: by the store, or by a collective whose answer the host reads.

    python benchmarks/agreement.py [--ranks N] [--steps N] [--products N]

N processes on this machine (gloo, one thread each) make steps of matrix products and one all-reduce, as data-parallel
ranks do. The kinds take turns step by step. Printed: each kind's median step over that without agreement, the median
time of asking alone, and what that is of a second, as trainers ask once a second. A CPU has no queue of device work:
what a GPU's host would wait for when it reads a collective's answer is not in these numbers.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tst_titan.train.titan.agreement import Agreement, Cadence


def by_collective(step: int) -> None:
    """All-reduce the wishes on the device and read the result: on a GPU, after all that is queued."""
    wishes = torch.zeros(2, dtype=torch.int32)
    dist.all_reduce(wishes, op=dist.ReduceOp.MAX)
    wishes.tolist()


class EveryStep(Cadence):
    """Of steps that take longer than a second."""

    def steps(self, step: int, now: float) -> int:
        return 1


def rank_main(rank: int, port: int, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=args.ranks)
    matrix = torch.randn(256, 256)
    gradient = torch.zeros(100_000)
    agreement = Agreement(rank, 300, cadence=EveryStep())
    kinds: dict[str, Callable[[int], object]] = {
        "none": lambda step: None,
        "store": lambda step: agreement.ask(step, stop=False, save=False),
        "collective": by_collective,
    }
    steps: dict[str, list[float]] = {name: [] for name in kinds}
    asking: dict[str, list[float]] = {name: [] for name in kinds}
    for step in range(args.steps):
        for name, agree in kinds.items():
            begin = time.perf_counter()
            agree(step)
            asking[name].append(time.perf_counter() - begin)
            for _ in range(args.products):
                matrix @ matrix
            dist.all_reduce(gradient)
            steps[name].append(time.perf_counter() - begin)
    if rank == 0:
        for name in kinds:
            ratio = statistics.median(own / none for own, none in zip(steps[name], steps["none"], strict=True))
            ask = statistics.median(asking[name])
            print(
                f"{name:12} {1000 * statistics.median(steps[name]):8.2f} ms a step, {ratio:.3f} of none; asking takes "
                f"{1000 * ask:.3f} ms, {100 * ask:.3f}% of a second"
            )
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000, help="of each kind")
    parser.add_argument("--products", type=int, default=20, help="of 256 x 256 matrices in a step")
    args = parser.parse_args()
    # As torchrun holds it for its workers.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(rank_main, args=(store.port, args), nprocs=args.ranks)


if __name__ == "__main__":
    main()
