"""What has to be trained again: finished segments whose checkpoint was pruned, and which something still to be done
starts from."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from tst_titan.errors import UserError
from tst_titan.plan.settings import Segment
from tst_titan.pruned import is_pruned
from tst_titan.results import Results


def trained_again(
    results: Path,
    segments: Mapping[str, Segment],
    finished: Collection[str],
    evaluations: Iterable[str],
    groups: Collection[str],
) -> frozenset[str]:
    """Ids of the pruned segments of a study that it needs the state of, and of those that these are trained from.

    ``evaluations``: ids of the states that are scored on the task groups ``groups``.
    """
    places = Results(results)
    needed = [segment.parent for id, segment in segments.items() if id not in finished]
    needed += [id for id in evaluations if not all(places.evaluation(id, group).exists() for group in groups)]
    again: set[str] = set()
    while needed:
        id = needed.pop()
        if id is None or id in again or id not in finished:
            continue
        if is_pruned(places.segment(id), segments[id].end_step):
            again.add(id)
            needed.append(segments[id].parent)
    return frozenset(again)


def lost_start(segments: Mapping[str, Segment], again: Collection[str], results: Path) -> UserError | None:
    """What is wrong where a segment has to be trained again and what it was trained from is gone."""
    for id in sorted(again):
        if segments[id].parent is None and segments[id].start_step:
            return UserError(
                "its checkpoint, from which this study goes on, was deleted by `tst-titan prune`, and the segment "
                f"that {id} was trained from is gone; delete this folder, and it is trained anew from what there is",
                where=Results(results).segment(id).folder,
            )
    return None
