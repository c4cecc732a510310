"""Train a segment whose checkpoint was pruned again, beside its record, and put the checkpoint back.

Until the new checkpoint is whole the segment stays as it is: finished, its numbers shown. Where training gives the same
bits (the same hardware, versions and layout), the record stays for good; else the new training takes its place.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from tst_titan.cluster.lock import HeldByJob, beating, segment_lock
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_json
from tst_titan.pruned import is_pruned
from tst_titan.results import INDEX, SegmentFiles
from tst_titan.train.job import Job
from tst_titan.train.launch import go_behind, run_segment
from tst_titan.train.seals import read_seals


def restore_segment(job: Job) -> int:
    """Bring back the last checkpoint of `job.segment` unless it is there; returns and raises as `run_segment` does."""
    end_step = job.segment.end_step
    if not job.files.done.exists():
        raise UserError(f"not finished: leave out --restore: tst-titan train {job.segment.id}", where=job.folder)
    if not is_pruned(job.files, end_step):
        return 0
    try:
        # Its own lock lies in the folder beside, which is deleted with it.
        with segment_lock(job.folder) as lock, beating(lock):
            if is_pruned(job.files, end_step):
                if status := run_segment(replace(job, folder=job.files.restoring)):
                    return status
                _put_back(job)
    except HeldByJob as held:
        return go_behind(job, held)
    return 0


def _put_back(job: Job) -> None:
    """Move the new checkpoint into its place. The segment is pruned until the very last, so that one who is killed here
    does it again."""
    files, new = job.files, SegmentFiles(job.files.restoring)
    id, end_step = job.segment.id, job.segment.end_step
    checkpoint = new.checkpoint(end_step)
    if _same_bits(files.pruned_index, checkpoint):
        print(f"{id}: trained again to the same bits; its record stays", file=sys.stderr)
        # DCP numbers each save anew in the index: with the one of before it is the same checkpoint to the byte.
        for path in files.pruned_index.iterdir():
            shutil.copyfile(path, checkpoint / path.name)
    else:
        print(
            f"{id}: trained again, not to the same bits (other hardware, layout or versions): its numbers are now "
            "those of this training; scores of the one before are left out of tables until it is evaluated again",
            file=sys.stderr,
        )
        done = read_json(new.done)
        for path in new.folder.iterdir():
            if path.is_file() and path.name not in (new.done.name, new.job.name, "lock"):
                path.replace(files.folder / path.name)
        write_json(files.done, done)
    files.checkpoints.mkdir(exist_ok=True)
    checkpoint.rename(files.checkpoint(end_step))
    files.pruned.unlink()
    for folder in (new.folder, files.pruned_index):
        shutil.rmtree(folder, ignore_errors=True)


def _same_bits(kept: Path, checkpoint: Path) -> bool:
    """Whether all files of a checkpoint but its index are those that the seals in the folder `kept` are of."""
    before, now = read_seals(kept), read_seals(checkpoint)
    if before is None or now is None:
        return False
    return {name: seal for name, seal in before.files.items() if name != INDEX} == {
        name: seal for name, seal in now.files.items() if name != INDEX
    }
