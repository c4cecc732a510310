"""From tokenized groups to a whole corpus: repeated documents, the validation split, the manifest.

Nothing in the work folder is changed, so that this step can be killed and started again at any point.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from tst_titan.bounds import RECORD_BYTES, bounded_lines
from tst_titan.data.file_kinds import format_of
from tst_titan.data.held_out import ONE_IN, wanted_bytes
from tst_titan.data.inputs import recorded
from tst_titan.data.manifest import read_manifest
from tst_titan.data.pool import SourceJobs, say
from tst_titan.data.shards import (
    Columns,
    Shard,
    ShardHeader,
    id_dtype,
    open_shard,
    select_documents,
    write_shard,
)
from tst_titan.data.tokenize import GroupJob, GroupResult, pieces, write_training_shard
from tst_titan.data.tokenizers import CorpusTokenizer, load_tokenizer, use_threads
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
_CHANGED = (
    "the files that it was made of have changed, so that this corpus cannot grow; bring them back, or delete the corpus "
    "folder and build it again (runs on it then start anew)"
)


@dataclass(frozen=True)
class _Group:
    job: GroupJob
    result: GroupResult
    shards: tuple[Shard, ...]


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
        [_opened(source_jobs.jobs[result.number], result) for result in of_source]
        for source_jobs, of_source in zip(prepared, results, strict=True)
    ]
    if earlier is None:
        for split in ("train", "validation"):
            shutil.rmtree(out_dir / split, ignore_errors=True)

    def held_out_split() -> dict[str, Any]:
        held_out = [group for of_source in groups for group in _enough_held_out(settings, of_source)]
        before = earlier["validation"] if earlier else None
        return _validation_split(settings, out_dir, held_out, tokenizer, _few_documents(prepared), before)

    # Of a corpus that grows before anything is placed: it is where a change of the inputs may show alone.
    validation = held_out_split() if earlier else None
    counts = np.zeros(tokenizer.num_ids, dtype=np.int64)
    rule = prepared[0].jobs[0].held_out.text
    index: list[dict[str, Any]] = []
    sources, notes = [], []
    for number, (source_jobs, of_source) in enumerate(zip(prepared, groups, strict=True)):
        before = earlier["sources"][number]["shards"] if earlier else []
        shards, num_dropped = _training_split(settings, out_dir, of_source, before, counts, index)
        enough = (
            settings.max_tokens and sum(group.result.num_tokens for group in of_source) >= settings.max_tokens
        )
        sources.append(
            {
                "name": source_jobs.source.name,
                "weight": source_jobs.share,
                **_totals(shards),
                "complete": bool(enough) or len(of_source) == len(source_jobs.jobs),
                "origin": recorded(source_jobs.source.kind, source_jobs.listing),
            }
        )
        tally_notes = _tally_notes(source_jobs.source.name, of_source, num_dropped)
        for note in tally_notes:
            say(note)
        notes += [*source_jobs.listing.notes, *tally_notes]
        if not sources[-1]["num_tokens"]:
            raise UserError(
                f"corpus source {source_jobs.source.name}: no document to train on; {rule}{_few_documents(prepared)}"
            )
    validation = validation or held_out_split()
    num_tokens = sum(source["num_tokens"] for source in sources)
    manifest = {
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
        "bytes_per_token": sum(source["num_bytes"] for source in sources) / num_tokens,
        "notes": [*notes, rule],
    }
    manifest["digest"] = _corpus_digest(manifest)
    files = CorpusFiles(out_dir)
    with whole_file(files.shard_index) as partial:
        pq.write_table(_index_table(index), partial)
    write_json(files.manifest, with_seal(manifest))
    return read_manifest(files.manifest)


def _opened(job: GroupJob, result: GroupResult) -> _Group:
    folder = job.file("").parent
    return _Group(job, result, tuple(open_shard(folder / name) for name in result.shards))


def _repeated(groups: Sequence[_Group]) -> list[np.ndarray]:
    """For each group of a source the hashes of its documents that an earlier group holds already."""
    own = [
        np.unique(np.concatenate([shard.document_hashes for shard in group.shards]))
        if group.shards
        else np.empty(0, np.uint64)
        for group in groups
    ]
    hashes = np.concatenate(own)
    # Stable: among equal hashes the earliest group comes first and keeps its document.
    order = np.argsort(hashes, kind="stable")
    again = np.zeros(len(hashes), dtype=bool)
    again[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    ends = np.cumsum([len(one) for one in own])[:-1]
    return [one[mask] for one, mask in zip(own, np.split(again, ends), strict=True)]


def _training_split(
    settings: CorpusSettings,
    out_dir: Path,
    groups: Sequence[_Group],
    earlier: Sequence[dict[str, Any]],
    counts: np.ndarray,
    index: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], int]:
    """Place a source's shards, without repeated documents and what exceeds `max_tokens`; add to `counts`, `index`.

    `earlier`: shards that the corpus has already.
    """
    left = settings.max_tokens or np.iinfo(np.int64).max
    placed: list[dict[str, Any]] = []
    num_dropped = 0
    for group, drop in zip(groups, _repeated(groups), strict=True):
        num_dropped += len(drop)
        with group.job.file(".counts.npy").open("rb") as file:
            counts += np.load(file, allow_pickle=False)
        for shard in group.shards:
            keep = ~np.isin(shard.document_hashes, drop)
            lengths = np.diff(shard.document_offsets)
            keep &= np.cumsum(np.where(keep, lengths, 0)) <= left
            left -= int(lengths[keep].sum())
            if not keep.all():
                counts -= np.bincount(shard.ids[np.repeat(~keep, lengths)], minlength=len(counts))
            if keep.any():
                name = f"train/{group.job.source.name}/{len(placed):05d}.arrow"
                if len(placed) < len(earlier):
                    placed.append(_same(out_dir, earlier[len(placed)], shard, keep))
                else:
                    placed.append(_entry(name, _place(group.job, shard, keep, out_dir / name)))
                index.append(
                    {
                        "source": group.job.source.name,
                        **placed[-1],
                        "inputs": [entry.name for entry in group.job.inputs],
                    }
                )
    return placed, num_dropped


def _same(out_dir: Path, earlier: dict[str, Any], shard: Shard, keep: np.ndarray) -> dict[str, Any]:
    """The shard that the corpus has in this one's place. Raises `UserError` where it was made of something else."""
    kept = int(np.diff(shard.document_offsets)[keep].sum())
    if kept != earlier["num_tokens"] or (keep.all() and shard.header.checksum != earlier["checksum"]):
        raise UserError(f"{out_dir / earlier['file']}: {_CHANGED}")
    return earlier


def _place(job: GroupJob, shard: Shard, keep: np.ndarray, path: Path) -> ShardHeader:
    """The shard at its final place: a second name of the same file where all of it is kept."""
    if not keep.all():
        return write_training_shard(path, select_documents([shard], [keep]), job)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Left there by a growth that was refused or killed.
        path.unlink(missing_ok=True)
        try:
            os.link(shard.path, path)
        except OSError:
            # A file system without hard links.
            with whole_file(path) as partial:
                shutil.copyfile(shard.path, partial)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=path) from error
    return shard.header


def _enough_held_out(settings: CorpusSettings, groups: Sequence[_Group]) -> list[_Group]:
    """A source's first groups that hold out enough for the whole validation split: the same ones when it grows."""
    ends = list(accumulate(group.result.held_out_bytes for group in groups))
    return [*groups[: 1 + sum(end < wanted_bytes(settings) for end in ends)]]


def _few_documents(prepared: Sequence[SourceJobs]) -> str:
    """What to do about sources of few documents, however long: a text file is one of them."""
    few = []
    for source_jobs in prepared:
        names = [entry.name for job in source_jobs.jobs for entry in job.inputs]
        if (
            source_jobs.source.kind == "files"
            and len(names) < 2 * ONE_IN
            and all(map(_is_one_document, names))
        ):
            files = "1 text file" if len(names) == 1 else f"{len(names)} text files"
            few.append(f"{source_jobs.source.name} ({files})")
    if not few:
        return ""
    return (
        f"; a text file is one document, however long: write the texts of {', '.join(few)} as JSONL, a document a line, "
        "or as many files"
    )


def _is_one_document(name: str) -> bool:
    return format_of(Path(name)) in ("text", "")


def _validation_split(
    settings: CorpusSettings,
    out_dir: Path,
    groups: Sequence[_Group],
    tokenizer: CorpusTokenizer,
    mend: str,
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:
    """Held-out documents in the order of their hashes until `validation_tokens` are reached; if they are not, `mend`.

    `earlier`: the split of a corpus that grows, which must stay what it is.
    """
    documents: dict[int, dict[str, Any]] = {}
    for group in groups:
        path = group.job.file(".held_out.jsonl")
        with path.open("rb") as file:
            for _, line in bounded_lines(file, path, RECORD_BYTES):
                document = json.loads(line)
                documents.setdefault(document["hash"], document)
    ids: list[np.ndarray] = []
    hashes: list[int] = []
    sizes: list[int] = []
    chosen: list[dict[str, Any]] = []
    num_tokens = 0
    for document in (documents[key] for key in sorted(documents)):
        if num_tokens >= settings.validation_tokens:
            break
        cut = pieces(tokenizer.encode([document["text"]])[0], tokenizer.eos_id, settings.max_document_tokens)
        if not cut:
            continue
        chosen.append(document)
        ids += cut
        hashes += [document["hash"]] * len(cut)
        sizes += [len(document["text"].encode()), *[0] * (len(cut) - 1)]
        num_tokens += sum(map(len, cut))
    if num_tokens < max(1, settings.validation_tokens):
        raise UserError(
            f"corpus {settings.id}: validation_tokens is {settings.validation_tokens:,}, but the {len(documents)} held-out "
            f"documents hold {num_tokens:,} tokens; {groups[0].job.held_out.text}: lower validation_tokens or add documents{mend}"
        )
    columns = Columns(
        np.concatenate(ids).astype(id_dtype(settings.tokenizer.vocab_size)),
        np.concatenate([[0], np.cumsum([len(piece) for piece in ids])]).astype(np.int64),
        np.array(hashes, dtype=np.uint64),
        np.array(sizes, dtype=np.int64),
    )
    name = "validation/00000.arrow"
    path = groups[0].job.folder / "validation.arrow" if earlier else out_dir / name
    header = write_shard(
        path,
        columns,
        corpus_id=settings.id,
        source="+".join(source.name for source in settings.sources),
        split="validation",
        tokenizer_digest=tokenizer.digest,
        vocab_size=settings.tokenizer.vocab_size,
    )
    if earlier:
        path.unlink()
        if header.checksum != earlier["shards"][0]["checksum"]:
            raise UserError(f"{out_dir / name}: {_CHANGED}")
        return earlier
    text_file = CorpusFiles(out_dir).held_out_text
    with whole_file(text_file) as partial, partial.open("w", encoding="utf-8") as file:
        for document in chosen:
            file.write(
                json.dumps({"id": document["id"], "text": document["text"]}, ensure_ascii=False) + "\n"
            )
    return {"name": "validation", **_totals([_entry(name, header)]), "text_digest": digest_file(text_file)}


def _entry(name: str, header: ShardHeader) -> dict[str, Any]:
    return {
        "file": name,
        "num_tokens": header.num_tokens,
        "num_documents": header.num_documents,
        "num_bytes": header.num_bytes,
        "checksum": header.checksum,
    }


def _index_table(index: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as a table, by way of JSON: `Table.from_pylist` would first import pandas, longer than all else here."""
    lines = "\n".join(map(json.dumps, index)).encode()
    # One block: a line (a group of many files) may be longer than the reader's usual one.
    return pyarrow.json.read_json(
        pa.BufferReader(lines),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=_INDEX),
    )


def _totals(shards: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {key: sum(shard[key] for shard in shards) for key in ("num_tokens", "num_documents", "num_bytes")}
    return {**sums, "shards": shards}


def _tally_notes(name: str, groups: Sequence[_Group], num_dropped: int) -> list[str]:
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
    digests += [
        s["checksum"] for source in [*manifest["sources"], manifest["validation"]] for s in source["shards"]
    ]
    return sha256("\n".join(digests).encode()).hexdigest()
