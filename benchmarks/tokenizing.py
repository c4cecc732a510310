"""Tokenizing speed against the `tokenizers` library's fastest batch call and against `datasets.map`, in one run.

    python benchmarks/tokenizing.py [--megabytes 16] [--rounds 3]

The text is the standard library's, repeated with changes so that nothing is a duplicate; the tokenizer is a byte-level
BPE of 4096 ids trained on it. One core: `tokenize_group` (reading, hashing, splitting, encoding, writing the shard)
against `encode_batch_fast` on the same documents, already in memory, on one thread, both in CPU time. Two cores, from
the same JSONL files to token ids on disk: `build_corpus` with two workers against `datasets.map` with
`batched=True, num_proc=2` (all else as it comes: batches of 1000 rows) in two forms,

    usual    the call of the `datasets` and `transformers` documentation: `lambda batch: tokenizer(batch["text"])`
    fastest  `encode_batch_fast` called directly, ids alone kept: what an expert writes

Every call is a process of its own that is told to start no threads besides; its start is not counted, that of its
two workers is. Rounds alternate; a ratio is the median of the ratios within each round, for seconds of wall-clock time
and for seconds of CPU time of the process and its children.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tst_titan.data import build
from tst_titan.data.documents import document_hash
from tst_titan.data.sources import list_source, read_documents
from tst_titan.data.tokenize import tokenize_group
from tst_titan.data.tokenizers import load_tokenizer, train_bpe, use_threads
from tst_titan.plan.settings import CorpusSettings, SourceSettings, TokenizerSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    # datasets.map's processes must not start threads of their own either.
    use_threads(False)
    if args.measure:
        name, folder, number = args.measure
        measure(name, Path(folder), int(number))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "in", args.megabytes * 2**20)
        train_bpe(folder / "tokenizer", texts_of(folder / "in"), 4096)
        one_core(folder, args.rounds)
        two_cores(folder, args.rounds)


def write_text(folder: Path, num_bytes: int) -> None:
    """Eight JSONL files of documents of at most 20,000 characters, `num_bytes` in all."""
    source = SourceSettings(name="python-stdlib", kind="python-stdlib")
    texts = [
        d.text for group in list_source(source).groups for e in group for d in read_documents(source, e, Counter())
    ]
    parts = [text[start : start + 20_000] for text in texts for start in range(0, len(text), 20_000)]
    folder.mkdir()
    written = number = 0
    files = [(folder / f"{n}.jsonl").open("w") for n in range(8)]
    while written < num_bytes:
        line = json.dumps({"text": f"# {number}\n{parts[number % len(parts)]}"}) + "\n"
        files[number % 8].write(line)
        written += len(line)
        number += 1
    for file in files:
        file.close()


def texts_of(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


def corpus(folder: Path) -> CorpusSettings:
    return CorpusSettings(
        sources=(SourceSettings(name="local", kind="files", path=str(folder / "in")),),
        tokenizer=TokenizerSettings(kind="file", vocab_size=4096, name=str(folder / "tokenizer")),
        validation_tokens=1000,
    )


def one_core(folder: Path, rounds: int) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    (part,) = build.prepare(corpus(folder), folder / "listed", num_workers=1)
    below = part.jobs[0].held_out.below
    texts = [text for text in texts_of(folder / "in") if document_hash(text) >= below]
    num_bytes = sum(len(text.encode()) for text in texts)
    ours, theirs = [], []
    for number in range(rounds):
        (part,) = build.prepare(corpus(folder), folder / f"one{number}", num_workers=1)
        start = time.process_time()
        for job in part.jobs:
            tokenize_group(job)
        ours.append(time.process_time() - start)
        start = time.process_time()
        # Batches of a million characters: larger ones were slower.
        for first in range(0, len(texts), 50):
            tokenizer.tokenizer.encode_batch_fast(texts[first : first + 50], add_special_tokens=False)
        theirs.append(time.process_time() - start)
    print(f"one core, {num_bytes / 1e6:.1f} MB: to shards {num_bytes / min(ours) / 1e6:.2f} MB/s, ", end="")
    print(f"encode_batch_fast alone {num_bytes / min(theirs) / 1e6:.2f} MB/s: ratio {min(theirs) / min(ours):.2f}")


def two_cores(folder: Path, rounds: int) -> None:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("ours", "usual", "fastest")}
    for number in range(rounds):
        for name, measured in seconds.items():
            done = subprocess.run(
                [sys.executable, __file__, "--measure", name, str(folder), str(number)],
                check=True,
                stdout=subprocess.PIPE,
            )
            measured.append(tuple(json.loads(done.stdout)))
        shutil.rmtree(folder / "two", ignore_errors=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)
    ours = seconds.pop("ours")
    print(f"two cores, JSONL to ids on disk: build_corpus {statistics.median(wall for wall, _ in ours):.1f} s")
    for name, theirs in seconds.items():
        wall, cpu = (
            statistics.median(their[i] / our[i] for our, their in zip(ours, theirs, strict=True)) for i in (0, 1)
        )
        print(
            f"    datasets.map, {name} call: {statistics.median(wall for wall, _ in theirs):.1f} s: "
            f"ratio {wall:.2f} by wall clock, {cpu:.2f} by CPU time"
        )


def measure(name: str, folder: Path, number: int) -> None:
    """Print the seconds of one contestant on two cores: wall clock, and CPU time with all children."""
    if name == "ours":

        def run() -> None:
            build.build_corpus(corpus(folder), folder / f"two/{number}", num_workers=2)
    else:
        import datasets
        from transformers import AutoTokenizer

        datasets.disable_progress_bars()
        loaded = datasets.load_dataset(
            "json", data_dir=str(folder / "in"), split="train", cache_dir=str(folder / "cache")
        )
        usual, direct = (
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            load_tokenizer(folder / "tokenizer"),
        )

        def encode_usual(batch: dict[str, list[str]]) -> Any:
            return usual(batch["text"])

        def encode_fastest(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
            encodings = direct.tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
            return {"ids": [encoding.ids for encoding in encodings]}

        def run() -> None:
            loaded.map(
                encode_usual if name == "usual" else encode_fastest,
                batched=True,
                remove_columns=["text"],
                num_proc=2,
                load_from_cache_file=False,
            )

    start, cpu = time.perf_counter(), _cpu_seconds()
    run()
    print(json.dumps([time.perf_counter() - start, _cpu_seconds() - cpu]))


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
