"""What the splits of a corpus are put together from, and what the manifest records of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tst_titan.data.shards import Shard, ShardHeader, open_shard
from tst_titan.data.tokenize import GroupJob, GroupResult

# Of a shard that a corpus has, where the one in its place is another now.
CHANGED = (
    "the files that it was made of have changed, so that this corpus cannot grow; bring them back, or delete the "
    "corpus folder and build it again (runs on it then start anew)"
)


@dataclass(frozen=True)
class TokenizedGroup:
    """A group of a source's files as tokenizing left it in the work folder."""

    job: GroupJob
    result: GroupResult
    shards: tuple[Shard, ...]


def open_group(job: GroupJob, result: GroupResult) -> TokenizedGroup:
    """A group with its shards."""
    folder = job.file("").parent
    return TokenizedGroup(job, result, tuple(open_shard(folder / name) for name in result.shards))


def shard_record(name: str, header: ShardHeader) -> dict[str, Any]:
    """What the manifest says of a shard; `name`: its file, from the corpus folder on."""
    return {
        "file": name,
        "num_tokens": header.num_tokens,
        "num_documents": header.num_documents,
        "num_bytes": header.num_bytes,
        "checksum": header.checksum,
    }


def split_record(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A split or a source: its shards, and the sums over them."""
    sums = {key: sum(shard[key] for shard in shards) for key in ("num_tokens", "num_documents", "num_bytes")}
    return {**sums, "shards": shards}
