"""Figures of what was compared and what it cost: the three fair comparisons side by side, hours by arm."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tst_titan.collect.study import SegmentCost
from tst_titan.compare.equal_loss import ReadOff
from tst_titan.compare.findings import Findings
from tst_titan.compare.intervals import Interval
from tst_titan.compare.paired import Difference
from tst_titan.formats import short
from tst_titan.report.charts import Row, RowChart, first_rows
from tst_titan.report.words import column_name, value_words

RINGS = " Rings: the published values of the same."


def three_way_charts(findings: Findings, colors: Mapping[str, int]) -> list[RowChart]:
    """Arm against baseline at equal FLOPs, equal loss and equal data: a chart each, of those that the study has."""
    nats = f"{column_name(findings.column)}, arm minus baseline (nats a token)"
    charts = []
    for kind, items in (
        ("equal FLOPs", findings.flops),
        ("equal loss", findings.loss),
        ("equal data", findings.data),
    ):
        rows, left_out = first_rows([_row(kind, item, findings, colors) for item in _largest_first(items)])
        if not rows:
            continue
        loss = kind == "equal loss"
        caption = (
            "Baseline steps that reach the arm's loss, over the arm's steps; an arrow is a bound."
            if loss
            else "Below zero the arm is better."
        )
        rings = RINGS if any(row.published is not None for row in rows) else ""
        charts.append(
            RowChart(
                title=kind[0].upper() + kind[1:],
                x_label="speedup (baseline steps / steps)" if loss else nats,
                rows=rows,
                reference=(1.0, "no gain") if loss else (0.0, "baseline"),
                caption=f"{caption} Bars: 90% intervals, where the seeds give one.{rings}{left_out}",
            )
        )
    return charts


def _largest_first(items: Iterable[Difference | ReadOff]) -> list[Any]:
    """Longest budgets first; within one, the study's order."""
    return sorted(items, key=lambda item: -item.steps)


def _row(kind: str, item: Difference | ReadOff, findings: Findings, colors: Mapping[str, int]) -> Row:
    speedup = isinstance(item, ReadOff)
    value = item.speedup if isinstance(item, ReadOff) else item.value
    bound = item.bound if isinstance(item, ReadOff) else ""
    interval: Interval = item.interval
    return Row(
        name=(item.label, f"{item.model}, {item.steps / 1000:.3g}k"),
        series=item.label,
        slot=colors.get(item.label, 1),
        value=value,
        text=value_words(value, bound, speedup),
        low=interval.low,
        high=interval.high,
        bound=bound,
        published=findings.published_of(kind, item)[0],
    )


def hours_chart(
    costs: Sequence[SegmentCost], published: Mapping[str, float], colors: Mapping[str, int]
) -> list[RowChart]:
    """Device-hours that segments took so far, by arm; a shared segment counts once, with the first arm that uses it.

    `published`: B200-hours that the paper prints, by arm.
    """
    hours: dict[str, float] = {}
    devices: set[str] = set()
    kinds: set[str] = set()
    for cost in costs:
        if cost.usage is not None:
            hours[cost.arm] = hours.get(cost.arm, 0.0) + cost.usage.hours
            kinds.add(cost.usage.kind)
            devices.add(cost.device)
    if not hours:
        return []
    on = ", ".join(sorted(device for device in devices if device)) or "device not recorded"
    rows = tuple(
        Row(
            (arm,),
            arm,
            colors.get(arm, 0 if arm == "baseline" else 1),
            value,
            hours_words(value),
            published=published.get(arm),
        )
        for arm, value in hours.items()
    )
    rings = " Rings: published B200-hours of the arm's runs." if published else ""
    return [
        RowChart(
            title="Device-hours by arm",
            x_label=f"device-hours (hours times {' or '.join(sorted(kinds))}s)",
            rows=rows,
            bars=True,
            caption=f"All attempts so far, on {on}; a segment that several arms share counts with the first.{rings}",
        )
    ]


def hours_rows(hours: Sequence[tuple[tuple[str, ...], str, float]], colors: Mapping[str, int]) -> list[RowChart]:
    """Printed B200-hours, a bar a run: (name in lines, arm, hours)."""
    rows = tuple(Row(name, arm, colors.get(arm, 1), value, hours_words(value)) for name, arm, value in hours)
    return [RowChart("B200-hours by run", "B200-hours", rows, bars=True, caption="As printed in Table 1.")]


def hours_words(hours: float) -> str:
    """``0.0123 h``: three significant digits."""
    return f"{hours:.3g} h" if hours < 1000 else f"{short(hours)} h"


def published_hours(table: pd.DataFrame) -> dict[str, float]:
    """B200-hours that the paper prints for the runs of each arm, one seed of each."""
    if "published_device_hours" not in table.columns:
        return {}
    one = table.drop_duplicates(["arm", "model", "steps", "bag_size", "step_ratio", "reinit_embeddings"])
    sums = one.groupby("arm", sort=False)["published_device_hours"].sum(min_count=1).dropna()
    return {str(arm): float(value) for arm, value in sums.items()}
