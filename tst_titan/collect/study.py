"""Everything that the report and the plots show of one study, gathered from its files in one pass."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tst_titan.collect.corpus_changes import corpus_changes
from tst_titan.collect.evaluations import mixed_settings
from tst_titan.collect.metrics import no_metrics
from tst_titan.collect.notices import Notice, damage
from tst_titan.collect.recipe import corpus_columns
from tst_titan.collect.runs import RunRecord, read_runs
from tst_titan.collect.segments import SegmentRecord
from tst_titan.collect.tables import runs_table
from tst_titan.collect.usage import Usage, run_columns, study_usage
from tst_titan.data.manifest import read_manifest
from tst_titan.errors import UserError
from tst_titan.metrics_rows import Columns
from tst_titan.plan import Plan
from tst_titan.results import Results, SegmentFiles

# Points of all training curves together that the report may hold, and of one curve.
ALL_POINTS, CURVE_POINTS = 60_000, 400


@dataclass(frozen=True)
class RunCurve:
    """A run's curves, thinned for drawing: each training point is the mean of `rows_per_point` logged rows."""

    run: str
    baseline: bool
    model: str
    steps: int
    seed: int
    switch_step: int | None
    training_step: np.ndarray
    training_loss: np.ndarray
    validation_step: np.ndarray
    validation_loss: np.ndarray
    rows_per_point: int


@dataclass(frozen=True)
class SegmentCost:
    """What one segment cost. Shared segments are listed, and paid, once."""

    segment: str
    arm: str
    num_runs: int
    finished: bool
    steps: int
    planned_flops: float
    flops: float | None
    planned_gpu_hours: float
    usage: Usage | None
    device: str


@dataclass(frozen=True)
class StudyResults:
    """A study's results: the table of runs and what the report tells beside it."""

    plan: Plan
    results: Path
    table: pd.DataFrame
    curves: tuple[RunCurve, ...]
    evaluations: list[dict[str, Any]]
    corpora: dict[str, dict[str, Any]]
    costs: tuple[SegmentCost, ...]
    notices: tuple[Notice, ...]


def gather(plan: Plan, results: Path, keep: Callable[[RunRecord], None] | None = None) -> StudyResults:
    """Read all runs of a plan; `keep` is called with every full record as it is read (to write its curve)."""
    rows: list[dict[str, Any]] = []
    curves: list[RunCurve] = []
    evaluations: list[dict[str, Any]] = []
    notices: list[Notice] = []
    costs: dict[str, SegmentCost] = {}
    segments: dict[str, SegmentRecord] = {}
    most = max(40, min(CURVE_POINTS, ALL_POINTS // max(1, len(plan.runs))))
    usages = study_usage(plan, results)
    cost_columns = run_columns(plan, usages)
    for record in read_runs(plan, results):
        if keep:
            keep(record)
        rows.append(record.row | cost_columns[record.run.run] | _unknown_hours(record, usages))
        curves.append(_thin(record, most))
        evaluations += record.evaluations
        notices += record.notices
        for segment in record.segments:
            _count_cost(costs, segment, record, usages.get(segment.segment.id))
            segments[segment.segment.id] = replace(segment, metrics=no_metrics())
    corpora, problems = _read_corpora(plan, results)
    notices += problems
    changed = corpus_changes(segments.values(), corpora)
    notices += changed
    # What another corpus of the same name holds is nothing of this study.
    others = {notice.where for notice in changed}
    corpora = {id: manifest for id, manifest in corpora.items() if manifest["file"] not in others}
    table = runs_table(row | corpus_columns(corpora.get(row["corpus"], {})) for row in rows)
    notices += mixed_settings(evaluations)
    notices += _repetitions(table, corpora)
    return StudyResults(
        plan, results, table, tuple(curves), evaluations, corpora, tuple(costs.values()), tuple(notices)
    )


def _unknown_hours(record: RunRecord, usages: Mapping[str, Usage]) -> dict[str, None]:
    """No hours for a run with a segment that was trained and left no record of them: the others' alone would be too
    few."""
    lost = any(
        segment.segment.id not in usages and SegmentFiles(segment.folder).metrics.exists()
        for segment in record.segments
    )
    return dict.fromkeys(("device_hours", "device_hours_share"), None) if lost else {}


def _thin(record: RunRecord, most: int) -> RunCurve:
    step, loss, rows_per_point = thinned(record.training, record.switch_step, most)
    return RunCurve(
        run=record.run.run,
        baseline=record.run.bag_size == 1 or not record.run.step_ratio,
        model=record.run.model,
        steps=record.run.steps,
        seed=record.run.seed,
        switch_step=record.switch_step,
        training_step=step,
        training_loss=loss,
        validation_step=record.validation["step"],
        validation_loss=record.validation["validation_loss"],
        rows_per_point=rows_per_point,
    )


def thinned(training: Columns, switch_step: int | None, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Means of neighbouring rows, never across the switch, so that about `most` points are left.

    Returns the points' steps (of the last row in each mean), their losses and the number of rows in a mean.
    """
    step, loss = training["step"], training["loss"]
    size = max(1, -(-len(step) // most))
    if size == 1:
        return step, loss, 1
    border = 0 if switch_step is None else int(np.searchsorted(step, switch_step, side="right"))
    starts = np.unique(np.concatenate([np.arange(0, border, size), np.arange(border, len(step), size)]))
    counts = np.diff(np.append(starts, len(step)))
    ends = np.append(starts[1:], len(step)) - 1
    return step[ends], np.add.reduceat(loss, starts) / counts, size


def _count_cost(costs: dict[str, SegmentCost], record: SegmentRecord, run: RunRecord, usage: Usage | None) -> None:
    segment = record.segment
    known = costs.get(segment.id)
    steps = segment.end_step - segment.start_step
    # Steps cost the same in all phases; done.json counts from step 0 of the run.
    share = steps / run.run.steps
    flops = (record.done or {}).get("flops")
    costs[segment.id] = SegmentCost(
        segment=segment.id,
        arm=known.arm if known else run.run.arm,
        num_runs=(known.num_runs if known else 0) + 1,
        finished=record.done is not None,
        steps=steps,
        planned_flops=run.run.flops * share,
        flops=None if flops is None else float(flops) * steps / segment.end_step,
        planned_gpu_hours=run.run.gpu_hours * share,
        usage=usage,
        device=str(record.provenance.get("device") or ""),
    )


def segments_table(costs: Sequence[SegmentCost]) -> pd.DataFrame:
    """One row a segment: what it was planned to cost and what it used (`Usage`); shared ones once."""
    rows = []
    for cost in costs:
        row = vars(cost) | (vars(cost.usage) if cost.usage else {})
        rows.append(row | {"slurm_jobs": " ".join(row.get("slurm_jobs", ()))})
    columns = {"segment": "string", "num_runs": "Int64", "finished": "boolean", "steps": "Int64", "planned_flops": "Float64",  # noqa: E501
               "flops": "Float64", "planned_gpu_hours": "Float64", "hours": "Float64", "kind": "string", "source": "string",  # noqa: E501
               "attempts": "Int64", "failed": "Int64", "failed_hours": "Float64", "slurm_jobs": "string", "device": "string"}  # fmt: skip  # noqa: E501
    table = pd.DataFrame(
        {name: pd.array([row.get(name) for row in rows], dtype=dtype) for name, dtype in columns.items()}
    )
    names = {"hours": "device_hours", "kind": "device_kind", "source": "device_hours_source", "failed_hours": "failed_device_hours",  # noqa: E501
             "failed": "failed_attempts", "planned_gpu_hours": "gpu_hours_planned"}  # fmt: skip
    return table.rename(columns=names)


def _read_corpora(plan: Plan, results: Path) -> tuple[dict[str, dict[str, Any]], list[Notice]]:
    corpora, notices = {}, []
    ids = {plan.segments[run.segments[-1]].recipe.corpus.id for run in plan.runs}
    for corpus_id in sorted(ids):
        path = Results(results).corpus(corpus_id).manifest
        if not path.exists():
            notices.append(
                Notice(
                    "unfinished",
                    str(path),
                    "missing: the corpus is not there; build it: tst-titan data build STUDY",
                )
            )
            continue
        try:
            corpora[corpus_id] = read_manifest(path) | {"file": str(path)}
        except UserError as error:
            notices.append(damage(error))
    return corpora, notices


def _repetitions(table: pd.DataFrame, corpora: dict[str, dict[str, Any]]) -> list[Notice]:
    notices = []
    for corpus_id, manifest in corpora.items():
        rows = table[table["corpus"] == corpus_id]
        most = rows["data_tokens"].dropna().max() if rows["data_tokens"].notna().any() else None
        if most is not None:
            notices += _repetition(manifest, int(most), str(rows.loc[rows["data_tokens"].idxmax(), "run"]))
    return notices


def _repetition(manifest: dict[str, Any], data_tokens: int, run: str) -> list[Notice]:
    notices = []
    with contextlib.suppress(KeyError, TypeError, ZeroDivisionError):
        weights = sum(source["weight"] for source in manifest["sources"])
        for source in manifest["sources"]:
            times = data_tokens * source["weight"] / weights / source["num_tokens"]
            if times > 1:
                text = f"run {run} reads this source {times:.2f} times: part of its data is repeated"
                notices.append(Notice("repeated data", f"source {source['name']}", text))
    return notices
