"""The published values beside a study's own: those of the same model, budget, bags, recipe and batch.

A run has a published counterpart where the paper trained the same thing: model, steps, superposition steps, bag size,
weighting, re-initialization, learning rate and (within 5%) equivalent tokens a step agree. Nothing else is put beside
it, so a small study of its own models shows no published value rather than a misleading one.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import pandas as pd

from tst_titan.collect.average import AVERAGE, AVERAGED
from tst_titan.plan import Run
from tst_titan.plan.implied import DENSE_POSITIONS_PER_STEP, POSITIONS_PER_STEP
from tst_titan.published import published_grids, published_table1
from tst_titan.study.catalogue import MODELS, PAPER_TASKS

LOSS = "final_train_loss"
PREFIX = "published_"
PUBLISHED_LOSS = PREFIX + LOSS
_SAME_TOKENS = 0.05

_Key = tuple[str, int, int, int, str, bool]


def published_of(run: Run) -> dict[str, float]:
    """Published values of the run's counterpart, empty where it has none.

    `final_train_loss` in nats, `device_hours` on B200, scores as fractions under their tasks' names, `average` where
    all of its tasks are printed.
    """
    model = MODELS.get(run.model)
    if model is None or run.learning_rate != model["learning_rate"]:
        return {}
    step_tokens = POSITIONS_PER_STEP.get(run.model, DENSE_POSITIONS_PER_STEP)
    if abs(run.equivalent_tokens / run.steps / step_tokens - 1) > _SAME_TOKENS:
        return {}
    if run.superposition_steps and run.superpose != "both":
        return {}
    bags = (run.superposition_steps, run.bag_size) if run.superposition_steps else (0, 1)
    weighting = run.bag_weighting if run.superposition_steps else "uniform"
    return _published().get((run.model, run.steps, *bags, weighting, run.reinit_embeddings), {})


@cache
def _published() -> dict[_Key, dict[str, float]]:
    values: dict[_Key, dict[str, float]] = {}
    for item in published_table1():
        key = (
            item.model, item.total_steps, item.tst_steps or 0, item.bag_size or 1, "uniform",
            item.method == "tst_reinit_embeddings",
        )  # fmt: skip
        row = {LOSS: item.final_train_loss, "device_hours": item.b200_hours}
        row |= {task: round(score / 100, 4) for task in PAPER_TASKS if (score := getattr(item, task)) is not None}
        if all(task in row for task in AVERAGED):
            row[AVERAGE] = sum(row[task] for task in AVERAGED) / len(AVERAGED)
        values[key] = row
    for cell in published_grids():
        model, _, budget = cell.setting.partition("-")
        steps = int(budget.removesuffix("k")) * 1000
        bags = (round(cell.step_ratio * steps), cell.bag_size)
        weighting = cell.bag_weighting if cell.step_ratio else "uniform"
        # A grid's cells are printed with more digits than Table 1; its scores are given without a weighting.
        name = LOSS if cell.metric == LOSS else "hellaswag"
        values.setdefault((model, steps, *bags, weighting, False), {})[name] = cell.value
    return values


def with_published(table: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """The table of runs with a column `published_NAME` for every number of it that the paper has for any of its
    runs."""
    values = {run.run: published_of(run) for run in runs}
    names = dict.fromkeys(name for row in values.values() for name in row if name in table.columns)
    columns = {
        PREFIX + name: pd.array([values[run].get(name) for run in table["run"]], dtype="Float64") for name in names
    }
    return table.assign(**columns)


def evaluations_with_published(rows: list[dict[str, Any]], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of evaluations with `published`, the paper's score of the same run and task at its end (None: none
    printed)."""
    ends = {row["run"]: row for row in table.to_dict("records")}
    result = []
    for row in rows:
        end = ends[row["run"]]
        value = end.get(PREFIX + row["task"]) if row["shown"] and row["segment"] == end["segment"] else None
        result.append({**row, "published": None if value is None or pd.isna(value) else float(value)})
    return result
