"""What a shard or a corpus holds, in words, and how fast it is read."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tst_titan.data.manifest import Corpus, open_corpus
from tst_titan.data.shards import Shard, open_shard
from tst_titan.data.stream import TokenStream
from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.errors import UserError
from tst_titan.metrics_rows import last_training_rows
from tst_titan.results import CorpusFiles, SegmentFiles

_SAMPLE_TOKENS = 64


def describe_shard(path: Path, *, num_samples: int) -> str:
    """Header, document statistics and the beginnings of some documents spread over the shard."""
    shard = open_shard(path)
    lines = [str(path), *(f"  {key}: {value}" for key, value in asdict(shard.header).items())]
    lengths = np.diff(shard.document_offsets)
    if len(lengths):
        quartiles = ", ".join(f"{value:,.0f}" for value in np.percentile(lengths, [0, 25, 50, 75, 100]))
        lines.append(f"  dtype: {shard.ids.dtype}")
        lines.append(f"  tokens a document (minimum, quartiles, maximum): {quartiles}")
        lines.append(f"  bytes a token: {shard.header.num_bytes / shard.header.num_tokens:.3f}")
    folder = next((each for parent in path.resolve().parents if (each := CorpusFiles(parent).tokenizer).is_dir()), None)
    return "\n".join([*lines, *_samples(shard, folder, num_samples)])


def describe_corpus(folder: Path, *, num_samples: int) -> str:
    """The manifest's numbers, its notes and some held-out documents."""
    corpus = open_corpus(folder)
    manifest = corpus.manifest
    lines = [f"{folder}: corpus {corpus.id}"]
    lines.append(
        f"  tokenizer: {manifest['tokenizer']['num_ids']:,} ids, digest {manifest['tokenizer']['digest'][:16]}"
    )
    for split in [*manifest["sources"], manifest["validation"]]:
        weight = f", weight {split['weight']:g}" if "weight" in split else ""
        weight += "" if split.get("complete", True) else ", as far as it was needed"
        lines.append(
            f"  {split['name']}: {split['num_tokens']:,} tokens, {split['num_documents']:,} documents, "
            f"{split['num_bytes']:,} bytes of text, {len(split['shards']):,} shards{weight}"
        )
    lines.append(
        f"  unigram entropy {manifest['unigram_entropy']:.4f} nats a token, {manifest['bytes_per_token']:.3f} bytes a "
        "token"
    )
    lines += [f"  note: {note}" for note in manifest["notes"]]
    return "\n".join([*lines, *_validation_samples(corpus, num_samples)])


@dataclass(frozen=True)
class Reading:
    """Seconds from opening to the first batch; tokens a second of one process after it."""

    first_batch_s: float
    tokens_per_s: float


def measure_reading(
    folder: Path, *, num_lanes: int, tokens_per_lane: int, lookahead: int, block_tokens: int, seconds: float
) -> Reading:
    """Read batches one after the other for about `seconds`; lookahead tokens are read but not counted."""
    start = time.perf_counter()
    stream = TokenStream(folder, seed=0, num_lanes=num_lanes, block_tokens=block_tokens)
    stream.windows(0, tokens_per_lane + lookahead)
    first = time.perf_counter() - start
    batch = num_lanes * tokens_per_lane
    position, start = batch, time.perf_counter()
    while time.perf_counter() - start < seconds:
        stream.windows(position, tokens_per_lane + lookahead)
        position += batch
    return Reading(first, (position - batch) / (time.perf_counter() - start))


def consumed_rate(segment: Path) -> float:
    """Data tokens a second of a segment's last logged training step."""
    path = SegmentFiles(segment).metrics
    if not path.is_file():
        raise UserError("no such file; name the folder of a segment that has been trained", where=path)
    rows = last_training_rows(path, 1)
    if not rows:
        raise UserError("no logged training step yet", where=path)
    return rows[0]["data_tokens_per_s"]


def _validation_samples(corpus: Corpus, num_samples: int) -> list[str]:
    run = corpus.validation_run
    return _samples(run.shard(0), corpus.tokenizer_folder, num_samples) if run.num_shards else []


def _samples(shard: Shard, tokenizer_folder: Path | None, num_samples: int) -> list[str]:
    if tokenizer_folder is None or num_samples < 1 or not shard.header.num_documents:
        return []
    tokenizer = load_tokenizer(tokenizer_folder)
    if tokenizer.digest != shard.header.tokenizer_digest:
        raise UserError(
            f"made with another tokenizer ({shard.header.tokenizer_digest[:16]}) than the one in "
            f"{tokenizer_folder} ({tokenizer.digest[:16]}); give --samples 0 to see the header alone",
            where=shard.path,
        )
    chosen = sorted({int(n) for n in np.linspace(0, shard.header.num_documents - 1, num_samples)})
    lines = []
    for number in chosen:
        start, end = shard.document_offsets[number : number + 2]
        text = tokenizer.tokenizer.decode(
            shard.ids[start : min(end, start + _SAMPLE_TOKENS)].tolist(), skip_special_tokens=False
        )
        lines.append(f"  document {number} ({end - start:,} tokens): {text!r}")
    return lines
