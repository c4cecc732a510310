"""Which rows of a table of runs are replicates, variants of an arm, baselines of others.

The table has one row a run with `run, arm, model, bag_size, step_ratio, steps, seed, learning_rate`. A baseline run has bag
size 1 or step ratio 0. Runs are replicates where all but the seed agrees.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

# What makes two runs the same but for their seed.
VARIANT = [
    "arm",
    "model",
    "bag_size",
    "step_ratio",
    "learning_rate",
    "bag_weighting",
    "superpose",
    "reinit_embeddings",
]


def is_baseline(table: pd.DataFrame) -> pd.Series:
    """Runs without superposition."""
    return (table["bag_size"].fillna(1) == 1) | (table["step_ratio"].fillna(0) == 0)


def recipe_of(run: pd.Series) -> tuple[str, float | None]:
    """What a baseline must share to be compared: model and learning rate (None where it is not known)."""
    rate = run["learning_rate"]
    return str(run["model"]), None if pd.isna(rate) else float(rate)


def baselines(table: pd.DataFrame) -> dict[tuple[str, float | None], pd.DataFrame]:
    """The baseline runs of a table by `recipe_of`."""
    plain = table[is_baseline(table)]
    groups = plain.groupby(["model", "learning_rate"], dropna=False, sort=False)
    return {recipe_of(rows.iloc[0]): rows for _, rows in groups}


def variants(table: pd.DataFrame, *, by: tuple[str, ...] = ("steps",)) -> Iterator[tuple[str, pd.DataFrame]]:
    """Groups of replicates, with a label: the arm's name, and what else is needed to tell its variants apart."""
    keys = [name for name in VARIANT if name in table.columns]
    groups = list(table.groupby([*keys, *by], dropna=False, sort=False))
    # What differs between models alone, such as a learning rate of each model's own, is told by the model.
    varying = {
        arm: [name for name in keys[2:] if rows.groupby("model")[name].nunique(dropna=False).max() > 1]
        for arm, rows in table.groupby("arm", sort=False)
    }
    for _, rows in groups:
        first = rows.iloc[0]
        yield label_of(first, varying[first["arm"]]), rows


_SYMBOLS = {"bag_size": "s", "step_ratio": "r", "learning_rate": "lr"}


def label_of(row: Any, varying: list[str]) -> str:
    """``tst`` or, where the arm is a grid, ``tst s=6 r=0.3``."""
    parts = []
    for name in varying:
        if pd.notna(row[name]):
            value = f"{row[name]:.4g}" if isinstance(row[name], int | float | np.number) else str(row[name])
            parts.append(f"{_SYMBOLS.get(name, name)}={value}")
    return " ".join([str(row["arm"]), *parts])


def run_labels(table: pd.DataFrame) -> dict[str, str]:
    """For every run its variant's label: runs with one label differ in model, steps and seed alone."""
    keys = [name for name in VARIANT[2:] if name in table.columns]
    varying = {
        arm: [name for name in keys if rows[name].nunique(dropna=False) > 1]
        for arm, rows in table.groupby("arm", sort=False)
    }
    return {str(row["run"]): label_of(row, varying[row["arm"]]) for row in table.to_dict("records")}


def single_seeds(table: pd.DataFrame) -> tuple[list[str], bool]:
    """The variants and budgets with one seed, in words, and whether these are all that the table has."""
    groups = list(table.groupby([table["run"].map(run_labels(table)), "model", "steps"], sort=False))
    single = [
        f"{label}, {model}, {steps} steps"
        for (label, model, steps), rows in groups
        if rows["seed"].nunique() == 1
    ]
    return single, len(single) == len(groups)
