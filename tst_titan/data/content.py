"""What a run read of a corpus, recorded when it starts, and whether a corpus still holds that.

A corpus may grow under a study: shards are appended to a source, everything that was there stays. So the record of a
run is that of a beginning of each source; tokenizer, held-out split and shares stay whole (docs/data.md).
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

Content = dict[str, Any]
"""`tokenizer` and `validation` (digests), `sources`: name, weight, number of shards and the digest of these."""


def content(manifest: Mapping[str, Any]) -> Content:
    """The record of a corpus as it is now, from its corpus.json."""
    return {
        "tokenizer": manifest["tokenizer"]["digest"],
        "validation": _digest(manifest["validation"]["shards"]),
        "sources": [
            {
                "name": source["name"],
                "weight": source["weight"],
                "shards": len(source["shards"]),
                "digest": _digest(source["shards"]),
            }
            for source in manifest["sources"]
        ],
    }


def changes(before: Content, manifest: Mapping[str, Any]) -> list[str]:
    """In words what of `before` the corpus no longer holds; [] where it is the same, or has grown since."""
    changed = []
    if before["tokenizer"] != manifest["tokenizer"]["digest"]:
        changed.append("another tokenizer")
    if before["validation"] != _digest(manifest["validation"]["shards"]):
        changed.append("another held-out split")
    shares = [
        [(source["name"], source["weight"]) for source in sources]
        for sources in (before["sources"], manifest["sources"])
    ]
    if shares[0] != shares[1]:
        return [*changed, "other sources or shares"]
    for was, source in zip(before["sources"], manifest["sources"], strict=True):
        shards = source["shards"]
        if len(shards) < was["shards"]:
            changed.append(f"{len(shards)} shards of source {source['name']}, {was['shards']} then")
        elif _digest(shards[: was["shards"]]) != was["digest"]:
            changed.append(f"other text of source {source['name']}")
    return changed


def agree(one: Content, other: Content) -> bool:
    """Whether two records can be of one corpus, which may have grown between them."""
    if any(one[key] != other[key] for key in ("tokenizer", "validation")):
        return False
    pairs = list(zip(one["sources"], other["sources"], strict=False))
    same = len(one["sources"]) == len(other["sources"])
    return same and all(
        (a["name"], a["weight"]) == (b["name"], b["weight"])
        and (a["shards"] != b["shards"] or a["digest"] == b["digest"])
        for a, b in pairs
    )


def _digest(shards: Sequence[Mapping[str, Any]]) -> str:
    return sha256("\n".join(shard["checksum"] for shard in shards).encode()).hexdigest()
