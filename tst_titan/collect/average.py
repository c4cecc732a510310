"""The average of downstream scores, as published."""

import math
from collections.abc import Mapping
from typing import Any

from tst_titan.study.catalogue import PAPER_TASKS

AVERAGE = "average"
# As published: the arithmetic mean of the suite without MMLU.
AVERAGED = tuple(task for task in PAPER_TASKS if task != "mmlu")


def average_score(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The mean of the seven tasks' scores in a row of the table of runs, and its standard error.

    None where one of them is missing: a mean over fewer tasks is another number. The standard error is that of a mean
    of independent scores, sqrt(sum of squares) / 7: sampling of questions, not the noise between seeds.
    """
    scores = [row[task] for task in AVERAGED if row.get(task) is not None]
    if len(scores) < len(AVERAGED):
        return None, None
    errors = [row[f"{task}_stderr"] for task in AVERAGED if row.get(f"{task}_stderr") is not None]
    mean = math.fsum(scores) / len(scores)
    if len(errors) < len(AVERAGED):
        return mean, None
    return mean, math.sqrt(math.fsum(error**2 for error in errors)) / len(errors)
