"""Read `results/evaluations/SEGMENT_ID/GROUP.json` into rows: one a task and metric."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tst_titan.collect.notices import Notice, damage, listed
from tst_titan.errors import UserError
from tst_titan.results import EvaluationFiles
from tst_titan.seal import read_sealed


def read_evaluations(
    files: EvaluationFiles, segment: str, checkpoint: str | None, checkpoint_digest: str | None = None
) -> tuple[list[dict[str, Any]], list[Notice]]:
    """The scores of one segment's end state.

    Args:
        files: where the segment's lie.
        segment: the segment's id; a file about another one is named and left out.
        checkpoint: the checkpoint that `done.json` names (None: not finished), likewise.
        checkpoint_digest: the digest that it has of it (None: one of an earlier version), likewise.

    Returns:
        Rows with `group, task, metric, value, stderr, higher_is_better, num_samples, version, lm_eval_version,
        dtype, shown` (whether tables show this metric) and `file`; and what was wrong with the files.
    """
    rows: list[dict[str, Any]] = []
    notices = []
    finished, problems = _finished_tasks(files.tasks)
    notices += problems
    for path in files.groups:
        try:
            content = read_sealed(path, mend="left out; delete it and evaluate again")
            if reason := _left_out(content, segment, checkpoint, checkpoint_digest):
                notices.append(Notice("damaged", str(path), reason))
                continue
            scores, problems = _rows(content, path, finished)
            rows += scores
            notices += problems
        except UserError as error:
            notices.append(damage(error))
        except (KeyError, TypeError, AttributeError) as error:
            notices.append(
                Notice(
                    "damaged",
                    str(path),
                    f"not an evaluation as documented ({error!r}); left out; delete it and evaluate again",
                )
            )
    return rows, notices


def _left_out(content: dict[str, Any], segment: str, checkpoint: str | None, checkpoint_digest: str | None) -> str:
    """Why an evaluation is none of this segment's end state; "" for one that is."""
    if content["segment"] != segment:
        return f"evaluates segment {content['segment']}, not {segment}; left out; delete it and evaluate again"
    if checkpoint is not None and _step_folder(content["checkpoint"]) != _step_folder(checkpoint):
        return (
            f"evaluates checkpoint {content['checkpoint']}, the segment ended with {checkpoint}; left out; evaluate "
            "again"
        )
    if checkpoint_digest and content.get("checkpoint_digest", checkpoint_digest) != checkpoint_digest:
        return (
            f"evaluates another checkpoint ({content['checkpoint_digest']}) than the segment's ({checkpoint_digest}); "
            "left out; evaluate again"
        )
    if trial := _trial(content):
        return f"a trial ({trial}), not the evaluation of a study; left out; delete it and evaluate again"
    return ""


def _trial(content: dict[str, Any]) -> str:
    """What makes an evaluation a trial; "" for one of a study."""
    if content.get("limit") is not None:
        return f"{content['limit']} samples a task"
    backend = content.get("backend", "checkpoint")
    if backend != "checkpoint":
        return f"backend {backend}"
    return f"in {content.get('dtype')}" if content.get("trial") else ""


def mixed_settings(rows: Iterable[dict[str, Any]]) -> list[Notice]:
    """A notice for each task whose scores were made under several settings: they are not comparable without a look.

    Args:
        rows: of all runs, as `read_evaluations` gives them.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        of_task = found.setdefault(row["task"], {})
        for name, words in _SETTINGS.items():
            of_task.setdefault(words, set()).add(str(row.get(name)))
    return [
        Notice(
            "uncertain",
            f"task {task}",
            f"scored under several {words}: {listed(sorted(values))}; evaluate again",
        )
        for task, settings in found.items()
        for words, values in settings.items()
        if len(values) > 1
    ]


# What must be equal of all scores of a task in one table.
_SETTINGS = {
    "version": "definitions (versions)",
    "lm_eval_version": "versions of lm-eval",
    "dtype": "dtypes",
    "num_samples": "numbers of samples",
}


def _step_folder(checkpoint: str) -> str:
    return Path(checkpoint).name


def _finished_tasks(folder: Path) -> tuple[dict[str, Any], list[Notice]]:
    """The scores of `tasks/*.json`, which a group's file is put together from, by task."""
    found: dict[str, Any] = {}
    notices = []
    for path in sorted(folder.glob("*.json")):
        try:
            found |= read_sealed(path, mend="evaluate again")["tasks"]
        except UserError as error:
            notices.append(damage(error))
        except (KeyError, TypeError) as error:
            notices.append(
                Notice("damaged", str(path), f"not a finished task as documented ({error!r}); evaluate again")
            )
    return found, notices


def _rows(content: dict[str, Any], path: Path, finished: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Notice]]:
    rows, notices = [], []
    for task, result in content["tasks"].items():
        if finished.get(task, result) != result:
            text = (
                f"its scores of {task} are not those of the finished task beside it; left out; delete both and "
                "evaluate again"
            )
            notices.append(Notice("damaged", str(path), text))
            continue
        if "metric" not in result:
            notices.append(Notice("damaged", str(path), f"{task} has no finite score; left out"))
        for metric, score in result.items():
            if not isinstance(score, dict):
                continue
            value = score.get("value")
            if value is None or not math.isfinite(value):
                notices.append(Notice("damaged", str(path), f"{metric} of {task} is no finite number; left out"))
                continue
            rows.append(
                {
                    "group": path.stem,
                    "task": task,
                    "metric": metric,
                    "value": float(value),
                    "stderr": None if score.get("stderr") is None else float(score["stderr"]),
                    "higher_is_better": bool(score["higher_is_better"]),
                    "num_samples": result.get("num_samples"),
                    "version": str(result.get("version", "")),
                    "lm_eval_version": content.get("lm_eval_version"),
                    "dtype": content.get("dtype"),
                    "shown": metric == result.get("metric"),
                    "file": str(path),
                }
            )
    return rows, notices
