"""A plan for people (tables) and for programs (plain data)."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from tst_titan.plan.costs import Accelerator, checkpoint_bytes, count_parameters, flops_per_step
from tst_titan.plan.implied import print_implied
from tst_titan.plan.planner import Plan
from tst_titan.plan.settings import Segment
from tst_titan.units import short, short_bytes


def plan_as_dict(plan: Plan, accelerator: Accelerator) -> dict[str, Any]:
    """The whole plan as plain data: `runs`, `segments`, `totals`, `differences`."""
    num_runs = _runs_by_segment(plan)
    segments = [
        {
            "id": segment.id,
            "parent": segment.parent,
            "stage": segment.stage.name,
            "start_step": segment.start_step,
            "end_step": segment.end_step,
            "finished": id in plan.finished,
            "again": id in plan.again,
            "runs": num_runs[id],
            "flops": job_flops(segment),
            "gpu_hours": accelerator.hours(job_flops(segment)),
            "checkpoint_bytes": checkpoint_bytes(segment.recipe.model),
        }
        for id, segment in plan.segments.items()
    ]
    return {
        "study": plan.study,
        "runs": [asdict(run) for run in plan.runs],
        "segments": segments,
        "totals": totals(plan, accelerator),
        "corpora": [
            {"id": id, "data_tokens": plan.data_tokens[id], "settings": asdict(corpus)}
            for id, corpus in plan.corpora.items()
        ],
        "tasks": plan.task_groups,
        "compare": plan.compare,
        "differences": [asdict(difference) for difference in plan.differences],
    }


def job_flops(segment: Segment) -> int:
    """Training FLOPs of a segment's own job: from where it picks up to its end."""
    return (segment.end_step - segment.start_step) * flops_per_step(segment.recipe)


def totals(plan: Plan, accelerator: Accelerator) -> dict[str, Any]:
    """Sums over the study. `flops_to_train` is what is left after sharing and what `results/` holds."""
    flops_to_train = sum(job_flops(segment) for segment in plan.new_segments)
    return {
        "runs": len(plan.runs),
        "segments": len(plan.segments),
        "segments_finished": len(plan.finished),
        "segments_again": len(plan.again),
        "equivalent_tokens": sum(run.equivalent_tokens for run in plan.runs),
        "data_tokens": sum(run.data_tokens for run in plan.runs),
        "flops_without_sharing": plan.flops_without_sharing,
        "flops_with_sharing": plan.flops_with_sharing,
        "saved_by_sharing": 1 - plan.flops_with_sharing / plan.flops_without_sharing,
        "flops_to_train": flops_to_train,
        "gpu_hours_without_sharing": accelerator.hours(plan.flops_without_sharing),
        "gpu_hours_with_sharing": accelerator.hours(plan.flops_with_sharing),
        "gpu_hours_to_train": accelerator.hours(flops_to_train),
        "checkpoint_bytes": sum(checkpoint_bytes(segment.recipe.model) for segment in plan.segments.values()),
    }


def print_plan(plan: Plan, accelerator: Accelerator, *, with_segments: bool, with_published: bool = False) -> None:
    """Print tables: a row a run, then what is shared, totals, and settings that changed under trained segments."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file or a pipe has no width of its own: never cut a name
    runs = Table(title=f"{plan.study}: {len(plan.runs)} runs", title_justify="left")
    runs.add_column("run", no_wrap=True)
    hours = f"{accelerator.name.upper()}-hours"
    for column in ("bag", "ratio", "steps", "eq. tokens", "data tokens", "FLOPs", hours, "shared", "state"):
        runs.add_column(column, justify="right")
    num_runs = _runs_by_segment(plan)
    for run in plan.runs:
        path = [plan.segments[id] for id in run.segments]
        shared = sum(segment.end_step - segment.start_step for segment in path if num_runs[segment.id] > 1)
        done = sum(id in plan.finished for id in run.segments)
        state = "done" if run.final in plan.finished else f"{done}/{len(path)} done" if done else "new"
        runs.add_row(
            run.run,
            str(run.bag_size),
            f"{run.step_ratio:.4g}",
            f"{run.steps:,}",
            short(run.equivalent_tokens),
            short(run.data_tokens),
            f"{run.flops:.3g}",
            hours_text(run.gpu_hours),
            f"{shared / run.steps:.0%}",
            state,
        )
    console.print(runs)
    if with_segments:
        console.print(_segment_table(plan, num_runs, accelerator))
    _print_totals(console, plan, accelerator)
    _print_differences(console, plan)
    if with_published:
        print_implied(console)


def _segment_table(plan: Plan, num_runs: Counter[str], accelerator: Accelerator) -> Any:
    from rich.table import Table

    table = Table(title=f"{len(plan.segments)} segments", title_justify="left")
    table.add_column("segment", no_wrap=True)
    for column in ("from step", "to step", "runs", f"{accelerator.name.upper()}-hours", "state"):
        table.add_column(column, justify="right")
    for id, segment in plan.segments.items():
        row = (f"{segment.start_step:,}", f"{segment.end_step:,}", str(num_runs[id]))
        state = "again" if id in plan.again else "done" if id in plan.finished else "new"
        table.add_row(id, *row, hours_text(accelerator.hours(job_flops(segment))), state)
    return table


def _print_totals(console: Any, plan: Plan, accelerator: Accelerator) -> None:
    sums = totals(plan, accelerator)
    device = f"{accelerator.name.upper()}-hours at {accelerator.utilization:.0%} of peak"
    for model in dict.fromkeys(segment.recipe.model for segment in plan.segments.values()):
        counts = count_parameters(model)
        console.print(
            f"model {model.name}: {short(counts.total)} parameters, {short(counts.without_embeddings)} without "
            f"embeddings{f', {short(counts.active_without_embeddings)} of those active' if model.moe else ''}; "
            f"checkpoint {short_bytes(checkpoint_bytes(model))}",
            highlight=False,
        )
    for id in plan.corpora:
        console.print(f"corpus {id}: the longest run reads {short(plan.data_tokens[id])} tokens", highlight=False)
    console.print(
        f"alone: {sums['flops_without_sharing']:.3g} FLOPs, {hours_text(sums['gpu_hours_without_sharing'])} "
        f"{device}\nshared: {sums['flops_with_sharing']:.3g} FLOPs, {hours_text(sums['gpu_hours_with_sharing'])} "
        f"hours: sharing saves {sums['saved_by_sharing']:.1%}\nto train: {sums['flops_to_train']:.3g} FLOPs, "
        f"{hours_text(sums['gpu_hours_to_train'])} hours, in {len(plan.new_segments)} of {len(plan.segments)} "
        f"segments ({len(plan.finished) - len(plan.again)} reused from results); checkpoints "
        f"{short_bytes(sums['checkpoint_bytes'])} in all",
        highlight=False,
    )
    if again := [segment for id, segment in plan.segments.items() if id in plan.again]:
        flops = sum(map(job_flops, again))
        console.print(
            f"of these {len(again)} are trained again ({flops:.3g} FLOPs, {hours_text(accelerator.hours(flops))} "
            "hours), as `tst-titan prune` deleted checkpoints that this study goes on from:",
            highlight=False,
        )
        for segment in again:
            console.print(f"  {segment.id}", highlight=False, markup=False)


def _print_differences(console: Any, plan: Plan) -> None:
    """Settings under which a near twin was trained: once for all segments that differ in the same way."""
    groups: dict[tuple, list[str]] = {}
    for difference in plan.differences:
        groups.setdefault(difference.settings, []).append(difference.segment)
    if not groups:
        return
    console.print(
        "\n[bold]Trained under other settings[/bold] (no study wants those any more; the segments below are trained "
        "anew):"
    )
    for settings, segments in groups.items():
        more = f" and {len(segments) - 1} more" if len(segments) > 1 else ""
        console.print(f"  {segments[0]}{more}", highlight=False, markup=False)
        for path, cached, current in settings:
            console.print(f"    {path}: cached {cached!r}, current {current!r}", highlight=False, markup=False)


def _runs_by_segment(plan: Plan) -> Counter[str]:
    """How many runs of the study pass each segment."""
    return Counter(id for run in plan.runs for id in run.segments)


def hours_text(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
