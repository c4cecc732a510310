"""What sealing a checkpoint costs: saving it with and without seals, and comparing it with them.

    python benchmarks/seal.py [--gigabytes 1] [--rounds 5] [--folder /tmp]

One rank, one file, tensors of 64 MiB. Both ways of saving take turns, each into a new folder and flushed to the disk;
the ratio is the median over rounds. Comparing reads the file from the page cache.
"""

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter

from tst_titan.files import digest_file
from tst_titan.train.checkpoint_writer import SealingWriter
from tst_titan.train.seals import Sharing, check_files, read_seals

PIECE = 64 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    torch.set_num_threads(1)
    pieces = max(1, round(args.gigabytes * 1e9 / PIECE))
    state = {f"piece.{number}": torch.randn(PIECE // 4) for number in range(pieces)}
    size = pieces * PIECE
    seconds: dict[str, list[float]] = {
        "plain": [],
        "sealed": [],
        "cpu plain": [],
        "cpu sealed": [],
        "compared": [],
        "known": [],
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for _ in range(args.rounds):
            for kind in ("plain", "sealed"):
                folder = Path(name) / kind
                shutil.rmtree(folder, ignore_errors=True)
                writer = FileSystemWriter(folder) if kind == "plain" else SealingWriter(folder, segment="a/b", step=1)
                wall, cpu = time.perf_counter(), time.process_time()
                dcp.save(state, storage_writer=writer, no_dist=True)
                seconds[kind].append(time.perf_counter() - wall)
                seconds[f"cpu {kind}"].append(time.process_time() - cpu)
            seals = read_seals(Path(name) / "sealed")
            assert seals is not None
            for kind in ("compared", "known"):
                start = time.perf_counter()
                check_files(seals, Sharing())
                seconds[kind].append(time.perf_counter() - start)
        start = time.process_time()
        digest_file(max((Path(name) / "sealed").iterdir(), key=lambda path: path.stat().st_size))
        alone = time.process_time() - start
    ratios = [sealed / plain for sealed, plain in zip(seconds["sealed"], seconds["plain"], strict=True)]
    more = [sealed - plain for sealed, plain in zip(seconds["cpu sealed"], seconds["cpu plain"], strict=True)]
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    print(f"{size / 1e9:.2f} GB, {args.rounds} rounds, medians")
    print(f"saved without seals: {median['plain']:.2f} s, {size / median['plain'] / 1e6:,.0f} MB/s")
    print(f"saved with seals:    {median['sealed']:.2f} s, {size / median['sealed'] / 1e6:,.0f} MB/s")
    print(f"ratio of the two:    {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")
    print(f"seal alone, CPU time: {statistics.median(more):.2f} s, {size / statistics.median(more) / 1e6:,.0f} MB/s")
    print(f"SHA-256 of the file, CPU time: {alone:.2f} s, {size / alone / 1e6:,.0f} MB/s")
    print(f"compared:            {median['compared']:.2f} s, {size / median['compared'] / 1e6:,.0f} MB/s")
    print(f"compared before:     {median['known'] * 1000:.2f} ms")


if __name__ == "__main__":
    main()
