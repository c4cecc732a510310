"""The record of a checkpoint that `tst-titan prune` deleted, `pruned.json`: its segment stays finished, its state is
not there.

Its index and seals are kept in `pruned/`: they tell whether a checkpoint that is trained again holds the same bits.

A segment is pruned while it has the record and not the checkpoint: one that somebody puts back is used again.
"""

import shutil
import time
from pathlib import Path

from tst_titan.files import write_json
from tst_titan.results import SegmentFiles, checkpoint_index


def is_pruned(files: SegmentFiles, step: int) -> bool:
    """Whether the last checkpoint of a finished segment, that of `step`, was deleted by `tst-titan prune` and is not
    there again."""
    return files.pruned.is_file() and not checkpoint_index(files.checkpoint(step)).is_file()


def keep_index(checkpoint: Path, files: SegmentFiles) -> None:
    """Copy what a checkpoint says of itself, a few kB, to where it stays when the checkpoint is deleted."""
    files.pruned_index.mkdir()
    for path in (checkpoint_index(checkpoint), *checkpoint.glob("seal-*.json")):
        shutil.copyfile(path, files.pruned_index / path.name)


def write_pruned(files: SegmentFiles, segment: str, step: int, *, digest: str | None, num_bytes: int) -> None:
    """Write the record; nothing but its being there decides anything."""
    record = {
        "segment": segment,
        "step": step,
        "checkpoint_digest": digest,
        "num_bytes": num_bytes,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(files.pruned, record)


def pruned_mend(segment: str) -> str:
    """What a user does who needs the checkpoint."""
    return f"was deleted by `tst-titan prune`; train it again: tst-titan train {segment} --restore"
