"""The validation split: held-out documents in the order of their hashes, as a shard and as text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tst_titan.bounds import RECORD_BYTES, bounded_lines
from tst_titan.data.held_out import wanted_bytes
from tst_titan.data.shards import Columns, id_dtype, write_shard
from tst_titan.data.split import CHANGED, TokenizedGroup, shard_record, split_record
from tst_titan.data.tokenize import pieces
from tst_titan.data.tokenizers import CorpusTokenizer
from tst_titan.errors import UserError
from tst_titan.files import digest_file, whole_file
from tst_titan.plan.settings import CorpusSettings
from tst_titan.results import CorpusFiles

# A held-out document, and its tokens in pieces.
Pieces = tuple[dict[str, Any], list[np.ndarray]]


def enough_held_out(settings: CorpusSettings, groups: Sequence[TokenizedGroup]) -> list[TokenizedGroup]:
    """A source's first groups that hold out enough for the whole validation split: the same ones when it grows."""
    ends = list(accumulate(group.result.held_out_bytes for group in groups))
    return [*groups[: 1 + sum(end < wanted_bytes(settings) for end in ends)]]


def validation_split(
    settings: CorpusSettings,
    out_dir: Path,
    groups: Sequence[TokenizedGroup],
    tokenizer: CorpusTokenizer,
    mend: str,
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:
    """Held-out documents in the order of their hashes until `validation_tokens` are reached; if they are not, `mend`.

    `earlier`: the split of a corpus that grows, which must stay what it is.
    """
    documents = _documents(groups)
    chosen = _chosen(settings, tokenizer, documents)
    num_tokens = sum(len(piece) for _, cut in chosen for piece in cut)
    if num_tokens < max(1, settings.validation_tokens):
        raise UserError(
            f"corpus {settings.id}: validation_tokens is {settings.validation_tokens:,}, but the {len(documents)} "
            f"held-out documents hold {num_tokens:,} tokens; {groups[0].job.held_out.text}: lower validation_tokens or "
            f"add documents{mend}"
        )
    name = "validation/00000.arrow"
    path = groups[0].job.folder / "validation.arrow" if earlier else out_dir / name
    header = write_shard(
        path,
        _columns(settings, chosen),
        corpus_id=settings.id,
        source="+".join(source.name for source in settings.sources),
        split="validation",
        tokenizer_digest=tokenizer.digest,
        vocab_size=settings.tokenizer.vocab_size,
    )
    if earlier:
        path.unlink()
        if header.checksum != earlier["shards"][0]["checksum"]:
            raise UserError(f"{out_dir / name}: {CHANGED}")
        return earlier
    text_file = CorpusFiles(out_dir).held_out_text
    with whole_file(text_file) as partial, partial.open("w", encoding="utf-8") as file:
        for document, _ in chosen:
            file.write(json.dumps({"id": document["id"], "text": document["text"]}, ensure_ascii=False) + "\n")
    return {
        "name": "validation",
        **split_record([shard_record(name, header)]),
        "text_digest": digest_file(text_file),
    }


def _documents(groups: Iterable[TokenizedGroup]) -> dict[int, dict[str, Any]]:
    """The held-out documents of groups, each once, by their hashes."""
    documents: dict[int, dict[str, Any]] = {}
    for group in groups:
        path = group.job.file(".held_out.jsonl")
        with path.open("rb") as file:
            for _, line in bounded_lines(file, path, RECORD_BYTES):
                document = json.loads(line)
                documents.setdefault(document["hash"], document)
    return documents


def _chosen(
    settings: CorpusSettings, tokenizer: CorpusTokenizer, documents: Mapping[int, dict[str, Any]]
) -> list[Pieces]:
    """The first documents in the order of their hashes that hold `validation_tokens`; all where they do not."""
    chosen: list[Pieces] = []
    num_tokens = 0
    for document in (documents[key] for key in sorted(documents)):
        if num_tokens >= settings.validation_tokens:
            break
        cut = pieces(tokenizer.encode([document["text"]])[0], tokenizer.eos_id, settings.max_document_tokens)
        if cut:
            chosen.append((document, cut))
            num_tokens += sum(map(len, cut))
    return chosen


def _columns(settings: CorpusSettings, chosen: Sequence[Pieces]) -> Columns:
    """A shard's columns; a document's bytes count with its first piece."""
    ids = [piece for _, cut in chosen for piece in cut]
    sizes: list[int] = []
    for document, cut in chosen:
        sizes += [len(document["text"].encode()), *[0] * (len(cut) - 1)]
    return Columns(
        np.concatenate(ids).astype(id_dtype(settings.tokenizer.vocab_size)),
        np.concatenate([[0], np.cumsum([len(piece) for piece in ids])]).astype(np.int64),
        np.array([document["hash"] for document, cut in chosen for _ in cut], dtype=np.uint64),
        np.array(sizes, dtype=np.int64),
    )
