"""Which baseline runs one scaling law is fitted to: those of one recipe, in one text, in one unit.

A field that differs between models alone (a learning rate of each size's own) belongs to the sizes. A field that
differs within a model makes another law: one for each recipe that all sizes have. Where no recipe has all sizes (each
size's rates are its own), each size stands with the one that ends lowest, and that is said. Losses of one text in
several tokenizers are compared in bits a byte; those of several texts not at all.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tst_titan.compare.scaling_law import CannotFitError
from tst_titan.compare.variants import RECIPE, ambiguous, is_baseline, settings_text

# What losses are measured on, and in.
_TEXT = ("corpus", "text", "tokenizer")
# Bytes of a token of the text that a loss is of.
_BYTES = {"validation_loss": "held_out_bytes_per_token", "final_train_loss": "bytes_per_token"}


@dataclass(frozen=True)
class LawRuns:
    """Baseline runs of one law, arrays of shape [runs]; `name` tells several laws apart, `remark` says how they were
    chosen.

    `params`: active parameters without embedding and head. `with_head`: with the head, None where that is not known.
    `data`: tokens, and `losses`: nats a token; or bytes, and bits a byte (`in_bytes`).
    """

    name: str
    rows: pd.DataFrame
    params: np.ndarray
    with_head: np.ndarray | None
    data: np.ndarray
    losses: np.ndarray
    in_bytes: bool = False
    remark: str = ""

    @property
    def seeds(self) -> np.ndarray:
        return self.rows["seed"].to_numpy()

    @property
    def loss_unit(self) -> str:
        return "bits a byte" if self.in_bytes else "nats a token"

    @property
    def data_unit(self) -> str:
        return "bytes" if self.in_bytes else "data tokens"


@dataclass(frozen=True)
class Unfit:
    """Runs that no law is fitted to, and why; `name` as in `LawRuns`."""

    name: str
    reason: str


def law_runs(table: pd.DataFrame, column: str, sizes: dict[str, float]) -> list[LawRuns | Unfit]:
    """The baseline runs of every law that a table of finished runs allows, and those that belong to none.

    `sizes`: active parameters without embeddings, by model.
    """
    plain = table[is_baseline(table) & table[column].notna() & table["data_tokens"].notna() & ~ambiguous(table)]
    models = set(plain["model"])
    fields = [
        name
        for name in ("learning_rate", *RECIPE)
        if name in plain.columns and plain.groupby("model")[name].nunique(dropna=False).gt(1).any()
    ]
    if not fields:
        return [_law("", plain, column, sizes, "")]
    groups = [rows for _, rows in plain.groupby(fields, dropna=False, sort=False)]
    whole = [rows for rows in groups if set(rows["model"]) == models]
    if not whole:
        best, remark = _best_of_each(plain, fields, column)
        return [_law("", best, column, sizes, remark)]
    laws = [_law(settings_text(rows.iloc[0], fields), rows, column, sizes, "") for rows in whole]
    if len(whole) < len(groups):
        names = [settings_text(rows.iloc[0], fields) for rows in groups if set(rows["model"]) != models]
        laws.append(Unfit("; ".join(names), "not all sizes have this recipe"))
    return laws


def _best_of_each(plain: pd.DataFrame, fields: list[str], column: str) -> tuple[pd.DataFrame, str]:
    """Of each size the recipe that ends lowest at its longest budget, and a remark that says which."""
    chosen, words = [], []
    for model, rows in plain.groupby("model", sort=False):
        recipes = [group for _, group in rows.groupby(fields, dropna=False, sort=False)]
        longest = max(int(group["steps"].max()) for group in recipes)
        best = min(
            (group for group in recipes if (group["steps"] == longest).any()),
            key=lambda group: float(group[group["steps"] == longest][column].astype(float).mean()),
        )
        chosen.append(best)
        words.append(f"{model} {settings_text(best.iloc[0], fields)}")
    text = f"no recipe has all sizes: each stands with the one of its own that ends lowest ({', '.join(words)})"
    return pd.concat(chosen), text


def _law(name: str, rows: pd.DataFrame, column: str, sizes: dict[str, float], remark: str) -> LawRuns | Unfit:
    params = rows["model"].map(sizes).to_numpy(dtype=float)
    heads = "head_params" in rows.columns and rows["head_params"].notna().all()
    law = LawRuns(
        name=name,
        rows=rows,
        params=params,
        with_head=params + rows["head_params"].to_numpy(dtype=float) if heads else None,
        data=rows["data_tokens"].to_numpy(dtype=float),
        losses=rows[column].to_numpy(dtype=float),
        remark=remark,
    )
    try:
        return _in_one_unit(law, column)
    except CannotFitError as error:
        return Unfit(name, str(error))


def _in_one_unit(law: LawRuns, column: str) -> LawRuns:
    rows = law.rows
    several = [name for name in _TEXT if name in rows.columns and rows[name].nunique(dropna=False) > 1]
    if not several:
        return law
    if "text" in several or ("text" not in rows.columns and "corpus" in several):
        names = ", ".join(rows["corpus" if "corpus" in several else "text"].dropna().unique())
        raise CannotFitError(f"the sizes read several corpora ({names}), and losses of different texts do not compare")
    tokenizers = " and ".join(rows["tokenizer"].dropna().unique()) if "tokenizer" in rows.columns else ""
    columns = (_BYTES.get(column, ""), "bytes_per_token")
    if any(name not in rows.columns or rows[name].isna().any() for name in columns):
        raise CannotFitError(
            f"the sizes read their text in several tokenizers ({tokenizers}): nats a token of one are not those of "
            "another, and the bytes a token are not known"
        )
    of_loss, of_data = (rows[name].to_numpy(dtype=float) for name in columns)
    words = f"the sizes read one text in several tokenizers ({tokenizers}): the loss is in bits a byte and D in bytes"
    return replace(
        law,
        data=law.data * of_data,
        losses=law.losses / of_loss / math.log(2),
        in_bytes=True,
        remark="; ".join(filter(None, (law.remark, words))),
    )
