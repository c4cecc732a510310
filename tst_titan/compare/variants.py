"""Which rows of a table of runs are replicates and variants of an arm.

The table has one row a run with `run, arm, model, bag_size, step_ratio, steps, seed, learning_rate` and any columns of
`RECIPE`. A baseline run has bag size 1 or step ratio 0. Runs are replicates where the whole recipe agrees and the seed
alone does not: a seed that stands twice in a variant is no replicate but a mistake (`ambiguous`).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

# How bags are made; an arm's `own_fields` name superposition_steps, which step_ratio tells.
SUPERPOSITION = ("bag_size", "step_ratio", "superposition_steps", "bag_weighting", "superpose", "reinit_embeddings")  # fmt: skip  # noqa: E501
# Fields of the recipe beside the model, bags and learning rate: training, text, the model's shape.
RECIPE = (
    "seq_len",
    "sequences_per_step",
    "warmup_steps",
    "decay_fraction",
    "decay_to",
    "beta1",
    "beta2",
    "adam_eps",
    "weight_decay",
    "max_grad_norm",
    "precision",
    "attention",
    "block_tokens",
    "corpus",
    "architecture",
    "dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "ffn_dim",
    "vocab_size",
    "tied_embeddings",
    "rope_theta",
    "norm_eps",
    "num_experts",
    "top_k",
    "expert_ffn_dim",
    "load_balance_coeff",
)
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
    *RECIPE,
]


def is_baseline(table: pd.DataFrame) -> pd.Series:
    """Runs without superposition."""
    return (table["bag_size"].fillna(1) == 1) | (table["step_ratio"].fillna(0) == 0)


def ambiguous(table: pd.DataFrame) -> pd.Series:
    """Runs of the variants and budgets in which a seed stands twice: which of the two counts is not told."""
    keys = [*(name for name in VARIANT if name in table.columns), "steps"]
    twice = table.duplicated([*keys, "seed"], keep=False)
    if not twice.any():
        return twice
    return twice.groupby([table[key] for key in keys], dropna=False).transform("any")


def variants(table: pd.DataFrame, *, by: tuple[str, ...] = ("steps",)) -> Iterator[tuple[str, pd.DataFrame]]:
    """Groups of replicates, with a label: the arm's name, and what else is needed to tell its variants apart."""
    keys = [name for name in VARIANT if name in table.columns and (name not in RECIPE or _varies(table, name))]
    groups = list(table.groupby([*keys, *by], dropna=False, sort=False))
    # What differs between models alone, such as a learning rate of each model's own, is told by the model.
    varying = {
        arm: [name for name in keys[2:] if rows.groupby("model")[name].nunique(dropna=False).max() > 1]
        for arm, rows in table.groupby("arm", sort=False)
    }
    for _, rows in groups:
        first = rows.iloc[0]
        yield label_of(first, varying[first["arm"]]), rows


def _varies(table: pd.DataFrame, name: str) -> bool:
    return table[name].nunique(dropna=False) > 1


_SYMBOLS = {
    "bag_size": "s",
    "step_ratio": "r",
    "learning_rate": "lr",
    "weight_decay": "wd",
    "warmup_steps": "warmup",
}


def label_of(row: Any, varying: list[str]) -> str:
    """``tst`` or, where the arm is a grid, ``tst s=6 r=0.3``."""
    return " ".join(filter(None, [str(row["arm"]), settings_text(row, varying)]))


def settings_text(row: Any, names: list[str]) -> str:
    """``s=6 r=0.3``: these fields of a run, those that it has."""
    parts = []
    for name in names:
        if pd.notna(row[name]):
            value = row[name]
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            parts.append(f"{_SYMBOLS.get(name, name)}={f'{value:.4g}' if number else value}")
    return " ".join(parts)


def run_labels(table: pd.DataFrame) -> dict[str, str]:
    """For every run its variant's label: runs with one label differ in model, steps and seed alone."""
    keys = [name for name in VARIANT[2:] if name in table.columns and _varies(table, name)]
    # A model's own shape or batch is told by its name.
    varying = {
        arm: [
            name
            for name in keys
            if (
                rows.groupby("model")[name].nunique(dropna=False).max()
                if name in RECIPE
                else rows[name].nunique(dropna=False)
            )
            > 1
        ]
        for arm, rows in table.groupby("arm", sort=False)
    }
    return {str(row["run"]): label_of(row, varying[row["arm"]]) for row in table.to_dict("records")}


def single_seeds(table: pd.DataFrame) -> tuple[list[str], bool]:
    """The variants and budgets with one seed, in words, and whether these are all that the table has."""
    groups = list(table.groupby([table["run"].map(run_labels(table)), "model", "steps"], sort=False))
    single = [
        f"{label}, {model}, {steps} steps" for (label, model, steps), rows in groups if rows["seed"].nunique() == 1
    ]
    return single, len(single) == len(groups)
