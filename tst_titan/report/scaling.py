"""What a study of several sizes says about scaling: the baseline's law, and the speedup's trend with size."""

from dataclasses import replace

import numpy as np
import pandas as pd

from tst_titan.compare.equal_loss import ReadOff
from tst_titan.compare.findings import Findings
from tst_titan.compare.laws import LawRuns, Unfit, law_runs
from tst_titan.compare.scaling_law import CannotFitError, ScalingFit, fit_scaling
from tst_titan.compare.trend import FARTHEST, Trend, read_off_trend
from tst_titan.formats import short
from tst_titan.plan import Plan
from tst_titan.plan.costs import count_parameters
from tst_titan.report.charts import Chart, Line, Panel


def model_sizes(plan: Plan) -> dict[str, float]:
    """Active parameters without embeddings of every model of a plan."""
    shapes = {run.model: plan.segments[run.final].recipe.model for run in plan.runs}
    return {model: float(count_parameters(shape).active_without_embeddings) for model, shape in shapes.items()}


def scaling_charts(
    table: pd.DataFrame, column: str, findings: Findings, sizes: dict[str, float]
) -> tuple[list[Chart], list[str]]:
    """Charts and sentences; a fit that the design does not allow is a sentence with the reason."""
    charts: list[Chart] = []
    notes: list[str] = []
    for runs in law_runs(table, column, sizes):
        name = f" ({runs.name})" if runs.name else ""
        if isinstance(runs, Unfit):
            notes.append(f"The baseline's scaling law{name} was not fitted: {runs.reason}.")
            continue
        try:
            fit = fit_scaling(runs.params, runs.data, runs.losses, runs.seeds)
        except CannotFitError as error:
            notes.append(f"The baseline's scaling law{name} was not fitted: {error}.")
            continue
        notes.append(f"{law_words(fit, f'Baseline{name}')} {_what_counts(runs)}")
        charts += _law_panels(fit, runs)
    by_label: dict[str, list[ReadOff]] = {}
    for item in findings.loss:
        by_label.setdefault(item.label, []).append(item)
    for slot, (label, items) in enumerate(by_label.items()):
        try:
            trend = read_off_trend(items, sizes)
        except CannotFitError as error:
            notes.append(f"The speedup's trend with size was not fitted for {label}: {error}.")
            continue
        notes.append(trend_words(label, trend, sum(bool(item.bound) for item in items)))
        measured = [item for item in items if not item.bound]
        x = np.array([sizes[item.model] for item in measured])
        y = np.array([item.speedup for item in measured])
        charts.append(_trend_panel(label, slot, measured, x, y, findings))
    return charts, notes


def _what_counts(runs: LawRuns) -> str:
    """What N and the loss of a law are, and the size exponent where N counts the head too."""
    text = "N is active parameters without embedding and head"
    if runs.with_head is not None:
        try:
            exponent, interval = _size_exponent(fit_scaling(runs.with_head, runs.data, runs.losses, runs.seeds))
            text += f"; with the head, which also costs FLOPs, the size exponent is {exponent}{interval}"
        except CannotFitError as error:
            text += f"; with the head, which also costs FLOPs, there is no law ({error})"
    remark = f" {runs.remark[0].upper()}{runs.remark[1:]}." if runs.remark else ""
    return f"{text}.{remark}"


def _size_exponent(fit: ScalingFit) -> tuple[str, str]:
    found = fit.intervals["params_exponent"]
    known = found.low is not None and found.high is not None
    return f"{fit.params_exponent:.3f}", f" ({found.low:.3f} to {found.high:.3f})" if known else ""


def law_words(fit: ScalingFit, subject: str = "Baseline") -> str:
    """The fitted law, the intervals of its exponents, and whether the runs contradict it."""
    law = (
        f"{subject}: loss = {fit.offset:.3f} + {fit.params_scale:.3f} (N / {short(fit.params_unit)})^-"
        f"{fit.params_exponent:.3f} + {fit.data_scale:.3f} (D / {short(fit.data_unit)})^-{fit.data_exponent:.3f}; "
    )
    offset = fit.intervals["offset"]
    if offset.low is None:
        law += f"no intervals: {offset.absent_because}."
    else:
        spans = {name: f"{item.low:.3f} to {item.high:.3f}" for name, item in fit.intervals.items()}
        law += (
            f"90% intervals: size exponent {spans['params_exponent']}, data exponent {spans['data_exponent']}, offset "
            f"{spans['offset']}."
        )
    if fit.holds:
        return law
    return (
        f"{law} This law does not hold over these runs (lack of fit, p = {fit.misfit:.2g}): the exponents and their "
        "intervals say little, and it is not extrapolated."
    )


def trend_words(label: str, trend: Trend, num_bounds: int) -> str:
    """The trend of a speedup with size, and what it says of a size four times the largest if it goes on or
    saturates."""
    low, high = trend.slope_interval.low, trend.slope_interval.high
    beyond = 4 * trend.sizes[1]
    (grown, linear), (flat, saturating) = trend.linear_at(beyond), trend.saturating_at(beyond)
    against = "".join(f" The {form} form is contradicted." for form in trend.contradicted)
    bounds = f", {num_bounds} bounds counted as such" if num_bounds else ""
    return (
        f"Equal-loss speedup of {label}: {trend.level:.2f}x at {short(trend.unit)} parameters, changing as size to the "
        f"power {trend.slope:+.3f} (90% interval {low:+.3f} to {high:+.3f}{bounds}). At {short(beyond)} parameters it "
        f"would be {grown:.2f}x ({linear.low:.2f} to {linear.high:.2f}) if that goes on, {flat:.2f}x "
        f"({saturating.low:.2f} to {saturating.high:.2f}) if it saturates; nothing is said beyond {FARTHEST:g} times "
        f"the sizes that were measured.{against}"
    )


def _law_panels(fit: ScalingFit, runs: LawRuns) -> list[Chart]:
    models, params, tokens, losses = runs.rows["model"].to_numpy(), runs.params, runs.data, runs.losses
    name = f": {runs.name}" if runs.name else ""
    law, residuals = [], []
    for slot, model in enumerate(dict.fromkeys(models)):
        color = 1 + slot
        rows = models == model
        x = np.geomspace(tokens.min(), tokens.max(), 40)
        law.append(Line(str(model), color, tokens[rows], losses[rows], "points"))
        law.append(Line(str(model), color, x, fit.loss(np.full(len(x), params[rows][0]), x), "dashed", detail="fit"))
        residual = losses[rows] - fit.loss(params[rows], tokens[rows])
        residuals.append(Line(str(model), color, tokens[rows], residual, "points"))
    return [
        Panel(
            title=f"Baseline loss by data and size{name}",
            x_label=runs.data_unit,
            y_label=f"loss ({runs.loss_unit})",
            lines=tuple(law),
            x_log=True,
            caption="Points: runs. Dashed: the fitted law.",
        ),
        Panel(
            title=f"Residuals of the law{name}",
            x_label=runs.data_unit,
            y_label=f"loss minus fit ({runs.loss_unit})",
            lines=tuple(residuals),
            levels=((0.0, ""),),
            x_log=True,
            caption="A pattern here means that the law does not hold over the design.",
        ),
    ]


def _trend_panel(
    label: str, slot: int, items: list[ReadOff], x: np.ndarray, y: np.ndarray, findings: Findings
) -> Panel:
    low = np.array([np.nan if item.interval.low is None else item.interval.low for item in items])
    high = np.array([np.nan if item.interval.high is None else item.interval.high for item in items])
    bars = np.isfinite(low) & np.isfinite(high)
    order = np.argsort(x)
    low, high = np.where(bars, low, y), np.where(bars, high, y)
    printed = [findings.published_of("equal loss", item)[0] for item in items]
    published = np.array([np.nan if value is None else value for value in printed])
    line = Line(label, 1 + slot, x[order], y[order], "points+line", low[order], high[order])
    return Panel(
        title=f"Equal-loss speedup by size: {label}",
        x_label="parameters without embeddings",
        y_label="speedup (baseline steps / steps)",
        lines=(
            line,
            replace(line, y=published[order], style="rings", low=None, high=None, detail="published"),
        ),
        levels=((1.0, "no gain"),),
        x_log=True,
        caption="Measured read-offs with their 90% intervals; bounds are left out."
        + (" Rings: published." if np.isfinite(published).any() else ""),
    )
