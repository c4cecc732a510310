"""Checkpoints that no study needs: which they are, why others stay, and their deletion."""

import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tst_titan.cluster.lock import lock_if_free
from tst_titan.collect.evaluations import read_evaluations
from tst_titan.collect.segments import read_done
from tst_titan.errors import UserError
from tst_titan.plan import Plan, Segment
from tst_titan.pruned import is_pruned, keep_index, write_pruned
from tst_titan.results import Results, SegmentFiles, checkpoint_index, checkpoint_steps
from tst_titan.train.record import changed_files
from tst_titan.train.seals import check_recorded, read_seals
from tst_titan.units import short_bytes

# Why a checkpoint stays, with what has it deleted nevertheless.
UNFINISHED = "from which something unfinished starts"
UNSCORED = "not evaluated yet"
DECAY_START = "where a decay starts, from which a larger budget goes on (--decay-starts)"
FINAL = "at the end of a run (--finals)"


@dataclass(frozen=True)
class Checkpoint:
    """The last checkpoint of a finished segment, with what lies beside it: `paths` are deleted.

    `whole`: False where it was pruned before, by a call that was killed while it deleted.
    """

    segment: Segment
    files: SegmentFiles
    paths: tuple[Path, ...]
    num_bytes: int
    whole: bool


@dataclass(frozen=True)
class Found:
    """What is deleted, what stays by reason, and a line for each folder that is left, as nothing explains it."""

    needless: tuple[Checkpoint, ...]
    kept: Mapping[str, tuple[Checkpoint, ...]]
    left: tuple[str, ...]


def find_needless(
    plans: Mapping[str, Plan], names: Collection[str], results: Results, given_up: Collection[str]
) -> Found:
    """The checkpoints of the studies `names` that none of `plans`, all studies of the folder, needs.

    `given_up`: reasons (`DECAY_START`, `FINAL`) that keep none.
    """
    needed = _needed(plans.values(), results, given_up)
    segments = {id: segment for name in sorted(names) for id, segment in plans[name].segments.items()}
    finished = {id for plan in plans.values() for id in plan.finished}
    needless: list[Checkpoint] = []
    kept: dict[str, list[Checkpoint]] = {}
    left = _of_no_study(plans.values(), results)
    for id, segment in segments.items():
        if id not in finished:
            continue
        try:
            checkpoint = _checkpoint(segment, results.segment(id))
        except UserError as error:
            left.append(str(error))
            continue
        if checkpoint is None:
            continue
        if id in needed and checkpoint.whole:
            kept.setdefault(needed[id], []).append(checkpoint)
        else:
            needless.append(checkpoint)
    return Found(tuple(needless), {why: tuple(of_it) for why, of_it in kept.items()}, tuple(left))


def _needed(plans: Collection[Plan], results: Results, given_up: Collection[str]) -> dict[str, str]:
    """Why states are needed, by the id of the segment that ends with them: of several reasons the first of these."""
    segments = {id: segment for plan in plans for id, segment in plan.segments.items()}
    states = {
        UNFINISHED: (segment.parent for plan in plans for segment in plan.new_segments if segment.parent),
        UNSCORED: (
            id for plan in plans for id in plan.evaluations if not _is_scored(segments[id], plan.task_groups, results)
        ),
        FINAL: (run.final for plan in plans for run in plan.runs),
        DECAY_START: (
            Segment(recipe=segment.recipe, stages=segment.stages[:-1]).id
            for segment in segments.values()
            if segment.stage.name == "decay" and segment.stages[:-1]
        ),
    }
    needed: dict[str, str] = {}
    for why, ids in states.items():
        if why not in given_up:
            needed |= {id: why for id in ids if id not in needed}
    return needed


def _is_scored(segment: Segment, groups: Collection[str], results: Results) -> bool:
    """Whether tables show scores of a segment's end on all `groups`: those that are there, undamaged, of this
    checkpoint."""
    done, _ = read_done(segment, results.segment(segment.id).folder)
    if done is None:
        return False
    rows, notices = read_evaluations(
        results.evaluations(segment.id), segment.id, done["checkpoint"], done.get("checkpoint_digest")
    )
    return not notices and {row["group"] for row in rows} >= set(groups)


def _of_no_study(plans: Iterable[Plan], results: Results) -> list[str]:
    """A line for each segment with a checkpoint that no study has."""
    known = {id for plan in plans for id in plan.segments}
    lines = []
    for folder in sorted(results.segments.glob("*/*/")):
        id = "/".join(folder.parts[-2:])
        if id not in known and checkpoint_steps(SegmentFiles(folder).checkpoints):
            lines.append(f"{folder}: no study has this segment: delete the folder if nobody wants it")
    return lines


def _checkpoint(segment: Segment, files: SegmentFiles) -> Checkpoint | None:
    """What of a finished segment could be deleted; None where nothing is there. `UserError` where its folder is not as
    it was left."""
    for folder in (files.folder.parent, files.folder, files.checkpoints):
        if folder.is_symlink():
            raise UserError("is a symbolic link", where=folder)
    paths = tuple(sorted(files.checkpoints.iterdir())) if files.checkpoints.is_dir() else ()
    if not paths:
        return None
    end = segment.end_step
    own = {files.checkpoint(step) for step in checkpoint_steps(files.checkpoints) if step <= end}
    own.add(files.pruned_aside(end))
    for path in paths:
        if path not in own or path.is_symlink() or not path.is_dir():
            raise UserError("no checkpoint of this segment", where=path)
    whole = not is_pruned(files, end)
    if whole:
        done, notices = read_done(segment, files.folder)
        if done is None:
            raise UserError("; ".join(map(str, notices)) or "not finished", where=files.folder)
        if changed := changed_files(done, files.folder):
            raise UserError("not as it was when the segment was finished", where=files.folder / changed[0])
        if not checkpoint_index(files.checkpoint(end)).is_file():
            raise UserError("not whole", where=files.checkpoint(end))
        seals = read_seals(files.checkpoint(end))
        if seals is not None:
            seals.check_owner(segment.id, end)
        check_recorded(files.checkpoint(end), seals)
    return Checkpoint(segment, files, paths, sum(map(_size, paths)), whole)


def delete(checkpoints: Collection[Checkpoint]) -> None:
    """Delete them; `UserError`, before the first, where a job is at work in a folder of theirs."""
    for checkpoint in checkpoints:
        with lock_if_free(checkpoint.files.folder):
            pass
    freed = 0
    for checkpoint in checkpoints:
        print(f"deleting {in_words(checkpoint)}", flush=True)
        try:
            with lock_if_free(checkpoint.files.folder):
                _delete(checkpoint)
        except OSError as error:
            raise UserError(f"cannot be deleted: {error.strerror}", where=error.filename) from error
        freed += checkpoint.num_bytes
    print(f"{len(checkpoints)} checkpoints deleted, {short_bytes(freed)} freed")


def _delete(checkpoint: Checkpoint) -> None:
    """Record, then rename, then delete: who is killed at any moment leaves the checkpoint whole, or the segment
    pruned."""
    segment, files = checkpoint.segment, checkpoint.files
    last, aside = files.checkpoint(segment.end_step), files.pruned_aside(segment.end_step)
    if checkpoint.whole:
        seals = read_seals(last)
        # Of an earlier pruning.
        files.restored.unlink(missing_ok=True)
        for stale in (files.restoring, files.pruned_index, aside):
            if stale.exists():
                shutil.rmtree(stale)
        keep_index(last, files)
        write_pruned(
            files,
            segment.id,
            segment.end_step,
            digest=seals.digest if seals else None,
            num_bytes=checkpoint.num_bytes,
        )
        last.rename(aside)
    for path in {*checkpoint.paths, aside} - {last}:
        if path.exists():
            shutil.rmtree(path)


def in_words(checkpoint: Checkpoint) -> str:
    rest = "" if checkpoint.whole else "what is left of "
    return f"{rest}the checkpoint of {checkpoint.segment.id}: {short_bytes(checkpoint.num_bytes)}"


def total_bytes(checkpoints: Iterable[Checkpoint]) -> int:
    return sum(checkpoint.num_bytes for checkpoint in checkpoints)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
