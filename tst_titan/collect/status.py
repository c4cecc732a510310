"""The state of every segment of a study, from files alone: works on a login node, beside a running Snakemake.

Only the ends of files are read, so that thousands of segments take seconds.
"""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tst_titan.collect.segments import State, failure, read_done, segment_state
from tst_titan.collect.usage import Usage, study_usage, total
from tst_titan.formats import duration, scientific, short
from tst_titan.metrics_rows import last_training_rows
from tst_titan.plan import Accelerator, Plan, load_plan
from tst_titan.results import Results, SegmentFiles
from tst_titan.shown import printable

STYLES = {"finished": "green", "running": "cyan", "failed": "bold red", "stopped": "yellow"}
# Of many segments that only wait or are done, a count says more than a list.
MOST_QUIET = 20


@dataclass(frozen=True)
class SegmentStatus:
    """One segment now. `step` is the last logged step (its start where none is), `left_s` the time left."""

    id: str
    state: State
    start_step: int
    step: int
    end_step: int
    loss: float | None = None
    tokens_per_s: float | None = None
    left_s: float | None = None
    usage: Usage | None = None
    message: str = ""


def segment_statuses(
    plan: Plan, results: Path, now: float | None = None, *, ask_slurm: bool = False
) -> list[SegmentStatus]:
    """The status of every segment of a plan, in the plan's order; `ask_slurm`: what was used also from Slurm's
    accounts."""
    usages = study_usage(plan, results, ask_slurm=ask_slurm)
    finished: set[str] = set()
    statuses = []
    for segment in plan.segments.values():
        files = Results(results).segment(segment.id)
        if segment.id in plan.again:
            files = SegmentFiles(files.restoring)
        folder = files.folder
        done, notices = read_done(segment, folder)
        if done is not None:
            finished.add(segment.id)
        parent_finished = segment.parent is None or segment.parent in finished
        state = segment_state(folder, finished=done is not None, parent_finished=parent_finished, now=now)
        # What a finished segment ended with its sealed record says.
        row = {} if done or state in ("waiting", "queued") else _last_row(files.metrics)
        step = segment.end_step if done else int(row.get("step", segment.start_step))
        message = failure(folder) if state == "failed" else "; ".join(str(notice) for notice in notices)
        statuses.append(
            SegmentStatus(
                id=segment.id,
                state=state,
                start_step=segment.start_step,
                step=step,
                end_step=segment.end_step,
                loss=done.get("train_loss") if done else row.get("loss"),
                tokens_per_s=row.get("tokens_per_s") if state == "running" else None,
                left_s=_left(row, step, segment.end_step) if state == "running" else None,
                usage=usages.get(segment.id),
                message=message,
            )
        )
    return statuses


def _last_row(path: Path) -> dict[str, Any]:
    return next(iter(last_training_rows(path, 1)), {})


def _left(row: dict[str, Any], step: int, end_step: int) -> float | None:
    return (end_step - step) * row["step_time_s"] if row.get("step_time_s") is not None else None


def status_view(plan: Plan, statuses: list[SegmentStatus]) -> Group:
    """What the terminal shows: active and failed segments, some of the others, totals."""
    # Within 80 columns: no frame, and what names have before their slash on a line of its own, once.
    table = Table(title=f"study {escape(plan.study)}", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("segment", overflow="fold")
    for name in ("state", "step", "loss", "tokens/s", "left"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True, vertical="bottom")
    loud = [status for status in statuses if status.state in ("running", "failed", "stopped")]
    quiet = [status for status in statuses if status not in loud]
    shown = {status.id for status in [*loud, *quiet[: max(0, MOST_QUIET - len(loud))]]}
    before = ""
    for status in statuses:
        if status.id in shown:
            folder, _, name = status.id.rpartition("/")
            if folder != before:
                table.add_row(escape(f"{folder}/"))
                before = folder
            table.add_row(
                escape(f"  {name}"),
                Text(status.state, style=STYLES.get(status.state, "dim")),
                f"{status.step}/{status.end_step}",
                "" if status.loss is None else f"{status.loss:.4f}",
                "" if status.tokens_per_s is None else short(status.tokens_per_s),
                "" if status.left_s is None else duration(status.left_s),
            )
    lines: list[Any] = [table]
    hidden = Counter(status.state for status in statuses if status.id not in shown)
    if hidden:
        lines.append(Text("not listed: " + ", ".join(f"{count} {state}" for state, count in hidden.items())))
    lines += [Text(printable(f"{status.id}: {status.message}"), style="red") for status in statuses if status.message]
    lines.append(Text(totals(plan, statuses)))
    return Group(*lines)


def totals(plan: Plan, statuses: list[SegmentStatus]) -> str:
    """Segments by state, steps done, and the hours used so far beside the plan's, in one line."""
    states = Counter(status.state for status in statuses)
    done = sum(status.step - status.start_step for status in statuses)
    steps = sum(status.end_step - status.start_step for status in statuses)
    used = total(status.usage for status in statuses if status.usage is not None)
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    return (
        f"{len(statuses)} segments: {counted}. {done} of {steps} steps ({done / max(1, steps):.0%}). "
        f"Used: {used_words(used) if used else 'nothing'}. Planned: {planned_words(plan)}."
    )


def used_words(used: Usage) -> str:
    """``1.25 GPU-hours (sacct), 0.5 of them in 2 attempts that failed or were killed``"""
    failed = (
        f", {used.failed_hours:.3g} of them in {used.failed} attempts that failed or were killed" if used.failed else ""
    )
    return f"{used.hours:.3g} {used.kind}-hours ({used.source}){failed}"


def planned_words(plan: Plan) -> str:
    """``9.7e+14 FLOPs, 0.3 B200-hours at 40% of peak``: each segment once."""
    accelerator = Accelerator()
    hours = accelerator.hours(plan.flops_with_sharing)
    device = f"{accelerator.name.upper()}-hours at {accelerator.utilization:.0%} of peak"
    return f"{scientific(plan.flops_with_sharing)} FLOPs, {hours:.3g} {device}"


def show_status(study_file: Path, results: Path, console: Console | None = None) -> None:
    """Print the state of a study once."""
    plan = load_plan(study_file, results)
    (console or Console()).print(status_view(plan, segment_statuses(plan, results, ask_slurm=True)))


def watch_status(study_file: Path, results: Path, seconds: float) -> None:
    """Show the state of a study anew every `seconds`, until interrupted; Slurm is never asked, only files are read."""
    plan = load_plan(study_file, results)
    with Live(status_view(plan, segment_statuses(plan, results)), auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(status_view(plan, segment_statuses(plan, results)), refresh=True)
