"""Read the packaged tables into typed rows."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

SOURCE = "Peng, Gigant, Quesnelle, arXiv 2605.06546"


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A row of Table 1. Tokens in billions as printed (rounded), B200-hours, nats, downstream scores in percent.

    `method` is "baseline", "tst" or "tst_reinit_embeddings" (Table 2).
    """

    method: str
    model: str
    tst_steps: int | None
    total_steps: int
    bag_size: int | None
    tst_data_tokens_b: float | None
    total_data_tokens_b: float
    b200_hours: float
    final_train_loss: float
    hellaswag: float | None
    arc_easy: float | None
    arc_challenge: float | None
    mmlu: float | None
    boolq: float | None
    openbookqa: float | None
    piqa: float | None
    winogrande: float | None


@dataclass(frozen=True, kw_only=True)
class PublishedCell:
    """One cell of a grid over step ratio and bag size. Step ratio 0 with bag size 1 is the baseline.

    `setting` is such as "270M-20k"; `metric` is "final_train_loss" (nats) or "hellaswag_acc_norm".
    """

    setting: str
    bag_weighting: str
    step_ratio: float
    bag_size: int
    metric: str
    value: float


_TABLE1, _GRIDS = "table1.csv", "grids.csv"
_COUNTS = ("tst_steps", "total_steps", "bag_size")
_WORDS = ("method", "model", "setting", "bag_weighting", "metric")


@cache
def published_table1() -> tuple[PublishedRun, ...]:
    """The 13 rows of Table 1, Table 2's ablation among them."""
    return tuple(PublishedRun(**row) for row in _rows(_TABLE1))


@cache
def published_grids() -> tuple[PublishedCell, ...]:
    """Every printed cell of the grids (figures 4, 5, 8 and their tables)."""
    return tuple(PublishedCell(**row) for row in _rows(_GRIDS))


def published_files() -> tuple[Path, ...]:
    """The packaged tables."""
    return tuple(Path(str(files("tst_titan.published") / name)) for name in (_TABLE1, _GRIDS))


def _rows(name: str) -> list[dict]:
    text = (files("tst_titan.published") / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [{key: _value(key, value) for key, value in row.items()} for row in csv.DictReader(lines)]


def _value(key: str, value: str) -> str | int | float | None:
    if key in _WORDS:
        return value
    if value == "":
        return None
    return int(value) if key in _COUNTS else float(value)
