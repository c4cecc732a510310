"""One segment's folder as the collector sees it: its state, its rows, what it cost.

Everything is read from files; nothing is inferred from logs but the last error line of a failed segment.
"""

import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tst_titan.collect.metrics import Metrics, no_metrics, read_metrics
from tst_titan.collect.notices import Notice, damage
from tst_titan.errors import UserError
from tst_titan.files import read_json
from tst_titan.plan.settings import Segment
from tst_titan.results import Results, SegmentFiles, checkpoint_name
from tst_titan.train.record import SEALED_FILES, changed_files

# waiting: its parent is not finished; queued: it could start; stopped: interrupted, a next call goes on.
State = Literal["waiting", "queued", "running", "stopped", "failed", "finished"]

SILENT_AFTER_S = 900.0
_MEND = "bring it back, or delete done.json and run again: the segment goes on from its last checkpoint"
_ERROR = re.compile(r"\b(\w*(Error|Exception|Interrupt)\b|error:|Killed|out of memory|Segmentation fault)", re.I)
_TAIL_BYTES = 65536


@dataclass(frozen=True)
class SegmentRecord:
    """What one segment left behind. `done` is `done.json`, None where it is not finished."""

    segment: Segment
    folder: Path
    done: dict[str, Any] | None
    metrics: Metrics
    provenance: dict[str, Any]
    notices: tuple[Notice, ...]


def read_segment(segment: Segment, results: Path) -> SegmentRecord:
    """Read a segment's folder, whatever state it is in; what is wrong with it becomes notices.

    Of one whose `done.json`, or what that seals, cannot be believed, nothing else is read either.
    """
    files = Results(results).segment(segment.id)
    folder = files.folder
    done, notices = read_done(segment, folder)
    if done is not None and (changed := _changed(done, folder, SEALED_FILES)):
        done, notices = None, changed
    believed = not notices
    notices += _settings_notices(segment, folder)
    # A row of step 0 (before the first update) belongs to the first segment.
    first_step = segment.start_step + 1 if segment.start_step else 0
    metrics = no_metrics()
    if believed:
        metrics = read_metrics(
            files.metrics,
            first_step=first_step,
            last_step=segment.end_step,
            finished=done is not None,
        )
    provenance: dict[str, Any] = {}
    if believed and files.provenance.exists():
        try:
            provenance = read_json(files.provenance)
        except UserError as error:
            notices.append(damage(error))
    return SegmentRecord(segment, folder, done, metrics, provenance, (*notices, *metrics.notices))


def read_done(segment: Segment, folder: Path) -> tuple[dict[str, Any] | None, list[Notice]]:
    """`done.json` of a finished segment; None, with notices where there is one that cannot be believed by itself."""
    path = SegmentFiles(folder).done
    if not path.exists():
        return None, []
    try:
        done = read_json(path, mend=_MEND)
    except UserError as error:
        return None, [damage(error)]
    if not isinstance(done, dict) or done.get("segment") != segment.id or done.get("end_step") != segment.end_step:
        text = f"belongs to another segment than {segment.id}; taken as not finished; {_MEND}"
        return None, [Notice("damaged", str(path), text)]
    if done.get("checkpoint") != checkpoint_name(segment.end_step):
        text = (
            f"names checkpoint {done.get('checkpoint')!r}, the segment ends at step {segment.end_step}; taken as not "
            f"finished; {_MEND}"
        )
        return None, [Notice("damaged", str(path), text)]
    changed = _changed(done, folder, ())
    return None if changed else done, changed


def _changed(done: dict[str, Any], folder: Path, names: Collection[str]) -> list[Notice]:
    text = f"not as it was when the segment was finished, so that none of its numbers is shown; {_MEND}"
    return [Notice("damaged", str(folder / name), text) for name in changed_files(done, folder, names)]


def _settings_notices(segment: Segment, folder: Path) -> list[Notice]:
    path = SegmentFiles(folder).settings
    if not path.exists():
        return []
    try:
        found = read_json(path)
    except UserError as error:
        return [damage(error)]
    # Through JSON, so that tuples compare equal to the lists that the file holds.
    expected = json.loads(json.dumps(segment.science()))
    differing = sorted(key for key in expected if found.get(key) != expected[key])
    if not differing:
        return []
    text = f"holds other settings than the study's ({', '.join(differing)}): its numbers are not this study's"
    return [Notice("damaged", str(path), text)]


def segment_state(folder: Path, *, finished: bool, parent_finished: bool, now: float | None = None) -> State:
    """A segment's state from its files alone.

    The launcher notes each attempt's start and end in `attempts.json` and a failure in `failure.json`. An attempt
    without an end is running while its files change; after `SILENT_AFTER_S` seconds of silence it was killed.
    """
    if finished:
        return "finished"
    files = SegmentFiles(folder)
    times = [path.stat().st_mtime for path in (files.attempts, files.log, files.metrics) if path.exists()]
    if not times:
        return "queued" if parent_finished else "waiting"
    attempt = _last_attempt(folder)
    if files.failure.exists():
        return "failed"
    if attempt.get("end") is not None:
        # Attempts of earlier versions name no outcome; those that failed have no step.
        failed = attempt.get("outcome", "stopped" if attempt.get("step") is not None else "failed") == "failed"
        return "failed" if failed else "stopped"
    age = (time.time() if now is None else now) - max(times)
    return "running" if age < SILENT_AFTER_S else "stopped"


def _last_attempt(folder: Path) -> dict[str, Any]:
    try:
        attempts = read_json(SegmentFiles(folder).attempts)
    except UserError:
        return {}
    return attempts[-1] if isinstance(attempts, list) and attempts else {}


def failure(folder: Path) -> str:
    """Why a segment failed: the launcher's record of it, else the last error line of its log."""
    files = SegmentFiles(folder)
    try:
        return str(read_json(files.failure)["message"])
    except (UserError, KeyError, TypeError):
        return last_error(files.log) or f"ended without a word; see {files.log}"


def last_error(log: Path) -> str | None:
    """The last error line of a log's end, None where its end shows none.

    Only the last 20 lines count: an error that training survived or was restarted after is further up.
    """
    for line in reversed(_tail_lines(log)[-20:]):
        if _ERROR.search(line):
            return line.strip()
    return None


def _tail_lines(path: Path) -> list[str]:
    """The whole lines in a file's last 64 KiB; empty where there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            content = file.read()
    except FileNotFoundError:
        return []
    lines = content.decode("utf-8", errors="replace").splitlines()
    return lines[1:] if size > _TAIL_BYTES else lines
