"""Tokenizing speed against the `tokenizers` library's fastest batch call and against `datasets.map`, in one run.

    python benchmarks/tokenizing.py [--megabytes 16] [--rounds 3]

The text is the standard library's, repeated with changes so that nothing is a duplicate; the tokenizer is a byte-level BPE
of 4096 ids trained on it. One core: `tokenize_group` (reading, hashing, splitting, encoding, writing the shard)
against `encode_batch_fast` on the same documents, already in memory, on one thread, both in CPU time. Two cores: `build_corpus` with
two workers against `datasets.map` with two processes, from the same JSONL files to token ids on disk, in
wall-clock time. Rounds alternate; the ratio is of the best times.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from tst_titan.data import build
from tst_titan.data.corpora import list_source, read_documents
from tst_titan.data.documents import document_hash
from tst_titan.data.groups import tokenize_group
from tst_titan.data.tokenizers import load_tokenizer, train_bpe, use_threads
from tst_titan.plan.settings import CorpusSettings, SourceSettings, TokenizerSettings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    # datasets.map's processes must not start threads of their own either.
    use_threads(False)
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
        d.text
        for group in list_source(source).groups
        for e in group
        for d in read_documents(source, e, Counter())
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
    print(
        f"encode_batch_fast alone {num_bytes / min(theirs) / 1e6:.2f} MB/s: ratio {min(theirs) / min(ours):.2f}"
    )


def two_cores(folder: Path, rounds: int) -> None:
    import datasets

    datasets.disable_progress_bars()
    tokenizer_folder = folder / "tokenizer"
    loaded = datasets.load_dataset(
        "json", data_dir=str(folder / "in"), split="train", cache_dir=str(folder / "cache")
    )
    ours, theirs = [], []
    for number in range(rounds):
        start = time.perf_counter()
        build.build_corpus(corpus(folder), folder / f"two{number}", num_workers=2)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        tokenizer = load_tokenizer(tokenizer_folder).tokenizer
        loaded.map(
            lambda batch, tokenizer=tokenizer: {
                "ids": [
                    encoding.ids
                    for encoding in tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
                ]
            },
            batched=True,
            remove_columns=["text"],
            num_proc=2,
            load_from_cache_file=False,
        )
        theirs.append(time.perf_counter() - start)
    print(
        f"two cores, JSONL to ids on disk: build_corpus {min(ours):.1f} s, datasets.map {min(theirs):.1f} s: ",
        end="",
    )
    print(f"ratio {min(theirs) / min(ours):.2f}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
