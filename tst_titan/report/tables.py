"""The tables of a study as files: runs, curves, evaluations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from tst_titan.collect.runs import RunRecord
from tst_titan.collect.tables import task_names
from tst_titan.files import whole_file, write_text
from tst_titan.formats import duration, number, scientific, short, whole, with_error
from tst_titan.metrics_rows import TRAINING, VALIDATION, Columns
from tst_titan.shown import csv_text, markdown_text

_CURVE_SCHEMA = pa.schema(
    [
        ("run", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int64()),
        ("phase", pa.dictionary(pa.int32(), pa.string())),
        ("bag_size", pa.int32()),
        *((name, pa.float64()) for name in TRAINING + VALIDATION),
    ]
)
_EVALUATION_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("segment", pa.string()),
        ("step", pa.int64()),
        ("group", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("stderr", pa.float64()),
        ("higher_is_better", pa.bool_()),
        ("num_samples", pa.int64()),
        ("version", pa.string()),
        ("lm_eval_version", pa.string()),
        ("shown", pa.bool_()),
        ("published", pa.float64()),
        ("file", pa.string()),
    ]
)


def write_runs(table: pd.DataFrame, folder: Path) -> None:
    """Write `table.csv`, `runs.parquet` (both whole) and `table.md` (the columns that people read)."""
    write_csv(table, folder / "table.csv")
    with whole_file(folder / "runs.parquet") as part:
        table.to_parquet(part, index=False)
    write_text(folder / "table.md", markdown(table))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole, numbers in full; what is missing is an empty field."""
    texts = [name for name, column in table.items() if not pd.api.types.is_numeric_dtype(column)]
    safe = {name: table[name].map(lambda cell: csv_text(cell) if isinstance(cell, str) else cell) for name in texts}
    table = table.assign(**safe).rename(columns=csv_text)
    with whole_file(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def write_evaluations(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write `evaluations.parquet`: one row a run, task and metric."""
    tidy = [row | {"num_samples": row["num_samples"] if isinstance(row["num_samples"], int) else None} for row in rows]
    with whole_file(folder / "evaluations.parquet") as part:
        pyarrow.parquet.write_table(pa.Table.from_pylist(tidy, schema=_EVALUATION_SCHEMA), part)


@contextmanager
def curves_writer(path: Path) -> Iterator[Callable[[RunRecord], None]]:
    """Write `curves.parquet` a run at a time: yields the function that appends one run's rows.

    The training rows come first, in step order, then the validation rows; a number that a row does not have is null.
    """
    with whole_file(path) as part:
        writer = pyarrow.parquet.ParquetWriter(
            part,
            _CURVE_SCHEMA,
            compression="zstd",
            use_dictionary=["run", "phase"],
            # Bytes of equal rank together: half the size at the same speed.
            use_byte_stream_split=[*TRAINING, *VALIDATION],
        )

        def add(record: RunRecord) -> None:
            for columns in (record.training, record.validation):
                writer.write_table(_curve_table(record, columns))

        try:
            yield add
        finally:
            writer.close()


def _curve_table(record: RunRecord, columns: Columns) -> pa.Table:
    steps = columns["step"].astype(np.int64)
    ends = np.array([stage.end_step for stage in record.stages])
    index = np.minimum(np.searchsorted(ends, steps), len(ends) - 1)
    phases = [stage.name for stage in record.stages]
    bag_sizes = np.array([stage.bag_size for stage in record.stages], dtype=np.int32)
    missing = pa.nulls(len(steps), pa.float64())
    numbers = [
        pa.array(columns[name], from_pandas=True) if name in columns else missing for name in TRAINING + VALIDATION
    ]
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(steps), dtype=np.int32)), [record.run.run]),
        pa.array(steps),
        pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), phases),
        pa.array(bag_sizes[index]),
        *numbers,
    ]
    return pa.Table.from_arrays(arrays, schema=_CURVE_SCHEMA)


def markdown(table: pd.DataFrame) -> str:
    """The runs as a Markdown table: identity, tokens, losses, scores with their standard errors."""
    header, rows = readable(table)
    aligned = [":--" if name in ("run", "status") else "--:" for name in header]
    lines = [header, aligned, *rows]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines) + "\n"


def readable(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table that people read: rounded, with units, an em dash where nothing is."""
    tasks = task_names(table)
    published = {name for name in table.columns if name.startswith("published_")}
    header = [
        "run",
        "s",
        "r",
        "steps",
        "seed",
        "equivalent tokens",
        "data tokens",
        "FLOPs",
        "final training loss",
    ]
    with_loss = "published_final_train_loss" in published
    header += ["published"] if with_loss else []
    header += ["validation loss"]
    for task in tasks:
        header += [task, "published"] if f"published_{task}" in published else [task]
    header += ["wall-clock", "status"]
    rows = []
    for row in table.to_dict("records"):
        cells = [str(row["run"]), whole(row["bag_size"]), number(row["step_ratio"], 3), whole(row["steps"])]
        cells += [whole(row["seed"]), short(row["equivalent_tokens"]), short(row["data_tokens"])]
        cells += [
            scientific(row["flops"]),
            number(row["final_train_loss"], 4),
            *([number(row["published_final_train_loss"], 4)] if with_loss else []),
            number(row["validation_loss"], 4),
        ]
        for task in tasks:
            cells.append(with_error(row[task], row[f"{task}_stderr"]))
            if f"published_{task}" in published:
                cells.append(number(row[f"published_{task}"], 4))
        rows.append([*cells, duration(row["wall_clock_s"]), str(row["status"])])
    return header, rows
