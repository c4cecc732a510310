"""What `results/` already holds: finished segments, and how they differ from what a plan wants."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError
from tst_titan.files import digest_file, read_json
from tst_titan.plan.settings import Segment, segment_from_dict
from tst_titan.results import DONE, Results, SegmentFiles

MEND = "restore it, or delete its folder to train the segment again"
# More differing settings than this, and the cached segment is another experiment.
MAX_DIFFERENCES = 8


@dataclass(frozen=True)
class Finished:
    """A finished segment: what was trained. `segment` is None where another version of the tool wrote it."""

    id: str
    settings: dict[str, Any]
    segment: Segment | None


@dataclass(frozen=True)
class Difference:
    """A segment to train although a near twin lies trained: the settings that differ, (path, cached, current)."""

    segment: str
    cached: str
    settings: tuple[tuple[str, Any, Any], ...]


def read_finished(results: Path, families: Iterable[str]) -> tuple[dict[str, Finished], dict[str, UserError]]:
    """The finished segments (those with a `done.json`) of the named families by id, and what is wrong with damaged
    ones.

    A damaged segment concerns the studies that want it: it is left out, and hurts no other.
    """
    found, damaged = {}, {}
    for family in families:
        for done in sorted((Results(results).segments / family).glob(f"*/{DONE}")):
            identity = f"{family}/{done.parent.name}"
            try:
                found[identity] = _read_finished(SegmentFiles(done.parent).settings, identity)
            except UserError as error:
                damaged[identity] = error
    return found, damaged


def _read_finished(file: Path, identity: str) -> Finished:
    if not file.is_file():
        raise UserError(f"missing; {MEND}", where=file)
    settings = read_json(file, mend=MEND)
    if not isinstance(settings, dict):
        raise UserError(f"holds a {type(settings).__name__}, no settings; {MEND}", where=file)
    try:
        segment = segment_from_dict(settings)
    except (KeyError, TypeError, ValueError, AttributeError):
        segment = None
    if segment is not None and segment.id != identity:
        if settings.get("id") != identity:
            raise UserError(
                f"id = {settings.get('id')!r}: these are not the settings of {identity}; {MEND}", where=file
            )
        if _was_edited(file):
            raise UserError(f"not as it was when {identity} was finished; {MEND}", where=file)
        segment = None
    return Finished(id=identity, settings=settings, segment=segment)


def _was_edited(file: Path) -> bool:
    """Whether settings that do not make their segment's id were edited; else another version of the tool wrote them."""
    try:
        recorded = read_json(SegmentFiles(file.parent).done)["files"][file.name]
    except (UserError, KeyError, TypeError):
        return False
    return bool(digest_file(file) != recorded)


def differences(wanted: Iterable[Segment], orphans: Iterable[Finished]) -> tuple[Difference, ...]:
    """For each segment still to be trained, the finished one that comes nearest, if any comes near.

    ``orphans`` are finished segments that no study wants any more: what an edited definition leaves behind.
    """
    by_kind: dict[tuple[str, str], list[tuple[Finished, dict[str, Any]]]] = {}
    for orphan in orphans:
        kind = (orphan.id.rpartition("/")[0], orphan.id.rpartition("/")[2].partition("-")[0])
        by_kind.setdefault(kind, []).append((orphan, flatten(orphan.settings)))
    twins = []
    for segment in wanted:
        candidates = by_kind.get((segment.id.rpartition("/")[0], segment.stage.name))
        if not candidates:
            continue
        current = flatten(segment.science())
        orphan, settings = min(
            ((orphan, _differing(flat, current)) for orphan, flat in candidates),
            key=lambda pair: (len(pair[1]), pair[0].id),
        )
        if len(settings) <= MAX_DIFFERENCES:
            twins.append(Difference(segment=segment.id, cached=orphan.id, settings=settings))
    return tuple(twins)


def flatten(settings: dict[str, Any]) -> dict[str, Any]:
    """A segment's scientific settings by dotted path: ``recipe.learning_rate``, ``superposition.bag_size``."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                walk(item, f"{path}[{index}]")
        else:
            flat[path] = value

    walk(settings.get("recipe", {}), "recipe")
    for stage in settings.get("stages", ()):
        walk(stage, str(stage.get("name", "stage")))
    return flat


def _differing(cached: dict[str, Any], current: dict[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    absent = "(absent)"
    keys = [key for key in current if cached.get(key, absent) != current[key]]
    keys += [key for key in cached if key not in current]
    return tuple((key, cached.get(key, absent), current.get(key, absent)) for key in keys)
