"""The figures of a study, as charts: what is drawn, not how (see `charts`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from tst_titan.collect.study import RunCurve
from tst_titan.report.charts import Line, LineStyle, Panel

LOSS = "loss (nats a token)"
MOST_VARIANTS = 6
RUNNING = 9

# Values on the x axis, each with what is written at it.
Marks = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class LabelledCurve(RunCurve):
    """A run's curves with the name of its variant."""

    label: str


def labelled(curves: Iterable[RunCurve], labels: Mapping[str, str]) -> list[LabelledCurve]:
    """The curves with their variants' names, `labels` by run."""
    return [LabelledCurve(**vars(curve), label=labels[curve.run]) for curve in curves]


def colors_of(curves: Iterable[LabelledCurve]) -> dict[str, int]:
    """A colour slot for every variant: the neutral 0 for the first baseline, the others in order."""
    labels: dict[str, bool] = {}
    for curve in curves:
        labels.setdefault(curve.label, curve.baseline)
    colors: dict[str, int] = {}
    next_slot = 1
    for label, baseline in labels.items():
        if baseline and 0 not in colors.values():
            colors[label] = 0
        else:
            colors[label] = next_slot
            next_slot += 1
    return colors


def largest_budgets(curves: Iterable[LabelledCurve]) -> tuple[list[LabelledCurve], list[LabelledCurve]]:
    """The curves of each model's largest budget, and the others."""
    curves = list(curves)
    largest = {model: max(c.steps for c in curves if c.model == model) for model in {c.model for c in curves}}
    first = [curve for curve in curves if curve.steps == largest[curve.model]]
    return first, [curve for curve in curves if curve.steps != largest[curve.model]]


def curve_panels(
    curves: Iterable[LabelledCurve],
    colors: dict[str, int],
    entropy: float | None,
    published: Mapping[str, float] | None = None,
) -> list[Panel]:
    """For every model and number of steps: training loss, validation loss, a zoom on the recovery, the lead.

    The training loss of a superposition phase is multi-hot cross-entropy over bags, another quantity than the
    plain loss after the switch: it is drawn faint. `published`: the paper's final training loss by run.
    """
    panels = []
    groups: dict[tuple[str, int], list[LabelledCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.model, curve.steps), []).append(curve)
    for (model, steps), members in groups.items():
        if not any(len(curve.training_step) for curve in members):
            continue
        where = f"{model}, {steps} steps"
        members, left_out = _best_variants(members)
        switches = sorted({curve.switch_step for curve in members if curve.switch_step is not None})
        marks = tuple((float(step), "switch") for step in switches) if len(switches) <= 3 else ()
        panels.append(
            _training_panel(members, colors, where, marks, _published_ends(members, colors, published or {}), left_out)
        )
        others = (
            _validation_panel(members, colors, where, marks, entropy),
            _recovery_zoom(members, colors, where, marks),
            _lead(members, colors, where, marks),
        )
        panels += [panel for panel in others if panel]
    return panels


def _training_panel(
    members: list[LabelledCurve],
    colors: dict[str, int],
    where: str,
    marks: Marks,
    rings: tuple[Line, ...],
    left_out: str,
) -> Panel:
    per_point = max(curve.rows_per_point for curve in members)
    mean = f" Each training point is the mean of {per_point} logged rows." if per_point > 1 else ""
    return Panel(
        title=f"Training loss: {where}",
        x_label="step",
        y_label=LOSS,
        lines=tuple(line for curve in members for line in _training_lines(curve, colors[curve.label])) + rings,
        marks=marks,
        caption="Faint: multi-hot cross-entropy over bags in the superposition phase, not comparable "
        f"with the plain next-token loss after the switch.{mean}{left_out}"
        + (" Rings: published final training losses." if rings else ""),
    )


def _validation_panel(
    members: list[LabelledCurve], colors: dict[str, int], where: str, marks: Marks, entropy: float | None
) -> Panel | None:
    lines = tuple(_validation_line(curve, colors[curve.label]) for curve in members)
    if not any(len(line.x) for line in lines):
        return None
    return Panel(
        title=f"Validation loss: {where}",
        x_label="step",
        y_label=LOSS,
        lines=lines,
        marks=marks,
        levels=() if entropy is None else ((entropy, "unigram entropy"),),
        caption="Plain next-token loss on held-out documents in both phases.",
    )


def _best_variants(members: list[LabelledCurve]) -> tuple[list[LabelledCurve], str]:
    """Of many variants, the baseline and those that ended best; and a sentence about those left out."""
    finals: dict[str, list[float]] = {}
    for curve in members:
        if not curve.baseline:
            ends = np.concatenate([curve.training_loss[-3:], curve.validation_loss[-1:]])
            finals.setdefault(curve.label, []).append(float(ends[-1]) if len(ends) else np.inf)
    if len(finals) <= MOST_VARIANTS:
        return members, ""
    order = sorted(finals, key=lambda label: float(np.mean(finals[label])))
    best = set(order[:MOST_VARIANTS])
    left_out = f" Shown: the {MOST_VARIANTS} of {len(finals)} variants that ended lowest; all are in curves.parquet."
    return [curve for curve in members if curve.baseline or curve.label in best], left_out


def _training_lines(curve: LabelledCurve, color: int) -> list[Line]:
    bags = curve.training_step <= (curve.switch_step or 0)
    lines = []
    if bags.any():
        lines.append(
            Line(
                curve.label,
                color,
                curve.training_step[bags],
                curve.training_loss[bags],
                "faint",
                detail=_detail(curve),
            )
        )
    lines.append(
        Line(curve.label, color, curve.training_step[~bags], curve.training_loss[~bags], detail=_detail(curve))
    )
    return lines


def _published_ends(
    members: list[LabelledCurve], colors: dict[str, int], published: Mapping[str, float]
) -> tuple[Line, ...]:
    """A ring at the last step for every variant with a published final training loss."""
    ends = {curve.label: (curve.steps, published[curve.run]) for curve in members if curve.run in published}
    return tuple(
        Line(label, colors[label], np.array([steps]), np.array([loss]), "rings", detail="published")
        for label, (steps, loss) in ends.items()
    )


def _validation_line(curve: LabelledCurve, color: int) -> Line:
    style = _dotted(curve.validation_step)
    return Line(curve.label, color, curve.validation_step, curve.validation_loss, style, detail=_detail(curve))


def _dotted(step: np.ndarray) -> LineStyle:
    return "points+line" if len(step) <= 25 else "solid"


def _detail(curve: LabelledCurve) -> str:
    return f"seed {curve.seed}"


def _recovery_zoom(members: list[LabelledCurve], colors: dict[str, int], where: str, marks: Marks) -> Panel | None:
    """The last stretch before the first switch to the end; the axis spans what the plain losses do there."""
    switched = [curve for curve in members if curve.switch_step and (curve.training_step > curve.switch_step).any()]
    if not switched:
        return None
    first = min(curve.switch_step for curve in switched if curve.switch_step)
    end = max(curve.training_step[-1] for curve in switched)
    lines, values = [], [np.empty(0)]
    for curve in members:
        after = curve.training_step > max(first, curve.switch_step or 0)
        if after.any():
            step, loss = curve.training_step[after], curve.training_loss[after]
            mean = running_mean(loss, RUNNING)
            lines.append(Line(curve.label, colors[curve.label], step, loss, "faint", detail=_detail(curve)))
            detail = f"{_detail(curve)}, running mean"
            lines.append(Line(curve.label, colors[curve.label], step, mean, detail=detail))
            values.append(mean[np.isfinite(mean)])
    joined = np.concatenate(values)
    if not len(joined):
        return None
    low = float(joined.min())
    # The jump itself is in the first panel; here its first 3% would flatten everything else.
    high = float(np.quantile(joined, 0.97))
    pad = 0.08 * (high - low) or 0.05
    return Panel(
        title=f"Recovery: {where}",
        x_label="step",
        y_label=LOSS,
        lines=tuple(lines),
        marks=marks,
        x_range=(first - 0.04 * (end - first), float(end)),
        y_range=(low - pad, high + pad),
        caption=f"Training loss from the switch on: faint as logged, thick the running mean of {RUNNING} points. What lies "  # noqa: E501
        "above the axis is in the panel of the whole run.",
    )


def running_mean(values: np.ndarray, size: int) -> np.ndarray:
    """Mean over `size` (odd) neighbours around each value, fewer at the ends and always as many on both sides.

    Equal sides keep a falling curve unshifted, the end of the decay included. What is no finite number is left out.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    half = np.minimum(size // 2, np.minimum(index, len(values) - 1 - index))
    first, last = index - half, index + half + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def _lead(members: list[LabelledCurve], colors: dict[str, int], where: str, marks: Marks) -> Panel | None:
    """Each arm's validation loss minus the baseline's of the same seed at the same step: where it crosses zero."""
    baselines = {curve.seed: curve for curve in members if curve.baseline}
    leads: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for curve in members:
        other = baselines.get(curve.seed)
        if curve.baseline or other is None:
            continue
        step, own, its = np.intersect1d(curve.validation_step, other.validation_step, return_indices=True)
        if len(step):
            lead = curve.validation_loss[own] - other.validation_loss[its]
            leads.setdefault(curve.label, []).append((step, lead))
    lines = []
    for label, pairs in leads.items():
        # The mean over the seeds, at the steps that all of them validated.
        step = reduce(np.intersect1d, [step for step, _ in pairs])
        mean = np.mean([lead[np.isin(own, step)] for own, lead in pairs], axis=0)
        detail = f"{len(pairs)} seeds" if len(pairs) > 1 else ""
        lines.append(Line(label, colors[label], step, mean, _dotted(step), detail=detail))
    if not lines:
        return None
    late = np.concatenate([line.y[line.x > max((value for value, _ in marks), default=0)] for line in lines])
    late = np.append(late[np.isfinite(late)], 0.0)
    # While bags are trained the plain loss is far off: the axis spans what follows the switch, and zero.
    low, high = float(late.min()), max(0.0, float(np.quantile(late, 0.9)))
    pad = 0.15 * max(high - low, 0.02)
    return Panel(
        title=f"Validation loss minus baseline: {where}",
        x_label="step",
        y_label="difference (nats a token)",
        lines=tuple(lines),
        marks=marks,
        levels=((0.0, "baseline"),),
        y_range=(low - pad, high + pad),
        caption="At equal FLOPs step by step, same seeds (their mean). Below zero the arm is ahead of the baseline.",
    )
