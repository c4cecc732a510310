"""The training split: each source's shards at their places, without repeated documents and what exceeds its limit."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tst_titan.data.shards import Shard, ShardHeader, select_documents
from tst_titan.data.split import CHANGED, TokenizedGroup, shard_record
from tst_titan.data.tokenize import GroupJob, write_training_shard
from tst_titan.errors import UserError
from tst_titan.files import whole_file
from tst_titan.plan.settings import CorpusSettings


def training_split(
    settings: CorpusSettings,
    out_dir: Path,
    groups: Sequence[TokenizedGroup],
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
                    placed.append(shard_record(name, _place(group.job, shard, keep, out_dir / name)))
                index.append(
                    {
                        "source": group.job.source.name,
                        **placed[-1],
                        "inputs": [entry.name for entry in group.job.inputs],
                    }
                )
    return placed, num_dropped


def _repeated(groups: Sequence[TokenizedGroup]) -> list[np.ndarray]:
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


def _same(out_dir: Path, earlier: dict[str, Any], shard: Shard, keep: np.ndarray) -> dict[str, Any]:
    """The shard that the corpus has in this one's place. Raises `UserError` where it was made of something else."""
    kept = int(np.diff(shard.document_offsets)[keep].sum())
    if kept != earlier["num_tokens"] or (keep.all() and shard.header.checksum != earlier["checksum"]):
        raise UserError(f"{out_dir / earlier['file']}: {CHANGED}")
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
