"""Reading `metrics.jsonl` (docs/files.md): whole files as rows or columns, running ones by their last rows.

A job that is killed while it writes leaves a last line without its end: it counts for nothing, to every reader.
"""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from tst_titan.bounds import METRICS_BYTES, read_file
from tst_titan.errors import UserError

# The numbers of a row that tables and curves use; `phase` and `bag_size` follow from the plan.
TRAINING = (
    "loss",
    "grad_norm",
    "learning_rate",
    "equivalent_tokens",
    "data_tokens",
    "flops",
    "step_time_s",
    "tokens_per_s",
    "data_tokens_per_s",
)
VALIDATION = ("validation_loss", "validation_tokens")
SCHEMA = pa.schema([("step", pa.int64())] + [(name, pa.float64()) for name in TRAINING + VALIDATION])
# The last rows are looked for in this much of a file's end, which holds hundreds of them.
_BLOCK_BYTES, _MOST_BYTES = 1 << 14, 1 << 20

Row = dict[str, Any]
Columns = dict[str, np.ndarray]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows in the order of the file; none where there is no file.

    Raises `UserError` at a line that is no row, and for a file above `METRICS_BYTES`.
    """
    try:
        content = read_file(path, METRICS_BYTES)
    except FileNotFoundError:
        return
    for number, line in enumerate(io.BytesIO(content), start=1):
        if line.endswith(b"\n") and line.strip():
            row = _row(line)
            if row is None:
                raise UserError(f"line {number} is no row; delete that line, or bring the file back", where=path)
            yield row


def last_training_rows(path: Path, count: int) -> list[Row]:
    """The last `count` rows with a training loss, the newest last, read from the file's end; damaged lines are passed
    over."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            wanted = _BLOCK_BYTES
            while True:
                start = max(0, size - wanted)
                file.seek(start)
                # The first line of a part has lost its beginning, unless the part begins with the file.
                lines = file.read(size - start).split(b"\n")[bool(start) : -1]
                rows = _training_rows(lines, count)
                if len(rows) == count or not start or wanted >= _MOST_BYTES:
                    return rows
                wanted *= 4
    except OSError:
        return []


def _training_rows(lines: list[bytes], count: int) -> list[Row]:
    rows: list[Row] = []
    for line in reversed(lines):
        row = _row(line)
        if row is not None and "loss" in row:
            rows.append(row)
            if len(rows) == count:
                break
    return rows[::-1]


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


@dataclass(frozen=True)
class RowColumns:
    """All rows of a file as columns of `SCHEMA`, a missing number NaN, in the order of the file.

    `cut`: whether the last line has no end. `bad_lines`: the numbers of the lines that are no rows, which are left out.
    """

    columns: Columns
    cut: bool = False
    bad_lines: tuple[int, ...] = ()


def read_columns(path: Path) -> RowColumns:
    """The numbers of all rows. Raises `FileNotFoundError`, and `UserError` for a file above `METRICS_BYTES`.

    Arrow's JSON reader takes whole files (about 200 MB/s); only a file that it refuses is read line by line, so that
    the damaged lines can be named and the others kept.
    """
    content = read_file(path, METRICS_BYTES)
    whole = content[: content.rfind(b"\n") + 1]
    bad_lines: tuple[int, ...] = ()
    if not whole or whole.isspace():
        table = SCHEMA.empty_table()
    else:
        try:
            table = _read_fast(whole)
        except pa.ArrowInvalid:
            table, bad_lines = _read_slowly(whole)
    columns = {name: table[name].to_numpy() for name in SCHEMA.names}
    return RowColumns(columns, len(whole) < len(content), bad_lines)


def _read_fast(content: bytes) -> pa.Table:
    options = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    # Files are read beside each other (`collect.runs`), so that threads for the blocks of one would only wait for each
    # other.
    blocks = pyarrow.json.ReadOptions(use_threads=False, block_size=1 << 22)
    table = pyarrow.json.read_json(io.BytesIO(content), read_options=blocks, parse_options=options)
    if table["step"].null_count:
        raise pa.ArrowInvalid("a row without a step")
    return table


def _read_slowly(content: bytes) -> tuple[pa.Table, tuple[int, ...]]:
    rows, bad_lines = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            numbers = {name: float(row[name]) for name in SCHEMA.names[1:] if row.get(name) is not None}
            rows.append({"step": int(row["step"]), **numbers})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            bad_lines.append(number)
    return pa.Table.from_pylist(rows, schema=SCHEMA), tuple(bad_lines)
