"""Corpora for tests: small real ones, and ones whose every token says where it stands."""

import json
from pathlib import Path

import numpy as np

from tst_titan.data.shards import Columns, write_shard
from tst_titan.data.tokenizers import load_tokenizer, train_bpe
from tst_titan.plan.settings import CorpusSettings, SourceSettings, TokenizerSettings


def numbered_corpus(
    folder: Path,
    tokens: dict[str, int],
    weights: dict[str, float] | None = None,
    shard_tokens: int = 1000,
    held_out_tokens: int = 997,
) -> Path:
    """A corpus in which token n of a source is n, plus 10^8 for each source before it."""
    train_bpe(folder / "tokenizer", ["text"], 257)
    tokenizer = load_tokenizer(folder / "tokenizer")
    about = {"corpus_id": "numbered", "tokenizer_digest": tokenizer.digest, "vocab_size": 2**32}

    def shard(file: str, ids: np.ndarray, source: str, split: str) -> dict:
        columns = Columns(ids, np.array([0, len(ids)]), np.zeros(1, np.uint64), np.array([len(ids)]))
        header = write_shard(folder / file, columns, source=source, split=split, **about)
        return {"file": file, "num_tokens": len(ids), "checksum": header.checksum}

    sources = []
    for index, (name, count) in enumerate(tokens.items()):
        ids = (np.arange(count) + index * 10**8).astype(np.uint32)
        shards = [
            shard(f"train/{name}/{number:05d}.arrow", ids[start : start + shard_tokens], name, "train")
            for number, start in enumerate(range(0, count, shard_tokens))
        ]
        sources.append({"name": name, "weight": (weights or {}).get(name, 1.0), "num_tokens": count, "shards": shards})
    held_out = shard("validation/00000.arrow", np.arange(held_out_tokens, dtype=np.uint32), "validation", "validation")
    manifest = {
        "corpus_id": "numbered",
        "tokenizer": {"digest": tokenizer.digest, "eos_id": tokenizer.eos_id, "vocab_size": 2**32},
        "sources": sources,
        "validation": {"name": "validation", "num_tokens": held_out_tokens, "shards": [held_out]},
    }
    (folder / "corpus.json").write_text(json.dumps(manifest))
    return folder


def texts(count: int, seed: int = 0, words: int = 60) -> list[str]:
    """Distinct small documents of made-up words."""
    rng = np.random.default_rng(seed)
    vocabulary = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(2, 7))) for _ in range(200)]
    return [f"document {seed}-{number}: " + " ".join(rng.choice(vocabulary, size=words)) for number in range(count)]


def jsonl(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def settings(path: Path | str, **changes: object) -> CorpusSettings:
    """A corpus of local files with a small BPE of its own."""
    source = {"name": "local", "kind": "files", "path": str(path)} | changes.pop("source", {})  # type: ignore[operator]
    given = {
        "sources": (SourceSettings(**source),),
        "tokenizer": TokenizerSettings(kind="bpe", vocab_size=300),
        "validation_tokens": 50,
    }
    return CorpusSettings(**(given | changes))
