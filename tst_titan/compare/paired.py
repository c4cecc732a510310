"""Fair comparisons of arms with the baseline, each from a table of runs.

The table has one row a run with `run, arm, model, bag_size, step_ratio, steps, seed, learning_rate, data_tokens`
and the compared numbers. A baseline run has bag size 1 or step ratio 0. Runs are replicates where all but the
seed agrees; which are set against each other is `tst_titan.compare.pairing`'s. All intervals are 90%.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from tst_titan.compare.intervals import LEVEL, Interval
from tst_titan.compare.pairing import Pair, equal_data_pairs, equal_flops_pairs


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline of one number at equal cost; see `equal_flops` and `equal_data` for the estimators.

    `by_seed`: the differences of the shared seeds, where `paired`. `simultaneous` holds for all `num_arms` arms that
    share `baseline_runs` together (`many_arms.py`); None for an arm alone.
    """

    label: str
    model: str
    steps: int
    column: str
    arm_value: float
    baseline_value: float
    interval: Interval
    p_value: float | None
    num_pairs: int
    paired: bool
    runs: tuple[str, ...]
    remark: str = ""
    baseline_runs: tuple[str, ...] = ()
    by_seed: Mapping[int, float] = field(default_factory=dict)
    simultaneous: Interval | None = None
    num_arms: int = 1

    @property
    def value(self) -> float:
        return self.arm_value - self.baseline_value


def equal_flops(table: pd.DataFrame, column: str) -> list[Difference]:
    """Arm minus baseline at equal FLOPs, within 1% (`equal_flops_pairs`).

    Estimator: where at least two seeds are shared, the mean of the differences by seed with the paired t
    interval and p-value; else the difference of the means, with Welch's t where both sides have two seeds; with
    one seed on a side there is no interval, and it says so.
    """
    pairs = equal_flops_pairs(table[table[column].notna()])
    return [_difference(pair, column) for pair in pairs if isinstance(pair, Pair)]


def equal_data(table: pd.DataFrame, column: str) -> list[Difference]:
    """Arm minus baseline where the baseline read the same number of data tokens (up to `SAME_DATA`; the nearest
    budget).

    The baseline then took more steps, so more FLOPs: this comparison asks what repetition-free data is worth.
    Estimator as in `equal_flops`.
    """
    pairs = equal_data_pairs(table[table[column].notna()])
    return [_difference(pair, column) for pair in pairs if isinstance(pair, Pair)]


def _difference(pair: Pair, column: str) -> Difference:
    rows, others = pair.rows, pair.baseline
    arm = rows.set_index("seed")[column].astype(float)
    baseline = others.set_index("seed")[column].astype(float)
    shared = arm.index.intersection(baseline.index)
    paired = len(shared) >= 2
    if paired:
        arm, baseline = arm[shared], baseline[shared]
    interval, p_value = _t_interval(arm.to_numpy(), baseline.to_numpy(), paired)
    return Difference(
        label=pair.label,
        model=str(rows["model"].iloc[0]),
        steps=int(rows["steps"].iloc[0]),
        column=column,
        arm_value=float(arm.mean()),
        baseline_value=float(baseline.mean()),
        interval=interval,
        p_value=p_value,
        num_pairs=len(shared) if paired else min(len(arm), len(baseline)),
        paired=paired,
        runs=pair.runs,
        remark=pair.remark,
        baseline_runs=tuple(others["run"]),
        by_seed=(arm - baseline).to_dict() if paired else {},
    )


def _t_interval(arm: np.ndarray, baseline: np.ndarray, paired: bool) -> tuple[Interval, float | None]:
    if paired:
        differences = arm - baseline
        variance = differences.var(ddof=1) / len(differences)
        degrees = len(differences) - 1.0
    elif len(arm) >= 2 and len(baseline) >= 2:
        parts = arm.var(ddof=1) / len(arm), baseline.var(ddof=1) / len(baseline)
        variance = sum(parts)
        if variance == 0:
            degrees = float(len(arm) + len(baseline) - 2)
        else:
            degrees = variance**2 / (parts[0] ** 2 / (len(arm) - 1) + parts[1] ** 2 / (len(baseline) - 1))
    else:
        return Interval(absent_because="one seed: there is no measure of the noise between seeds"), None
    center = arm.mean() - baseline.mean()
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
    if error == 0:
        p_value = 0.0 if center else 1.0
    else:
        p_value = float(2 * stats.t.sf(abs(center) / error, degrees))
    return Interval(float(center - half), float(center + half)), p_value
