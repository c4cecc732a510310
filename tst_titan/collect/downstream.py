"""Downstream scores: the published average, and every variant's scores over its seeds."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tst_titan.collect.comparisons import variants
from tst_titan.study.catalogue import PAPER_TASKS

AVERAGE = "average"
# As published: the arithmetic mean of the suite without MMLU.
AVERAGED = tuple(task for task in PAPER_TASKS if task != "mmlu")


def average_score(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The mean of the seven tasks' scores in a row of the table of runs, and its standard error.

    None where one of them is missing: a mean over fewer tasks is another number. The standard error is that of a mean of
    independent scores, sqrt(sum of squares) / 7: sampling of questions, not the noise between seeds.
    """
    scores = [row[task] for task in AVERAGED if row.get(task) is not None]
    if len(scores) < len(AVERAGED):
        return None, None
    errors = [row[f"{task}_stderr"] for task in AVERAGED if row.get(f"{task}_stderr") is not None]
    mean = math.fsum(scores) / len(scores)
    if len(errors) < len(AVERAGED):
        return mean, None
    return mean, math.sqrt(math.fsum(error**2 for error in errors)) / len(errors)


def downstream_table(table: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """One row a variant and budget, its scores as means over the seeds that have them (`downstream.csv`).

    For every task `TASK`, `TASK_seeds` (how many) and `TASK_spread` (standard deviation between seeds, missing for one seed);
    `published_TASK` where the table of runs has it.
    """
    rows = []
    for label, members in variants(table, by=("steps",)):
        row: dict[str, Any] = {
            "arm": label,
            "model": members["model"].iloc[0],
            "steps": int(members["steps"].iloc[0]),
        }
        for task in tasks:
            scores = members[task].dropna().to_numpy(dtype=float)
            row[task] = scores.mean() if len(scores) else None
            row[f"{task}_seeds"] = len(scores)
            row[f"{task}_spread"] = np.std(scores, ddof=1) if len(scores) > 1 else None
            if (published := f"published_{task}") in members.columns:
                row[published] = members[published].iloc[0]
        if any(row[task] is not None for task in tasks):
            rows.append(row)
    return pd.DataFrame(rows)
