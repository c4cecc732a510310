"""Downstream scores: every variant's over its seeds."""

from typing import Any

import numpy as np
import pandas as pd

from tst_titan.compare.variants import variants


def downstream_table(table: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """One row a variant and budget, its scores as means over the seeds that have them (`downstream.csv`).

    For every task `TASK`, `TASK_seeds` (how many) and `TASK_spread` (standard deviation between seeds, missing for one
    seed); `published_TASK` where the table of runs has it.
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
