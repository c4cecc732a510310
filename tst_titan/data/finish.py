"""From tokenized groups to a whole corpus: the splits (see `training_split`, `validation_split`) and the manifest.

Nothing in the work folder is changed, so that this step can be killed and started again at any point.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from tst_titan.data.file_kinds import format_of
from tst_titan.data.held_out import ONE_IN
from tst_titan.data.inputs import recorded
from tst_titan.data.manifest import read_manifest
from tst_titan.data.pool import SourceJobs, say
from tst_titan.data.split import TokenizedGroup, open_group, split_record
from tst_titan.data.tokenize import GroupResult
from tst_titan.data.tokenizers import CorpusTokenizer, load_tokenizer, use_threads
from tst_titan.data.training_split import training_split
from tst_titan.data.validation_split import enough_held_out, validation_split
from tst_titan.errors import UserError
from tst_titan.files import digest_file, whole_file, write_json
from tst_titan.plan.settings import CorpusSettings
from tst_titan.results import CorpusFiles
from tst_titan.seal import with_seal

# The columns of shards.parquet, one row a shard.
_INDEX = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("num_tokens", pa.int64()),
        ("num_documents", pa.int64()),
        ("num_bytes", pa.int64()),
        ("checksum", pa.string()),
        ("inputs", pa.list_(pa.string())),
    ]
)


def finish(
    settings: CorpusSettings,
    out_dir: Path,
    prepared: Sequence[SourceJobs],
    results: Sequence[Sequence[GroupResult]],
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put the corpus together and write corpus.json last. Returns the manifest.

    `earlier` is the manifest of a corpus that grows: its shards stay as they are, what is new comes after them.
    """
    use_threads(True)
    tokenizer_folder = prepared[0].jobs[0].tokenizer_folder
    tokenizer = load_tokenizer(tokenizer_folder)
    groups = [
        [open_group(source_jobs.jobs[result.number], result) for result in of_source]
        for source_jobs, of_source in zip(prepared, results, strict=True)
    ]
    if earlier is None:
        for split in ("train", "validation"):
            shutil.rmtree(out_dir / split, ignore_errors=True)

    def held_out_split() -> dict[str, Any]:
        held_out = [group for of_source in groups for group in enough_held_out(settings, of_source)]
        before = earlier["validation"] if earlier else None
        return validation_split(settings, out_dir, held_out, tokenizer, _few_documents(prepared), before)

    # Of a corpus that grows before anything is placed: it is where a change of the inputs may show alone.
    validation = held_out_split() if earlier else None
    counts = np.zeros(tokenizer.num_ids, dtype=np.int64)
    rule = prepared[0].jobs[0].held_out.text
    index: list[dict[str, Any]] = []
    sources, notes = [], []
    for number, (source_jobs, of_source) in enumerate(zip(prepared, groups, strict=True)):
        before = earlier["sources"][number]["shards"] if earlier else []
        shards, num_dropped = training_split(settings, out_dir, of_source, before, counts, index)
        source = _source(settings, source_jobs, of_source, shards)
        tally_notes = _tally_notes(source["name"], of_source, num_dropped)
        for note in tally_notes:
            say(note)
        notes += [*source_jobs.listing.notes, *tally_notes]
        if not source["num_tokens"]:
            raise UserError(
                f"corpus source {source['name']}: no document to train on; {rule}{_few_documents(prepared)}"
            )
        sources.append(source)
    validation = validation or held_out_split()
    manifest = _manifest(settings, tokenizer_folder, tokenizer, sources, validation, counts)
    manifest |= {"notes": [*notes, rule], "digest": _corpus_digest(manifest)}
    files = CorpusFiles(out_dir)
    with whole_file(files.shard_index) as partial:
        pq.write_table(_index_table(index), partial)
    write_json(files.manifest, with_seal(manifest))
    return read_manifest(files.manifest)


def _source(
    settings: CorpusSettings,
    source_jobs: SourceJobs,
    groups: Sequence[TokenizedGroup],
    shards: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What the manifest says of a source, with its training shards."""
    enough = settings.max_tokens and sum(group.result.num_tokens for group in groups) >= settings.max_tokens
    return {
        "name": source_jobs.source.name,
        "weight": source_jobs.share,
        **split_record(shards),
        "complete": bool(enough) or len(groups) == len(source_jobs.jobs),
        "origin": recorded(source_jobs.source.kind, source_jobs.listing),
    }


def _manifest(
    settings: CorpusSettings,
    tokenizer_folder: Path,
    tokenizer: CorpusTokenizer,
    sources: Sequence[dict[str, Any]],
    validation: dict[str, Any],
    counts: np.ndarray,
) -> dict[str, Any]:
    """The manifest without notes and digest; `counts`: of each token id in the training split."""
    return {
        "corpus_id": settings.id,
        "settings": asdict(settings),
        "tokenizer": {
            "vocab_size": settings.tokenizer.vocab_size,
            "num_ids": tokenizer.num_ids,
            "digest": tokenizer.digest,
            "config_digest": digest_file(tokenizer_folder / "tokenizer_config.json"),
            "eos_id": tokenizer.eos_id,
        },
        "sources": sources,
        "validation": validation,
        "unigram_entropy": _entropy(counts),
        "bytes_per_token": sum(source["num_bytes"] for source in sources)
        / sum(source["num_tokens"] for source in sources),
    }


def _few_documents(prepared: Sequence[SourceJobs]) -> str:
    """What to do about sources of few documents, however long: a text file is one of them."""
    few = []
    for source_jobs in prepared:
        names = [entry.name for job in source_jobs.jobs for entry in job.inputs]
        if source_jobs.source.kind == "files" and len(names) < 2 * ONE_IN and all(map(_is_one_document, names)):
            files = "1 text file" if len(names) == 1 else f"{len(names)} text files"
            few.append(f"{source_jobs.source.name} ({files})")
    if not few:
        return ""
    return (
        f"; a text file is one document, however long: write the texts of {', '.join(few)} as JSONL, a document a "
        "line, or as many files"
    )


def _is_one_document(name: str) -> bool:
    return format_of(Path(name)) in ("text", "")


def _index_table(index: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as a table, by way of JSON: `Table.from_pylist` would first import pandas, longer than all else here."""
    lines = "\n".join(map(json.dumps, index)).encode()
    # One block: a line (a group of many files) may be longer than the reader's usual one.
    return pyarrow.json.read_json(
        pa.BufferReader(lines),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=_INDEX),
    )


def _tally_notes(name: str, groups: Sequence[TokenizedGroup], num_dropped: int) -> list[str]:
    tally: Counter[str] = Counter()
    for group in groups:
        tally.update(dict(group.result.tally))
    if num_dropped:
        tally["exact duplicates dropped"] += num_dropped
    return [f"{name}: {count} {what}" for what, count in sorted(tally.items())]


def _entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that these counts are of."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _corpus_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over the tokenizer and every shard's checksum: what a run's provenance cites."""
    digests = [manifest["tokenizer"]["digest"]]
    digests += [s["checksum"] for source in [*manifest["sources"], manifest["validation"]] for s in source["shards"]]
    return sha256("\n".join(digests).encode()).hexdigest()
