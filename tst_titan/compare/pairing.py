"""Which runs a comparison sets against each other, or why it sets none.

An arm is compared with baseline runs that differ from it in the arm's own fields alone: those of superposition, and
those that the arm itself sets (column `own_fields`). Of several such baselines the one that differs in the fewest
fields is taken, and what it differs in beside superposition is said. A plain arm with fields of its own is compared
like any other, with the plain runs of the arms that have none. What cannot be compared is a `Refusal` with its reason,
never a silence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tst_titan.compare.variants import RECIPE, SUPERPOSITION, ambiguous, is_baseline, variants

# Relative difference of FLOPs up to which two runs cost the same.
SAME_FLOPS = 0.01
# And of data tokens up to which they read as many.
SAME_DATA = 0.02
# What sizes a step.
_STEP_SIZE = {"seq_len", "sequences_per_step"}


@dataclass(frozen=True)
class Pair:
    """A variant's runs at one budget, and the baseline's runs that they are compared with; `remark`: what a reader must
    know of the choice."""

    label: str
    rows: pd.DataFrame
    baseline: pd.DataFrame
    remark: str = ""

    @property
    def runs(self) -> tuple[str, ...]:
        return (*self.rows["run"], *self.baseline["run"])


@dataclass(frozen=True)
class Refusal:
    """Runs of a variant that are not compared, and why; `comparison` is "" where it is none of them."""

    comparison: str
    label: str
    model: str
    steps: int
    reason: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class _Plain:
    """Baseline runs of one recipe, all of its budgets, and the fields in which an arm's runs differ from them."""

    rows: pd.DataFrame
    differing: tuple[str, ...]


# The fields of a recipe, and its baseline runs.
_Recipe = tuple[dict[str, Any], pd.DataFrame]
# The baseline's rows to compare with and a remark, or the reason why there are none.
_Choice = tuple[pd.DataFrame, str] | str
_Choose = Callable[[pd.DataFrame, _Plain], _Choice]


def equal_flops_pairs(table: pd.DataFrame) -> list[Pair | Refusal]:
    """Every variant and budget with the baseline's runs of as many FLOPs (where FLOPs are not known: of as many
    steps)."""
    return _pairs(table, "equal FLOPs", _same_flops)


def equal_data_pairs(table: pd.DataFrame) -> list[Pair | Refusal]:
    """Every variant and budget with the baseline's nearest budget in data tokens, at most `SAME_DATA` away."""
    return _pairs(table, "equal data", _same_data)


def equal_loss_pairs(table: pd.DataFrame) -> list[Pair | Refusal]:
    """Every variant and budget with all budgets of the baseline; not where their steps cost different FLOPs."""
    return _pairs(table, "equal loss", _all_budgets)


def ambiguities(table: pd.DataFrame) -> list[Refusal]:
    """The variants in which a seed stands twice; no comparison uses them."""
    refusals = []
    # Labelled as in the whole table.
    for label, rows in variants(table):
        if not ambiguous(rows).any():
            continue
        twice = rows[rows.duplicated("seed", keep=False)]
        reason = f"{_twice(twice)}: leave one out, or give it a seed of its own"
        refusals.append(_refusal("", label, rows, reason))
    return refusals


def _pairs(table: pd.DataFrame, comparison: str, choose: _Choose) -> list[Pair | Refusal]:
    table = _narrow(table[~ambiguous(table)])
    plain = table[is_baseline(table)]
    # Of many fields few vary: the others need no look.
    fields = [name for name in _recipe_fields(table) if table[name].nunique(dropna=False) > 1]
    compared = _arms_of_their_own(plain)
    found: list[Pair | Refusal] = []
    for arms, baselines in ((table[~is_baseline(table)], plain), (plain[compared], plain[~compared])):
        recipes: dict[str, list[_Recipe]] = {}
        # Whichever arm they are of, and however their bags would have been.
        for _, rows in baselines.groupby(["model", *fields], dropna=False, sort=False):
            recipes.setdefault(str(rows["model"].iloc[0]), []).append((_values(rows, fields), rows))
        for label, rows in variants(arms):
            values, of_model = _values(rows, fields), recipes.get(str(rows["model"].iloc[0]), [])
            plains = [
                _Plain(others, tuple(name for name in fields if values[name] != theirs[name]))
                for theirs, others in of_model
            ]
            found.append(_pair(comparison, label, rows, plains, choose))
    return found


def _pair(comparison: str, label: str, rows: pd.DataFrame, of_model: list[_Plain], choose: _Choose) -> Pair | Refusal:
    first = rows.iloc[0]
    if not of_model:
        return _refusal(comparison, label, rows, f"there is no baseline of {first['model']}")
    own = {*SUPERPOSITION, *_own_fields(first)}
    # By the number of fields that differ: sorting keeps the table's order among equals.
    fair = sorted((item for item in of_model if own.issuperset(item.differing)), key=_distance)
    if not fair:
        nearest = min(of_model, key=_distance)
        fields = [name for name in nearest.differing if name not in own]
        reason = f"no baseline differs in the arm's own fields alone; the nearest differs in {_listed(fields)}"
        return _refusal(comparison, label, rows, reason)
    reasons = []
    chosen: list[tuple[_Plain, pd.DataFrame, str]] = []
    for item in fair:
        if chosen and _distance(item) > _distance(chosen[0][0]):
            break
        choice = choose(rows, item)
        if isinstance(choice, str):
            reasons.append(choice)
        else:
            chosen.append((item, *choice))
    if not chosen:
        return _refusal(comparison, label, rows, reasons[0])
    if len(chosen) > 1:
        fields = sorted({name for item, _, _ in chosen for name in item.differing})
        reason = (
            f"{len(chosen)} baselines are equally near; they differ from it, and from each other, in {_listed(fields)}"
        )
        return _refusal(comparison, label, rows, reason)
    item, baseline, remark = chosen[0]
    if (repeated := baseline.duplicated(["steps", "seed"], keep=False)).any():
        twice = baseline[repeated]
        return _refusal(comparison, label, rows, f"of its baseline {_twice(twice)}")
    differs = ", ".join(
        f"{name} {_shown(first[name])} against {_shown(item.rows[name].iloc[0])}" for name in item.differing
    )
    also = "differs" if is_baseline(rows).iloc[0] else "also differs"
    remarks = [f"the arm {also} in {differs}" if differs else "", remark]
    return Pair(label, rows, baseline, "; ".join(filter(None, remarks)))


def _narrow(table: pd.DataFrame) -> pd.DataFrame:
    """The table without fields that do not vary, in numpy's types: cutting thousands of rows out of it takes no
    time."""
    columns = {}
    for name, column in table.items():
        if name in RECIPE and column.nunique(dropna=False) == 1:
            continue
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            columns[name] = column.to_numpy(dtype=float, na_value=np.nan) if column.isna().any() else column.to_numpy()
        else:
            columns[name] = column.astype(object).to_numpy()
    return pd.DataFrame(columns)


def _distance(plain: _Plain) -> int:
    return len(plain.differing)


def _arms_of_their_own(plain: pd.DataFrame) -> pd.Series:
    """Plain runs that are compared as an arm: with fields of their own, beside plain runs without, or, where all have
    some, of a later arm."""
    own = pd.Series([bool(_own_fields(row)) for row in plain.to_dict("records")], index=plain.index, dtype=bool)
    none_without = ~(~own).groupby(plain["model"]).transform("any") if len(plain) else own
    first = plain["arm"] == plain.groupby("model")["arm"].transform("first") if len(plain) else own
    return own & ~(none_without & first)


def _own_fields(row: Any) -> tuple[str, ...]:
    """The fields of the recipe that the run's arm sets itself, superposition aside."""
    written = row.get("own_fields")
    names = () if written is None or pd.isna(written) else str(written).split()
    return tuple(name for name in names if name not in SUPERPOSITION)


def _recipe_fields(table: pd.DataFrame) -> list[str]:
    return [name for name in ("learning_rate", *RECIPE) if name in table.columns]


def _values(rows: pd.DataFrame, fields: list[str]) -> dict[str, Any]:
    """The fields of runs of one recipe; what is not known is None, and equal to None."""
    first = rows.iloc[0]
    return {name: None if pd.isna(first[name]) else first[name] for name in fields}


def _same_flops(rows: pd.DataFrame, plain: _Plain) -> _Choice:
    steps = int(rows["steps"].iloc[0])
    flops, by_budget = _mean(rows, "flops"), _by_budget(plain.rows, "flops")
    if flops is None or not by_budget:
        equal = plain.rows[plain.rows["steps"] == steps]
        if not len(equal):
            return f"the baseline has no finished run of {steps} steps"
        if fields := _STEP_SIZE.intersection(plain.differing):
            return f"FLOPs are not known, and a step of another {_listed(sorted(fields))} costs others"
        return equal, ""
    nearest = min(by_budget, key=lambda budget: abs(by_budget[budget] / flops - 1))
    same = [budget for budget in by_budget if abs(by_budget[budget] / flops - 1) <= SAME_FLOPS]
    budget = steps if steps in same else nearest
    if budget not in same:
        ratio = by_budget[nearest] / flops
        return f"the baseline's nearest budget, {nearest} steps, took {ratio:.3g} times the arm's FLOPs"
    remark = "" if budget == steps else f"equal FLOPs are {budget} steps of the baseline"
    return plain.rows[plain.rows["steps"] == budget], remark


def _same_data(rows: pd.DataFrame, plain: _Plain) -> _Choice:
    tokens, by_budget = _mean(rows, "data_tokens"), _by_budget(plain.rows, "data_tokens")
    if tokens is None or not by_budget:
        return "its data tokens or the baseline's are not known"
    distances = {budget: abs(found / tokens - 1) for budget, found in by_budget.items()}
    near = sorted(budget for budget, distance in distances.items() if distance <= SAME_DATA)
    if not near:
        return f"no budget of the baseline read within {SAME_DATA:.0%} of its data tokens"
    nearest = min(near, key=lambda budget: distances[budget])
    remark = ""
    if len(near) > 1:
        budgets = " and ".join(str(budget) for budget in near)
        remark = (
            f"{budgets} steps of the baseline read within {SAME_DATA:.0%} of its data tokens; taken: the nearest, "
            f"{nearest}"
        )
    return plain.rows[plain.rows["steps"] == nearest], remark


def _all_budgets(rows: pd.DataFrame, plain: _Plain) -> _Choice:
    cost, baseline_cost = _step_cost(rows), _step_cost(plain.rows)
    if cost is None or baseline_cost is None:
        if fields := _STEP_SIZE.intersection(plain.differing):
            return f"a step of another {_listed(sorted(fields))} is no step of the baseline"
    elif abs(cost / baseline_cost - 1) > SAME_FLOPS:
        return (
            f"a step of the arm takes {cost / baseline_cost:.3g} times the FLOPs of a baseline's: a ratio of steps is "
            "none of costs"
        )
    return plain.rows, ""


def _step_cost(rows: pd.DataFrame) -> float | None:
    if "flops" not in rows.columns:
        return None
    known = rows[rows["flops"].notna()]
    return float((known["flops"].astype(float) / known["steps"].astype(float)).mean()) if len(known) else None


def _mean(rows: pd.DataFrame, name: str) -> float | None:
    known = rows[name].dropna().to_numpy(dtype=float) if name in rows.columns else np.empty(0)
    return float(known.mean()) if len(known) else None


def _by_budget(rows: pd.DataFrame, name: str) -> dict[int, float]:
    means = {int(steps): _mean(group, name) for steps, group in rows.groupby("steps", sort=True)}
    return {steps: mean for steps, mean in means.items() if mean is not None}


def _refusal(comparison: str, label: str, rows: pd.DataFrame, reason: str) -> Refusal:
    first = rows.iloc[0]
    return Refusal(comparison, label, str(first["model"]), int(first["steps"]), reason, tuple(rows["run"]))


def _twice(rows: pd.DataFrame) -> str:
    """``seed 0 stands twice (run-a, run-b)``"""
    seeds: Iterator[Any] = iter(rows["seed"])
    seed = next(seeds)
    runs = rows[rows["seed"].isna() if pd.isna(seed) else rows["seed"] == seed]["run"]
    name = "a run without a seed" if pd.isna(seed) else f"seed {seed}"
    return f"{name} stands {'twice' if len(runs) == 2 else f'{len(runs)} times'} ({', '.join(runs)})"


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "unknown"
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
    return f"{value:.6g}" if number else str(value)
