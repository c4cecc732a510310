"""Reading speed of the token stream from the page cache, its memory, and torchtitan's own text dataset beside it.

    python benchmarks/loader.py [--tokens 1000000000]
    python benchmarks/loader.py --cold               what is read from disk, and how fast, where nothing is cached

All in one process on one core; where other work shares the core, what counts is the rate by CPU time. torchtitan's
dataset reads a JSONL file on disk of the same text with the same tokenizer, tokenizes as it goes, and delivers
sequences of the same length. With --cold: made-up ids of a published vocabulary (4 bytes each) in shards that are put
out of the cache before; the kernel counts what the process had the disk read (/proc/self/io). Put TMPDIR on the disk
that is meant.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from tst_titan.data.build import build_corpus
from tst_titan.data.inspect import measure_reading
from tst_titan.data.shards import Columns, open_shard, write_shard
from tst_titan.data.stream import TokenStream
from tst_titan.data.tokenizers import use_threads
from tst_titan.plan.settings import CorpusSettings, SourceSettings, TokenizerSettings

SEQ_LEN = 2048
COLD_SHARDS, COLD_TOKENS, COLD_VOCABULARY = 4, 2**24, 128_256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10**9, help="tokens to read while memory is watched")
    parser.add_argument("--cold", action="store_true", help="measure reads from disk instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "corpus"
        settings = CorpusSettings(
            sources=(SourceSettings(name="python-stdlib", kind="python-stdlib"),),
            tokenizer=TokenizerSettings(kind="bpe", vocab_size=4096),
            validation_tokens=100_000,
        )
        build_corpus(settings, folder, num_workers=2)
        if args.cold:
            return cold(made_up_corpus(folder, Path(name) / "cold"))
        ours = speeds(folder)
        memory(folder, args.tokens)
        theirs = torchtitan_speed(folder)
        print(f"torchtitan's text loader: {theirs / 1e6:.3f}M tokens/s: ratio {ours / theirs:,.0f}")


def speeds(folder: Path) -> float:
    """Tokens a second for plain windows of `SEQ_LEN`; also prints other shapes."""
    rates = {}
    for lanes, bag_size, seq_len in [(8, 1, SEQ_LEN), (8, 6, SEQ_LEN), (8, 16, SEQ_LEN), (32, 1, 128)]:
        start, cpu = time.perf_counter(), time.process_time()
        measured = measure_reading(
            folder,
            num_lanes=lanes,
            tokens_per_lane=seq_len * bag_size,
            lookahead=bag_size,
            block_tokens=2048,
            seconds=3.0,
        )
        share = (time.process_time() - cpu) / (time.perf_counter() - start)
        rates[lanes, bag_size, seq_len] = measured.tokens_per_s
        print(
            f"{lanes} sequences of {seq_len} x {bag_size} tokens: {measured.tokens_per_s / 1e6:.0f}M tokens/s by wall "
            f"clock, {measured.tokens_per_s / share / 1e6:.0f}M by CPU time, first batch after "
            f"{measured.first_batch_s * 1e3:.0f} ms"
        )
    return rates[8, 1, SEQ_LEN]


def made_up_corpus(built: Path, folder: Path) -> Path:
    """Random ids under the tokenizer and the manifest of the corpus `built`."""
    shutil.copytree(built / "tokenizer", folder / "tokenizer")
    manifest = json.loads((built / "corpus.json").read_text())
    about = {
        "corpus_id": manifest["corpus_id"],
        "tokenizer_digest": manifest["tokenizer"]["digest"],
        "vocab_size": COLD_VOCABULARY,
    }
    shards, rng = [], np.random.default_rng(0)
    for number in range(COLD_SHARDS):
        file = f"train/{number}.arrow"
        ids = rng.integers(COLD_VOCABULARY, size=COLD_TOKENS, dtype=np.uint32)
        columns = Columns(ids, np.array([0, len(ids)]), np.zeros(1, np.uint64), np.array([len(ids)]))
        (folder / "train").mkdir(exist_ok=True)
        header = write_shard(folder / file, columns, source="made-up", split="train", **about)
        shards.append({"file": file, "num_tokens": COLD_TOKENS, "checksum": header.checksum})
    source = {
        "name": "made-up",
        "weight": 1.0,
        "num_tokens": COLD_SHARDS * COLD_TOKENS,
        "shards": shards,
    }
    (folder / "corpus.json").write_text(json.dumps(manifest | {"sources": [source]}))
    return folder


def cold(folder: Path) -> None:
    """Bytes read and seconds a block of the stream's 32 lanes, and of as many blocks one by one from maps left
    alone."""
    paths = sorted(folder.rglob("*.arrow"))
    for block_tokens in (512, 2048, 8192):
        stream = TokenStream(folder, seed=0, num_lanes=32, block_tokens=block_tokens)
        for run in stream._runs:
            for number in range(run.num_shards):
                run.shard(number)
        steps, block_bytes = 512 * 1024 // 32 // block_tokens, 4 * block_tokens
        num_blocks = 32 * steps
        starts = np.random.default_rng(1).integers(COLD_TOKENS - block_tokens, size=num_blocks).tolist()
        alone = [open_shard(path).ids for path in paths]

        put_out_of_cache(paths)
        before, start = read_bytes(), time.perf_counter()
        for step in range(steps):
            stream.windows(step * 32 * block_tokens, block_tokens)
        ours = (read_bytes() - before) / block_bytes / num_blocks, (time.perf_counter() - start) / num_blocks

        put_out_of_cache(paths)
        before, start = read_bytes(), time.perf_counter()
        for number, at in enumerate(starts):
            alone[number % len(alone)][at : at + block_tokens].astype(np.int64)
        other = (read_bytes() - before) / block_bytes / num_blocks, (time.perf_counter() - start) / num_blocks
        print(
            f"blocks of {block_tokens} tokens, {block_bytes} bytes: read {ours[0]:.2f} times the bytes used, "
            f"{ours[1] * 1e3:.3f} ms a block; maps left alone {other[0]:.1f} times, {other[1] * 1e3:.3f} ms"
        )


def put_out_of_cache(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def memory(folder: Path, num_tokens: int) -> None:
    """Peak memory after a hundredth of the reading and after all of it."""
    stream = TokenStream(folder, seed=0, num_lanes=8, block_tokens=2048)
    batch = 8 * SEQ_LEN
    peaks = []
    for share in (num_tokens // 100, num_tokens):
        for position in range(0, share // batch * batch, batch):
            stream.windows(position, SEQ_LEN + 1)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(
        f"peak memory after {num_tokens // 100:,} tokens {peaks[0]:.1f} MB, after {num_tokens:,} tokens {peaks[1]:.1f} "
        "MB"
    )


def torchtitan_speed(folder: Path) -> float:
    """Tokens a second of torchtitan's text dataset over the corpus's held-out text, after a first sequence."""
    from datasets import load_dataset
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.hf_datasets import DatasetConfig, text_datasets

    text_datasets.DATASETS["held_out"] = DatasetConfig(
        path=str(folder / "validation.jsonl"),
        loader=lambda path: load_dataset("json", data_files=path, split="train", cache_dir=str(folder / "cache")),
        sample_processor=lambda sample: sample["text"],
    )
    use_threads(False)
    tokenizer = HuggingFaceTokenizer.Config().build(tokenizer_path=str(folder / "tokenizer"))
    dataset = text_datasets.HuggingFaceTextDataset("held_out", None, tokenizer, SEQ_LEN, infinite=True)
    sequences = iter(dataset)
    next(sequences)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 3.0:
        next(sequences)
        count += SEQ_LEN
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
