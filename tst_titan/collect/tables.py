"""The table of runs: its columns, and what does not exist is missing."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from tst_titan.collect.recipe import RECIPE_COLUMNS

# Every table of runs has these columns, in this order; each task's score and standard error follow, then the recipe.
RUN_COLUMNS = {
    "run": "string",
    "arm": "string",
    "model": "string",
    "bag_size": "Int64",
    "step_ratio": "Float64",
    "steps": "Int64",
    "seed": "Int64",
    "equivalent_tokens": "Int64",
    "data_tokens": "Int64",
    "flops": "Float64",
    "final_train_loss": "Float64",
    "final_train_loss_rows": "Int64",
    "validation_loss": "Float64",
    "wall_clock_s": "Float64",
    "device_hours": "Float64",
    "device_hours_share": "Float64",
    "device_kind": "string",
    "device_hours_source": "string",
    "gpu_hours_planned": "Float64",
    "learning_rate": "Float64",
    "bag_weighting": "string",
    "superpose": "string",
    "reinit_embeddings": "boolean",
    "status": "string",
    "last_step": "Int64",
    "segment": "string",
    "corpus": "string",
    "commit": "string",
    "device": "string",
}
PROVENANCE_COLUMNS = ("segment", "corpus", "commit", "device")


def runs_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a run; what does not exist is missing (`<NA>`), never zero.

    Columns: `RUN_COLUMNS`, then `TASK` and `TASK_stderr` for every task that any run has, in alphabetical order, then
    `RECIPE_COLUMNS` where the recipe is known (of printed numbers it is not).
    """
    rows = list(rows)
    given = {name for row in rows for name in row}
    tasks = dict.fromkeys(sorted(given - set(RUN_COLUMNS) - set(RECIPE_COLUMNS)), "Float64")
    recipe = RECIPE_COLUMNS if given & set(RECIPE_COLUMNS) else {}
    columns = {
        name: pd.array([row.get(name) for row in rows], dtype=dtype)
        for name, dtype in {**RUN_COLUMNS, **tasks, **recipe}.items()
    }
    return pd.DataFrame(columns)


def task_names(table: pd.DataFrame) -> list[str]:
    """The tasks that a table of runs has scores of, their average among them."""
    return [str(name) for name in table.columns if f"{name}_stderr" in table.columns]
