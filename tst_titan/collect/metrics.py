"""Read one segment's `metrics.jsonl` into columns.

Arrow's JSON reader takes whole files (about 200 MB/s); only a file that it refuses is read line by line, so that
the damaged lines can be named and the others kept.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json

from tst_titan.bounds import METRICS_BYTES, read_file
from tst_titan.collect.notices import Notice, listed
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

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Metrics:
    """Rows of one segment in step order, one a step. Both column sets start with `step`; missing is NaN."""

    training: Columns
    validation: Columns
    notices: tuple[Notice, ...] = field(default=())


def no_metrics(*notices: Notice) -> Metrics:
    """Metrics of a segment that has none yet."""
    return Metrics(
        {name: np.empty(0) for name in ("step", *TRAINING)},
        {name: np.empty(0) for name in ("step", *VALIDATION)},
        notices,
    )


def read_metrics(path: Path, *, first_step: int, last_step: int, finished: bool) -> Metrics:
    """Read the rows of the steps `first_step` <= step <= `last_step` of a `metrics.jsonl`.

    A step that was logged twice (the run went on from an older checkpoint) counts once: the last row wins. A
    cut last line is normal while the segment runs and a notice once it is finished. Rows without a readable
    step are dropped, and named; a loss that is no finite number stays in the column as NaN or infinity, and is named.
    """
    try:
        content = read_file(path, METRICS_BYTES)
    except FileNotFoundError:
        if finished:
            return no_metrics(Notice("damaged", str(path), "missing although the segment is finished"))
        return no_metrics()
    except UserError as error:
        return no_metrics(Notice("damaged", str(path), str(error).removeprefix(f"{path}: ")))
    notices = []
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content) and finished:
        notices.append(Notice("damaged", str(path), "the last line is cut short; it was left out"))
    if not whole or whole.isspace():
        if finished:
            notices.append(Notice("damaged", str(path), "empty although the segment is finished"))
        return no_metrics(*notices)
    try:
        table = _read_fast(whole)
    except pa.ArrowInvalid:
        table, bad_lines = _read_slowly(whole)
        if bad_lines:
            text = f"line {listed(bad_lines)} cannot be read; left out"
            notices.append(Notice("damaged", str(path), text))
    columns = {name: table[name].to_numpy() for name in SCHEMA.names}
    steps = columns["step"]
    inside = (steps >= first_step) & (steps <= last_step)
    if not inside.all():
        text = f"{int((~inside).sum())} rows lie outside the segment's steps {first_step} to {last_step}; left out"
        notices.append(Notice("damaged", str(path), text))
    is_validation = ~np.isnan(columns["validation_loss"]) | ~np.isnan(columns["validation_tokens"])
    training = _one_a_step(columns, inside & ~is_validation, ("step", *TRAINING))
    validation = _one_a_step(columns, inside & is_validation, ("step", *VALIDATION))
    for name, rows in (("loss", training), ("validation_loss", validation)):
        bad_steps = rows["step"][~np.isfinite(rows[name])].astype(int).tolist()
        if bad_steps:
            text = f"{name} is not a finite number at step {listed(bad_steps)}"
            notices.append(Notice("damaged", str(path), text))
    return Metrics(training, validation, tuple(notices))


def _read_fast(content: bytes) -> pa.Table:
    options = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    # Files are read beside each other (`runs`), so that threads for the blocks of one would only wait for each other.
    blocks = pyarrow.json.ReadOptions(use_threads=False, block_size=1 << 22)
    table = pyarrow.json.read_json(io.BytesIO(content), read_options=blocks, parse_options=options)
    if table["step"].null_count:
        raise pa.ArrowInvalid("a row without a step")
    return table


def _read_slowly(content: bytes) -> tuple[pa.Table, list[int]]:
    rows, bad_lines = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            numbers = {name: float(row[name]) for name in SCHEMA.names[1:] if row.get(name) is not None}
            rows.append({"step": int(row["step"]), **numbers})
        except (ValueError, TypeError, KeyError, AttributeError):
            bad_lines.append(number)
    return pa.Table.from_pylist(rows, schema=SCHEMA), bad_lines


def _one_a_step(columns: Columns, mask: np.ndarray, names: tuple[str, ...]) -> Columns:
    steps = columns["step"][mask]
    # np.unique keeps the first of equal values: of the reversed rows that is the last one written.
    _, reversed_index = np.unique(steps[::-1], return_index=True)
    index = len(steps) - 1 - reversed_index
    return {name: columns[name][mask][index] for name in names}
