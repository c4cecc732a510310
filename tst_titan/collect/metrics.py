"""One segment's `metrics.jsonl` as a table wants it: one row a step, what is wrong with the file as notices."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tst_titan.collect.notices import Notice, damage, listed
from tst_titan.errors import UserError
from tst_titan.metrics_rows import TRAINING, VALIDATION, Columns, read_columns


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
        found = read_columns(path)
    except FileNotFoundError:
        if finished:
            return no_metrics(Notice("damaged", str(path), "missing although the segment is finished"))
        return no_metrics()
    except UserError as error:
        return no_metrics(damage(error))
    notices, columns = [], found.columns
    if found.cut and finished:
        notices.append(Notice("damaged", str(path), "the last line is cut short; it was left out"))
    if found.bad_lines:
        text = f"line {listed(list(found.bad_lines))} cannot be read; left out"
        notices.append(Notice("damaged", str(path), text))
    elif not len(columns["step"]) and finished:
        notices.append(Notice("damaged", str(path), "empty although the segment is finished"))
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


def _one_a_step(columns: Columns, mask: np.ndarray, names: tuple[str, ...]) -> Columns:
    steps = columns["step"][mask]
    # np.unique keeps the first of equal values: of the reversed rows that is the last one written.
    _, reversed_index = np.unique(steps[::-1], return_index=True)
    index = len(steps) - 1 - reversed_index
    return {name: columns[name][mask][index] for name in names}
