"""Tokenize one group of a source's inputs: one job, on any process or node, with files as its only result.

A group leaves in the work folder, in this order: its shards, the token counts by id, its held-out documents' text, and
a record (JSON) without which the group counts as not done. The record carries a key made of everything that the result
depends on: a later build takes over what is still right and tokenizes the rest.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from tst_titan.data.documents import Document, Input, document_hash
from tst_titan.data.held_out import HeldOutRule, wanted_bytes
from tst_titan.data.shards import Columns, ShardHeader, id_dtype, write_shard
from tst_titan.data.sources import read_documents
from tst_titan.data.tokenizers import CorpusTokenizer, load_tokenizer, use_threads
from tst_titan.errors import UserError
from tst_titan.files import digest_json, read_json, whole_file, write_json
from tst_titan.plan.settings import CorpusSettings, SourceSettings

SHARD_TOKENS = 2**27
_BATCH_CHARACTERS = 2**20


@dataclass(frozen=True, kw_only=True)
class GroupJob:
    """All that one group's job needs."""

    settings: CorpusSettings
    source: SourceSettings
    number: int
    inputs: tuple[Input, ...]
    folder: Path
    tokenizer_folder: Path
    tokenizer_digest: str
    held_out: HeldOutRule
    keeps_held_out: bool

    @property
    def key(self) -> str:
        return digest_json(
            {
                "source": asdict(self.source),
                "inputs": [asdict(entry) for entry in self.inputs],
                "tokenizer": self.tokenizer_digest,
                "held_out": [self.held_out.below, self.keeps_held_out],
                "limits": [self.settings.max_document_tokens, self.settings.max_tokens],
                "corpus": self.settings.id,
            },
            length=32,
        )

    def file(self, suffix: str) -> Path:
        return self.folder / self.source.name / f"{self.number:05d}{suffix}"


@dataclass(frozen=True)
class GroupResult:
    """What a group's record says; `error` (nothing else then) where an input could not be read."""

    number: int
    num_tokens: int
    held_out_bytes: int = 0
    shards: tuple[str, ...] = ()
    tally: tuple[tuple[str, int], ...] = ()
    error: str = ""


def finished(job: GroupJob) -> GroupResult | None:
    """The result of an earlier job with the same key, if there is one."""
    record = job.file(".json")
    if not record.is_file():
        return None
    stored = read_json(record)
    if stored.pop("key") != job.key:
        return None
    return GroupResult(
        number=job.number,
        num_tokens=stored["num_tokens"],
        held_out_bytes=stored["held_out_bytes"],
        shards=tuple(stored["shards"]),
        tally=tuple((name, count) for name, count in stored["tally"]),
    )


def tokenize_group(job: GroupJob) -> GroupResult:
    """Tokenize the group and write its files, or take over what an earlier job left.

    An input that cannot be read is an `error` in the result, so that other groups go on; what cannot be written
    raises `UserError` and stops the build.
    """
    earlier = finished(job)
    if earlier is not None:
        return earlier
    use_threads(False)
    tokenizer = _loaded_once(job.tokenizer_folder, job.tokenizer_digest)
    max_tokens = job.settings.max_tokens
    tally: Counter[str] = Counter()
    held_out_bytes: Counter[str] = Counter()
    try:
        job.file("").parent.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(job.file(".held_out.jsonl")) as held_out,
            held_out.open("w", encoding="utf-8") as held_out_file,
        ):
            writer = _ShardWriter(job, tokenizer)
            try:
                for batch in _batches(_training_documents(job, tally, held_out_file, held_out_bytes)):
                    if not max_tokens or writer.num_tokens < max_tokens:
                        writer.add(batch)
                    elif not job.keeps_held_out or held_out_bytes.total() >= wanted_bytes(job.settings):
                        break
            except _Unreadable as error:
                return GroupResult(number=job.number, num_tokens=0, error=str(error))
            writer.finish()
        with whole_file(job.file(".counts.npy")) as partial, partial.open("wb") as file:
            np.save(file, writer.counts, allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=job.folder) from error
    result = GroupResult(
        number=job.number,
        num_tokens=writer.num_tokens,
        held_out_bytes=held_out_bytes.total(),
        shards=tuple(writer.shards),
        tally=tuple(sorted(tally.items())),
    )
    record: dict[str, Any] = asdict(result) | {"key": job.key, "inputs": [entry.name for entry in job.inputs]}
    write_json(job.file(".json"), record)
    return result


@lru_cache(maxsize=1)
def _loaded_once(folder: Path, digest: str) -> CorpusTokenizer:
    """A worker's tokenizer: loading one of 128,000 ids takes as long as tokenizing a megabyte."""
    tokenizer = load_tokenizer(folder)
    if tokenizer.digest != digest:
        raise UserError("the tokenizer was changed while the corpus was built; run again", where=folder)
    return tokenizer


def pieces(ids: np.ndarray, eos_id: int, longest: int) -> list[np.ndarray]:
    """A document's ids, each piece followed by the end of text and, with it, at most `longest` ids (0: one piece)."""
    step = longest - 1 if longest else max(1, len(ids))
    return [np.append(ids[start : start + step], eos_id) for start in range(0, len(ids), step)]


class _Unreadable(Exception):
    """An input that cannot be read, told apart from what cannot be written."""


def _training_documents(
    job: GroupJob, tally: Counter[str], held_out_file: IO[str], held_out_bytes: Counter[str]
) -> Iterator[tuple[int, Document]]:
    """(hash, document) of each document to train on; held-out ones go to their file, repeated ones nowhere."""
    seen: set[int] = set()
    held_out = False
    for document in _readable(job, tally):
        identity = document_hash(document.text)
        # A piece stays on the side of the document that it was cut from.
        held_out = held_out if document.continues else identity < job.held_out.below
        if identity in seen:
            tally["exact duplicates dropped"] += 1
        elif not held_out:
            yield identity, document
        elif job.keeps_held_out:
            line = {"hash": identity, "id": f"{job.source.name}/{document.id}", "text": document.text}
            held_out_file.write(json.dumps(line, ensure_ascii=False) + "\n")
            held_out_bytes[job.source.name] += len(document.text.encode())
        seen.add(identity)


def _readable(job: GroupJob, tally: Counter[str]) -> Iterator[Document]:
    try:
        for entry in job.inputs:
            yield from read_documents(job.source, entry, tally)
    except UserError as error:
        raise _Unreadable(str(error)) from error


def _batches(documents: Iterator[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    """Batches of about a million characters: enough to spread over a tokenizer's threads, little to hold."""
    batch: list[tuple[int, Document]] = []
    size = 0
    for identity, document in documents:
        batch.append((identity, document))
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _ShardWriter:
    """Spools ids to an unnamed file and turns it into a shard each `SHARD_TOKENS`: memory does not grow with a
    shard."""

    def __init__(self, job: GroupJob, tokenizer: CorpusTokenizer) -> None:
        self._job = job
        self._tokenizer = tokenizer
        self._dtype = id_dtype(job.settings.tokenizer.vocab_size)
        self.counts = np.zeros(tokenizer.num_ids, dtype=np.int64)
        self.shards: list[str] = []
        self.num_tokens = 0
        self._start_spool()

    def _start_spool(self) -> None:
        self._spool = TemporaryFile(dir=self._job.folder)  # noqa: SIM115 (lives as long as the writer)
        self._spooled = 0
        self._lengths: list[int] = []
        self._hashes: list[int] = []
        self._bytes: list[int] = []

    def add(self, batch: list[tuple[int, Document]]) -> None:
        texts = [document.text for _, document in batch]
        longest = self._job.settings.max_document_tokens
        added: list[np.ndarray] = []
        for (identity, _), text, ids in zip(batch, texts, self._tokenizer.encode(texts), strict=True):
            cut = pieces(ids, self._tokenizer.eos_id, longest)
            # The text's bytes, shared out over its pieces by their length, rounded so that the sum is kept.
            ends = np.cumsum([len(piece) for piece in cut])
            num_bytes = len(text.encode())
            shares = np.diff(ends * num_bytes // ends[-1], prepend=0).tolist() if cut else []
            for piece, share in zip(cut, shares, strict=True):
                added.append(piece)
                self._lengths.append(len(piece))
                self._hashes.append(identity)
                self._bytes.append(share)
        if not added:
            return
        flat = np.concatenate(added)
        self.counts += np.bincount(flat, minlength=len(self.counts))
        self.num_tokens += len(flat)
        self._spool.write(flat.astype(self._dtype).data)
        self._spooled += len(flat)
        if self._spooled >= SHARD_TOKENS:
            self._write()
            self._start_spool()

    def finish(self) -> None:
        if self._lengths:
            self._write()

    def _write(self) -> None:
        self._spool.flush()
        columns = Columns(
            np.memmap(self._spool, dtype=self._dtype, mode="r"),
            np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64),
            np.array(self._hashes, dtype=np.uint64),
            np.array(self._bytes, dtype=np.int64),
        )
        name = f"{self._job.number:05d}-{len(self.shards):03d}.arrow"
        write_training_shard(self._job.file("").with_name(name), columns, self._job)
        self._spool.close()
        self.shards.append(name)


def write_training_shard(path: Path, columns: Columns, job: GroupJob) -> ShardHeader:
    """Write one shard of a source's training split."""
    return write_shard(
        path,
        columns,
        corpus_id=job.settings.id,
        source=job.source.name,
        split="train",
        tokenizer_digest=job.tokenizer_digest,
        vocab_size=job.settings.tokenizer.vocab_size,
    )
