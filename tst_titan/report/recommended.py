"""The recommended setting of sizes that were not run: in words, as a figure, on the command line."""

import numpy as np
import pandas as pd

from tst_titan.compare.scaling_law import CannotFitError
from tst_titan.compare.settings import Recommendation, SettingTrend, setting_trend
from tst_titan.formats import short
from tst_titan.plan.costs import count_parameters
from tst_titan.plan.trajectory import model_shape
from tst_titan.report.charts import Line, Panel
from tst_titan.study.catalogue import MODELS
from tst_titan.study.recipe import Shape

# Sizes beyond the largest one that are recommended for without being asked.
MOST_BEYOND = 2


def known_sizes() -> dict[str, float]:
    """Active parameters without embeddings of every model that studies may name."""
    # They do not depend on the vocabulary.
    shapes = {name: model_shape(name, Shape.model_validate(model["shape"]), 4096) for name, model in MODELS.items()}
    return {name: float(count_parameters(shape).active_without_embeddings) for name, shape in shapes.items()}


def recommendation_section(table: pd.DataFrame, column: str, sizes: dict[str, float]) -> tuple[list[Panel], list[str]]:
    """Figures and sentences for the known sizes next above those that were run, or the reason why there is none."""
    try:
        trend = setting_trend(table, column, sizes)
    except CannotFitError as error:
        return [], [f"No setting is recommended for other sizes: {error}."]
    largest = trend.optima[-1].params
    beyond = sorted((params, name) for name, params in known_sizes().items() if params > largest)[:MOST_BEYOND]
    found = [(name, trend.at(params)) for params, name in beyond]
    sentences = [recommendation_words(name, recommendation, trend) for name, recommendation in found]
    return _panels(trend, [recommendation for _, recommendation in found]), sentences


def recommendation_words(name: str, found: Recommendation, trend: SettingTrend) -> str:
    """One sentence: ``For 3B (...), bag size 6 (5.9; 90% interval 4.1 to 8.8) and step ratio 0.27 (...)``."""
    sizes, ratios = found.bag_size_interval, found.step_ratio_interval
    outside = f" This leaves what was run: {found.outside}." if found.outside else ""
    models = ", ".join(optimum.model for optimum in trend.optima)
    return (
        f"For {name} ({short(found.params)} active parameters without embeddings) at {trend.steps} steps: bag size "
        f"{max(1, round(found.bag_size))} ({found.bag_size:.1f}; 90% interval {sizes.low:.1f} to {sizes.high:.1f}) and "
        f"step ratio {found.step_ratio:.2f} "
        f"({ratios.low:.2f} to {ratios.high:.2f}), from the grids of {models}.{outside}"
    )


def _panels(trend: SettingTrend, predicted: list[Recommendation]) -> list[Panel]:
    x = np.array([optimum.params for optimum in trend.optima])
    span = np.geomspace(x[0], max([x[-1], *(item.params for item in predicted)]), 40)
    curve = [trend.at(float(params)) for params in span]
    errors = 1.645 * np.sqrt([np.diag(optimum.covariance) for optimum in trend.optima])
    best = np.array([optimum.setting for optimum in trend.optima])
    low, high = best - errors, best + errors
    low[:, 0], high[:, 0] = np.exp(low[:, 0]), np.exp(high[:, 0])
    panels = []
    for axis, label in ((0, "bag size s"), (1, "step ratio r")):
        fitted = [item.bag_size if axis == 0 else item.step_ratio for item in curve]
        intervals = [item.bag_size_interval if axis == 0 else item.step_ratio_interval for item in curve]
        ends = [np.array([getattr(item, end) for item in intervals], dtype=float) for end in ("low", "high")]
        y = np.array([item.bag_size if axis == 0 else item.step_ratio for item in trend.optima])
        panels.append(
            Panel(
                title=f"Best {label.rpartition(' ')[0]} by size, {trend.steps} steps",
                x_label="active parameters without embeddings",
                y_label=label,
                lines=(
                    Line("best of the grid", 1, x, y, "points", low[:, axis], high[:, axis]),
                    Line("predicted", 2, span, np.array(fitted), "dashed"),
                    *(Line("90% interval", 2, span, end, "faint") for end in ends),
                ),
                x_log=True,
                y_log=axis == 0,
                caption="Points: the bottom of each size's grid, with its 90% error. Dashed: the line over sizes. Faint: where the "  # noqa: E501
                "best setting of a new size lies with 90%.",
            )
        )
    return panels
