"""All comparisons that a study asks for, and their table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from tst_titan.compare.equal_loss import ReadOff, equal_loss
from tst_titan.compare.intervals import Interval
from tst_titan.compare.many_arms import simultaneous
from tst_titan.compare.over_sizes import PooledDifference, pooled
from tst_titan.compare.paired import Difference, equal_data, equal_flops
from tst_titan.compare.pairing import (
    Pair,
    Refusal,
    ambiguities,
    equal_data_pairs,
    equal_flops_pairs,
    equal_loss_pairs,
)
from tst_titan.compare.published import PublishedComparisons


@dataclass(frozen=True)
class Findings:
    """The comparisons of a study, computed on one column of its table; `refused`: those that were asked for and not
    made."""

    column: str
    flops: tuple[Difference, ...] = ()
    loss: tuple[ReadOff, ...] = ()
    data: tuple[Difference, ...] = ()
    published: PublishedComparisons | None = None
    refused: tuple[Refusal, ...] = ()

    @property
    def pooled(self) -> tuple[PooledDifference, ...]:
        """Differences over several models, each at its longest budget."""
        return (*pooled("equal FLOPs", self.flops), *pooled("equal data", self.data))

    def published_of(self, kind: str, item: Difference | ReadOff) -> tuple[float | None, str]:
        """The paper's value of a comparison of this study, and the kind of bound it is; None where there is none."""
        return (None, "") if self.published is None else self.published.of(kind, item)

    def table(self) -> pd.DataFrame:
        """All of them as one tidy table (`comparisons.csv`)."""
        return comparisons_table(self.flops, self.loss, self.data, self.published_of, self.pooled)


def compare(table: pd.DataFrame, wanted: tuple[str, ...], published: str) -> Findings:
    """The comparisons that a study asks for, of the finished runs of its table; `published`: the column of the paper's
    loss."""
    finished = table[table["status"] == "finished"]
    column = compared_column(finished, wanted)
    return Findings(
        column=column,
        flops=tuple(simultaneous(equal_flops(finished, column))) if "equal_flops" in wanted else (),
        loss=tuple(equal_loss(finished, column)) if "equal_loss" in wanted else (),
        data=tuple(simultaneous(equal_data(finished, column))) if "equal_data" in wanted else (),
        published=PublishedComparisons(table, published) if "published" in wanted else None,
        refused=tuple(refusals(finished[finished[column].notna()], wanted)),
    )


PAIRS = {"equal_flops": equal_flops_pairs, "equal_loss": equal_loss_pairs, "equal_data": equal_data_pairs}


def refusals(table: pd.DataFrame, wanted: tuple[str, ...]) -> Iterator[Refusal]:
    """What is not compared of the runs of a table, and why; nothing is refused of a study that asks for nothing."""
    made = [pairs for name, pairs in PAIRS.items() if name in wanted]
    yield from ambiguities(table) if made else []
    for pairs in made:
        yield from (item for item in pairs(table) if not isinstance(item, Pair))


def compared_column(finished: pd.DataFrame, wanted: tuple[str, ...]) -> str:
    """Which loss of the finished runs is compared: the validation loss where each has one.

    Beside published values it is the final training loss, the one that the paper prints.
    """
    validated = finished["validation_loss"].notna().all() and "published" not in wanted
    return "validation_loss" if validated else "final_train_loss"


PublishedOf = Callable[[str, Difference | ReadOff], tuple[float | None, str]]


def comparisons_table(
    flops: Iterable[Difference],
    loss: Iterable[ReadOff],
    data: Iterable[Difference],
    published_of: PublishedOf = lambda kind, item: (None, ""),
    pooled: Iterable[PooledDifference] = (),
) -> pd.DataFrame:
    """All comparisons as one tidy table. `value` is a difference (arm minus baseline) or, at equal loss, a speedup.

    `published` and `published_bound` are the paper's value of the same comparison, as `published_of(kind, item)` tells
    it. `shape_low` and `shape_high` are the speedups that a curve through two baseline budgets allows, and `value` is
    between them. `simultaneous_low` and `simultaneous_high` hold for all `num_arms` arms of the same baseline runs
    together. `misfit_p` is small where the baseline's budgets lie on no curve of the kind that was read off.
    Last come differences over several models: the comparison is then "equal FLOPs, all models", `steps` the longest
    budget.
    """
    rows = [
        _difference_row(kind, item) | _published_cells(published_of(kind, item))
        for kind, items in (("equal FLOPs", flops), ("equal data", data))
        for item in items
    ]
    for item in loss:
        shapes = item.shape_speedups or (None, None)
        rows.append(
            {
                "comparison": "equal loss",
                "model": item.model,
                "steps": item.steps,
                "arm": item.label,
                "column": item.column,
                "arm_value": item.loss,
                "baseline_value": item.baseline_steps,
                "kind": "speedup",
                "bound": item.bound,
                "value": item.speedup,
                "low": item.interval.low,
                "high": item.interval.high,
                "p_value": None,
                "num_seeds": item.num_seeds,
                "remark": _remark(item),
                "runs": " ".join(item.runs),
                "shape_low": shapes[0],
                "shape_high": shapes[1],
                "misfit_p": item.misfit,
                **_published_cells(published_of("equal loss", item)),
            }
        )
    rows += [_pooled_row(item) for item in pooled]
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


COMPARISON_COLUMNS = [
    "comparison",
    "model",
    "steps",
    "arm",
    "column",
    "arm_value",
    "baseline_value",
    "kind",
    "bound",
    "value",
    "low",
    "high",
    "p_value",
    "num_seeds",
    "remark",
    "runs",
    "published",
    "published_bound",
    "shape_low",
    "shape_high",
    "simultaneous_low",
    "simultaneous_high",
    "num_arms",
    "misfit_p",
]


def _published_cells(found: tuple[float | None, str]) -> dict[str, object]:
    return {"published": found[0], "published_bound": found[1]}


def _pooled_row(item: PooledDifference) -> dict[str, object]:
    return {
        "comparison": f"{item.kind}, all models",
        "model": item.models,
        "steps": max(difference.steps for difference in item.differences),
        "arm": item.label,
        "column": item.column,
        "arm_value": sum(difference.arm_value for difference in item.differences) / len(item.differences),
        "baseline_value": sum(difference.baseline_value for difference in item.differences) / len(item.differences),
        "kind": "difference",
        "bound": "",
        "value": item.value,
        "low": item.interval.low,
        "high": item.interval.high,
        "p_value": item.p_value,
        "num_seeds": len(item.seeds),
        "remark": item.interval.absent_because,
        "runs": " ".join(run for difference in item.differences for run in difference.runs),
    }


def _difference_row(kind: str, item: Difference) -> dict[str, object]:
    together = item.simultaneous or Interval()
    return {
        "comparison": kind,
        "model": item.model,
        "steps": item.steps,
        "arm": item.label,
        "column": item.column,
        "arm_value": item.arm_value,
        "baseline_value": item.baseline_value,
        "kind": "difference",
        "bound": "",
        "value": item.value,
        "low": item.interval.low,
        "high": item.interval.high,
        "p_value": item.p_value,
        "num_seeds": item.num_pairs,
        "remark": _remark(item),
        "runs": " ".join(item.runs),
        "simultaneous_low": together.low,
        "simultaneous_high": together.high,
        "num_arms": item.num_arms,
    }


def _remark(item: Difference | ReadOff) -> str:
    return "; ".join(filter(None, (item.interval.absent_because, item.remark)))
