"""From segments to runs: one row of numbers and one curve for every run of a study.

A shared segment is read once and counted in every run that passes it. Runs are yielded one at a time, so that
the memory needed does not grow with the number of runs.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tst_titan.collect.average import AVERAGE, average_score
from tst_titan.collect.evaluations import read_evaluations
from tst_titan.collect.notices import Notice
from tst_titan.collect.recipe import recipe_columns
from tst_titan.collect.segments import SegmentRecord, read_done, read_segment, segment_state
from tst_titan.metrics_rows import TRAINING, VALIDATION, Columns
from tst_titan.plan import Plan, Run
from tst_titan.plan.settings import Segment, Stage
from tst_titan.results import Results, SegmentFiles

# A final training loss is a mean over the rows of the run's last 5% of steps, and over at least this many rows.
FINAL_SHARE = 0.05
FINAL_ROWS = 5
# Segments that are parsed while earlier ones are used: parsing is most of the work and needs no interpreter lock.
READ_AHEAD = 4


@dataclass(frozen=True)
class RunRecord:
    """One run, read: its table row, its curves (`step` first, one row a step) and its evaluations."""

    run: Run
    stages: tuple[Stage, ...]
    segments: tuple[SegmentRecord, ...]
    row: dict[str, Any]
    training: Columns
    validation: Columns
    evaluations: tuple[dict[str, Any], ...]
    notices: tuple[Notice, ...]

    @property
    def switch_step(self) -> int | None:
        """Last step of the superposition phase; None for a plain run."""
        ends = [stage.end_step for stage in self.stages if stage.name == "superposition"]
        return max(ends) if ends else None


def read_runs(plan: Plan, results: Path) -> Iterator[RunRecord]:
    """Yield a record for every run of the plan, in its order."""
    pending = Counter(segment_id for run in plan.runs for segment_id in run.segments)
    # A counter keeps the order of first appearance: the order in which the runs need their segments.
    ahead = _read_ahead((plan.segments[segment_id] for segment_id in pending), results)
    cache: dict[str, SegmentRecord] = {}
    reported: set[Notice] = set()
    for run in plan.runs:
        records = []
        for segment_id in run.segments:
            if segment_id not in cache:
                cache[segment_id] = next(ahead)
            records.append(cache[segment_id])
            pending[segment_id] -= 1
            if not pending[segment_id]:
                del cache[segment_id]
        record = _read_run(run, tuple(records), plan.segments, results, plan.task_groups)
        # A shared segment's notice is told once, with the first run that passes it.
        fresh = tuple(notice for notice in record.notices if notice not in reported)
        reported.update(fresh)
        yield replace(record, notices=fresh)


def _read_ahead(segments: Iterable[Segment], results: Path) -> Iterator[SegmentRecord]:
    """The records of `segments`, in order, at most `READ_AHEAD` of them read before they are asked for."""
    with ThreadPoolExecutor(2, thread_name_prefix="read") as pool:
        waiting: deque[Future[SegmentRecord]] = deque()
        for segment in segments:
            waiting.append(pool.submit(read_segment, segment, results))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_run(
    run: Run,
    records: tuple[SegmentRecord, ...],
    segments: dict[str, Segment],
    results: Path,
    groups: Iterable[str],
) -> RunRecord:
    stages = records[-1].segment.stages
    training = _joined([record.metrics.training for record in records], TRAINING)
    validation = _joined([record.metrics.validation for record in records], VALIDATION)
    notices = [notice for record in records for notice in record.notices]
    evaluations: list[dict[str, Any]] = []
    known = {record.segment.id: record.done for record in records}
    for segment_id in dict.fromkeys((*run.segments, *run.evaluations)):
        segment = segments[segment_id]
        if segment_id in known:
            done = known[segment_id]
        else:
            done, problems = read_done(segment, Results(results).segment(segment_id).folder)
            notices += problems
        if done is None:  # what its checkpoint scores is no result of this study
            continue
        scores = Results(results).evaluations(segment_id)
        if segment_id in run.evaluations:
            notices += [
                Notice(
                    "unfinished",
                    str(scores.group(group)),
                    f"missing: {segment_id} is not evaluated on {group}; run: tst-titan evaluate {segment_id} --tasks "
                    f"{group}",
                )
                for group in groups
                if not scores.group(group).exists()
            ]
        rows, problems = read_evaluations(scores, segment_id, done.get("checkpoint"), done.get("checkpoint_digest"))
        evaluations += [{"run": run.run, "segment": segment_id, "step": segment.end_step} | row for row in rows]
        notices += problems
    row, problems = _row(run, records, training, validation)
    notices += problems
    for score in evaluations:
        if score["segment"] == run.segments[-1] and score["shown"]:
            row[score["task"]] = score["value"]
            row[f"{score['task']}_stderr"] = score["stderr"]
    average, stderr = average_score(row)
    if average is not None:
        row |= {AVERAGE: average, f"{AVERAGE}_stderr": stderr}
    return RunRecord(run, stages, records, row, training, validation, tuple(evaluations), tuple(notices))


def _joined(parts: list[Columns], names: tuple[str, ...]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in ("step", *names)}


def _row(
    run: Run, records: tuple[SegmentRecord, ...], training: Columns, validation: Columns
) -> tuple[dict[str, Any], list[Notice]]:
    last = records[-1]
    if all(record.done is not None for record in records):
        losses, notices = _losses(run, last, training, validation)
        notices += _count_notices(run, last)
    else:
        losses = dict.fromkeys(("final_train_loss", "final_train_loss_rows", "validation_loss"))
        unbelieved = any(notice.kind == "damaged" for record in records for notice in record.notices)
        progress = "not as it was finished: what is damaged is named" if unbelieved else _progress(run, training)
        notices = [Notice("unfinished", run.run, progress)]
    done = last.done or {}
    wall_clock = [None if record.done is None else record.done.get("wall_clock_s") for record in records]
    row = {
        "run": run.run,
        "arm": run.arm,
        "model": run.model,
        "bag_size": run.bag_size,
        "step_ratio": run.step_ratio,
        "steps": run.steps,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "bag_weighting": run.bag_weighting,
        "superpose": run.superpose,
        "reinit_embeddings": run.reinit_embeddings,
        "status": run_status(records),
        "last_step": int(training["step"][-1]) if len(training["step"]) else 0,
        "equivalent_tokens": done.get("equivalent_tokens"),
        "data_tokens": done.get("data_tokens"),
        "flops": done.get("flops"),
        **losses,
        "wall_clock_s": _sum_or_none(wall_clock),
        "segment": last.segment.id,
        "corpus": last.segment.recipe.corpus.id,
        "commit": _commit(last.provenance),
        "device": last.provenance.get("device"),
        **recipe_columns(run, last.segment.recipe),
    }
    return row, notices


def _losses(
    run: Run, last: SegmentRecord, training: Columns, validation: Columns
) -> tuple[dict[str, Any], list[Notice]]:
    """The columns of a finished run's losses, None where there is none, which a notice says."""
    notices = []
    loss, num_rows = final_loss(training, run.steps, last.segment.stage.start_step)
    if loss is None:
        text = "no final training loss: no finite loss was logged in the last steps"
        notices.append(Notice("damaged", run.run, text))
    validation_loss = _final_validation_loss(run, last, validation)
    if validation_loss is None:
        notices.append(Notice("damaged", run.run, "no validation loss at the last step"))
    columns = {
        "final_train_loss": loss,
        "final_train_loss_rows": num_rows,
        "validation_loss": validation_loss,
    }
    return columns, notices


def final_loss(training: Columns, steps: int, stage_start: int) -> tuple[float | None, int | None]:
    """Mean training loss (nats) over the run's last rows, and over how many rows.

    The rows of the last `FINAL_SHARE` of the steps, at least `FINAL_ROWS` rows, all of the last stage: one
    row is a single batch's noise, and a longer stretch lies above the end of the decay. None where one of them is no
    finite number.
    """
    in_stage = training["step"] > stage_start
    losses = training["loss"][in_stage]
    num_rows = max(FINAL_ROWS, int((training["step"] > steps * (1 - FINAL_SHARE)).sum()))
    last = losses[-num_rows:]
    if not len(last) or not np.isfinite(last).all():
        return None, None
    return float(last.mean()), len(last)


def _final_validation_loss(run: Run, last: SegmentRecord, validation: Columns) -> float | None:
    at_end = validation["validation_loss"][validation["step"] == run.steps]
    value = at_end[-1] if len(at_end) else (last.done or {}).get("validation_loss")
    return float(value) if value is not None and math.isfinite(value) else None


def _count_notices(run: Run, last: SegmentRecord) -> list[Notice]:
    """The trainer's own counts against the plan's arithmetic: a factor s between them is the classic mistake."""
    notices = []
    done = last.done or {}
    for name in ("equivalent_tokens", "data_tokens"):
        planned, counted = getattr(run, name), done.get(name)
        if counted is not None and counted != planned:
            text = f"counts {counted} {name.replace('_', ' ')}, the plan says {planned}"
            notices.append(Notice("damaged", str(SegmentFiles(last.folder).done), text))
    return notices


def _progress(run: Run, training: Columns) -> str:
    if not len(training["step"]):
        return f"not started ({run.steps} steps planned); it has no numbers in the table"
    if int(training["step"][-1]) == run.steps:
        return (
            f"at step {run.steps} of {run.steps}, without done.json: run the study again; it has no final numbers in "
            "the table"
        )
    return f"at step {int(training['step'][-1])} of {run.steps}; it has no final numbers in the table"


def run_status(records: tuple[SegmentRecord, ...]) -> str:
    """The state of the first segment of a run's path that is not finished; "finished" where all are."""
    for record in records:
        if record.done is None:
            return segment_state(record.folder, finished=False, parent_finished=True)
    return "finished"


def _commit(provenance: dict[str, Any]) -> str | None:
    commit = provenance.get("git_commit")
    return f"{commit}+changes" if commit and provenance.get("git_dirty") else commit


def _sum_or_none(values: list[Any]) -> float | None:
    return None if any(value is None for value in values) else float(sum(values))
