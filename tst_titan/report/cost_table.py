"""The table of what a study cost, arm by arm, as the page shows it."""

from collections.abc import Sequence

from tst_titan.collect.study import SegmentCost
from tst_titan.collect.usage import total
from tst_titan.formats import MISSING, scientific
from tst_titan.plan import Accelerator


def cost_rows(costs: Sequence[SegmentCost]) -> list[list[str]]:
    """A row for each arm, and one for all of several: what was planned, and what was used."""
    arms: dict[str, list[SegmentCost]] = {}
    for cost in costs:
        arms.setdefault(cost.arm, []).append(cost)
    rows = [_cost_row(arm, members) for arm, members in arms.items()]
    return [*rows, _cost_row("all", list(costs))] if len(rows) > 1 else rows


def _cost_row(name: str, members: list[SegmentCost]) -> list[str]:
    finished = [cost for cost in members if cost.finished]
    hours = [cost.usage.hours for cost in finished if cost.usage is not None]
    flops = [float(cost.flops) for cost in finished if cost.flops is not None]
    complete = len(hours) == len(flops) == len(finished) > 0
    rate = sum(flops) / (sum(hours) * 3600) if complete and sum(hours) > 0 else None
    used = total(cost.usage for cost in members if cost.usage is not None)
    return [
        name,
        f"{len(finished)} of {len(members)}",
        str(sum(cost.steps for cost in members)),
        scientific(sum(cost.planned_flops for cost in members)),
        scientific(sum(flops)) if flops else MISSING,
        f"{sum(cost.planned_gpu_hours for cost in members):.3g}",
        f"{used.hours:.3g} ({used.kind}, {used.source})" if used else MISSING,
        f"{used.failed_hours:.3g} in {used.failed} of {used.attempts}" if used else MISSING,
        scientific(rate),
        ", ".join(sorted({cost.device for cost in finished if cost.device})),
    ]


def cost_note(costs: Sequence[SegmentCost]) -> str:
    """What hours are counted, by whose clock, and what shared segments saved."""
    planned = Accelerator()
    hours = (
        f"Planned GPU-hours are for {planned.name.upper()} GPUs at {planned.utilization:.0%} of their peak. Hours used "
        "are hours times devices over all attempts at all segments, unfinished ones included; in brackets what a "
        "device is, and whose clock it was: sacct (Slurm's accounts, from the allocation on) or launcher (ours, from "
        "the trainer's start on)."
    )
    shared = sum(cost.num_runs > 1 for cost in costs)
    if not shared:
        return f"No segment is shared between runs. {hours}"
    saved = sum(cost.steps * (cost.num_runs - 1) for cost in costs)
    return f"{shared} of {len(costs)} segments are shared between runs, which saved {saved} training steps. {hours}"
