"""Reading speed of the token stream from the page cache, its memory, and torchtitan's own text dataset beside it.

    python benchmarks/loader.py [--tokens 1000000000]

All in one process on one core; where other work shares the core, what counts is the rate by CPU time. torchtitan's
dataset reads a JSONL file on disk of the same text with the same tokenizer, tokenizes as it goes, and delivers sequences
of the same length.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from tst_titan.data.build import build_corpus
from tst_titan.data.inspect import measure_reading
from tst_titan.data.stream import TokenStream
from tst_titan.data.tokenizers import use_threads
from tst_titan.plan.settings import CorpusSettings, SourceSettings, TokenizerSettings

SEQ_LEN = 2048


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=10**9, help="tokens to read while memory is watched")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "corpus"
        settings = CorpusSettings(
            sources=(SourceSettings(name="python-stdlib", kind="python-stdlib"),),
            tokenizer=TokenizerSettings(kind="bpe", vocab_size=4096),
            validation_tokens=100_000,
        )
        build_corpus(settings, folder, num_workers=2)
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
            f"{lanes} sequences of {seq_len} x {bag_size} tokens: {measured.tokens_per_s / 1e6:.0f}M tokens/s by wall clock, "
            f"{measured.tokens_per_s / share / 1e6:.0f}M by CPU time, first batch after {measured.first_batch_s * 1e3:.0f} ms"
        )
    return rates[8, 1, SEQ_LEN]


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
        f"peak memory after {num_tokens // 100:,} tokens {peaks[0]:.1f} MB, after {num_tokens:,} tokens {peaks[1]:.1f} MB"
    )


def torchtitan_speed(folder: Path) -> float:
    """Tokens a second of torchtitan's text dataset over the corpus's held-out text, after a first sequence."""
    from datasets import load_dataset
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.hf_datasets import DatasetConfig, text_datasets

    text_datasets.DATASETS["held_out"] = DatasetConfig(
        path=str(folder / "validation.jsonl"),
        loader=lambda path: load_dataset(
            "json", data_files=path, split="train", cache_dir=str(folder / "cache")
        ),
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
