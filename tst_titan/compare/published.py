"""The published values' own comparisons, beside those of a study."""

import pandas as pd

from tst_titan.compare.equal_loss import ReadOff, equal_loss
from tst_titan.compare.paired import Difference, equal_data, equal_flops
from tst_titan.compare.variants import VARIANT


class PublishedComparisons:
    """The comparisons of a table of runs, made of the published values (`column`) of the same runs by the same
    estimators."""

    def __init__(self, table: pd.DataFrame, column: str):
        self._variants: dict[str, tuple] = {}
        self._values: dict[tuple[str, tuple], tuple[float, str]] = {}
        if column not in table.columns:
            return
        keys = [*(name for name in VARIANT if name in table.columns), "steps"]
        for row in table.to_dict("records"):
            self._variants[row["run"]] = tuple(str(row[key]) for key in keys)
        printed = table[table[column].notna()]
        # One printed value stands for all seeds.
        printed = printed.groupby(keys, dropna=False, sort=False).head(1)
        for kind, items in (
            ("equal FLOPs", equal_flops(printed, column)),
            ("equal data", equal_data(printed, column)),
        ):
            for item in items:
                self._values[kind, self._variants[item.runs[0]]] = item.value, ""
        for read_off in equal_loss(printed, column):
            self._values["equal loss", self._variants[read_off.runs[0]]] = read_off.speedup, read_off.bound

    def of(self, kind: str, item: Difference | ReadOff) -> tuple[float | None, str]:
        """The published counterpart of a comparison and the kind of bound that it is; None where there is none."""
        return self._values.get((kind, self._variants.get(item.runs[0], ())), (None, ""))
