"""From a cold cache the stream reads the blocks that it needs and not what lies around them."""

import os
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import numbered_corpus

from tst_titan.data import shards
from tst_titan.data.manifest import open_corpus
from tst_titan.data.shards import verify_shard
from tst_titan.data.stream import TokenStream
from tst_titan.data.validation import validation_windows


def read_bytes() -> int:
    """Bytes that this process had the disk read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def make_cold(folder: Path) -> None:
    """Put the folder's shards out of the system's cache."""
    for path in folder.rglob("*.arrow"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def advice(path: Path) -> set[str]:
    """How this process's maps of a file are to be read: the kernel's flags ("rr" at random, "sr" in sequence)."""
    flags, inside = set(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split()[0].rstrip(":").isalpha():
            if inside and line.startswith("VmFlags:"):
                flags |= {"rr", "sr"} & set(line.split())
        elif "-" in line.split()[0]:
            inside = line.endswith(str(path))
    return flags


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 12 MB."""
    return numbered_corpus(tmp_path_factory.mktemp("cold"), {"a": 6_000_000}, shard_tokens=3_000_000)


def test_the_stream_reads_at_most_half_as_much_again_as_it_uses(corpus: Path) -> None:
    """64 times as much was read: the kernel took megabytes around every page."""
    make_cold(corpus)
    stream = TokenStream(corpus, seed=0, num_lanes=8, block_tokens=2048)
    before = read_bytes()
    windows = [stream.windows(step * 8 * 2048, 2048) for step in range(6)]
    read = read_bytes() - before
    used = 6 * 8 * 2048 * 4
    # An unaligned block of 8 KiB lies in three pages; opening a shard reads its header, footer and offsets.
    opening = 2 * 8 * 4096
    assert read <= 1.5 * used + opening
    starts = {int(row[0]) for window in windows for row in window}
    assert len(starts) == 48
    assert all((row == np.arange(row[0], row[0] + 2048)).all() for window in windows for row in window)


def test_the_stream_and_a_check_of_all_tell_the_system_how_they_read(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_corpus(corpus).training_runs[0]
    opened = [run.shard(number) for number in range(run.num_shards)]
    assert [advice(shard.path) for shard in opened] == [{"rr"}, {"rr"}]

    during, checksum = [], shards._checksum
    monkeypatch.setattr(shards, "_checksum", lambda columns: (during.append(advice(path)), checksum(columns))[1])
    path = corpus / "validation/00000.arrow"
    verify_shard(path)
    assert during == [{"sr"}]


def test_validation_reads_only_the_windows_that_it_takes(tmp_path: Path) -> None:
    folder = numbered_corpus(tmp_path, {"a": 1000}, held_out_tokens=4_000_000)
    make_cold(folder)
    before = read_bytes()
    windows = validation_windows(folder, 1024, max_tokens=20 * 1024)
    used = windows.size * 4
    assert read_bytes() - before <= 2 * used + 12 * 4096
    assert (windows[:, 0] == np.arange(20) * (3_999_999 // 1024) // 20 * 1024).all()


def test_a_block_over_several_shards_is_fetched_whole(tmp_path: Path) -> None:
    folder = numbered_corpus(tmp_path, {"a": 300_000}, shard_tokens=50_000)
    make_cold(folder)
    run = open_corpus(folder).training_runs[0]
    out = np.empty(220_000, dtype=np.int64)
    run.will_need(30_000, len(out))
    run.read_into(out, 30_000)
    assert (out == np.arange(30_000, 250_000)).all()
    run.will_need(299_000, 5_000)  # beyond the end there is nothing to fetch
