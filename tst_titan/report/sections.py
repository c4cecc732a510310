"""The figures of a study by section: which there are, from what column, with which published values beside them."""

from collections.abc import Sequence

import pandas as pd

from tst_titan.collect.average import AVERAGE
from tst_titan.collect.published import PREFIX, PUBLISHED_LOSS
from tst_titan.collect.study import StudyResults
from tst_titan.collect.tables import task_names
from tst_titan.compare.findings import Findings
from tst_titan.compare.grids import Grid, find_grids
from tst_titan.compare.variants import run_labels
from tst_titan.report.comparison_charts import hours_chart, published_hours, three_way_charts
from tst_titan.report.curve_charts import LabelledCurve, colors_of, curve_panels, labelled, largest_budgets
from tst_titan.report.figures import FigureSection
from tst_titan.report.grid_charts import budget_panels, grid_charts, learning_rate_panels
from tst_titan.report.recommended import recommendation_section
from tst_titan.report.scaling import model_sizes, scaling_charts
from tst_titan.report.words import grid_words

_FINAL = "From the final numbers of each run in table.csv."


def figure_sections(found: StudyResults, findings: Findings) -> list[FigureSection]:
    """The sections of figures that the study has data for, in the order of the report."""
    curves = labelled(found.curves, run_labels(found.table))
    colors = colors_of(curves)
    comparisons = three_way_charts(findings, colors)
    # A single comparison is a card at the top of the report.
    if sum(len(chart.rows) for chart in comparisons) < 2:
        comparisons = []
    hours = hours_chart(found.costs, published_hours(found.table), colors)
    sections = [
        FigureSection("comparisons", "Equal FLOPs, equal loss, equal data", comparisons, "From comparisons.csv."),
        *_settings(found, findings, colors),
        _curves(found, curves, colors),
        FigureSection("hours", "Device-hours", hours, "From done.json of each segment."),
    ]
    return [section for section in sections if section.charts or section.folded or section.notes]


def _curves(found: StudyResults, curves: list[LabelledCurve], colors: dict[str, int]) -> FigureSection:
    entropies = {manifest.get("unigram_entropy") for manifest in found.corpora.values()}
    entropy = entropies.pop() if len(entropies) == 1 else None
    published: dict[str, float] = {}
    if PUBLISHED_LOSS in found.table.columns:
        published = found.table.set_index("run")[PUBLISHED_LOSS].dropna().to_dict()
    first, others = largest_budgets(curves)
    return FigureSection(
        "curves",
        "Curves",
        curve_panels(first, colors, entropy, published),
        "From metrics.jsonl of each run's segments; every logged step is in curves.parquet.",
        folded=curve_panels(others, colors, entropy, published),
    )


def _settings(found: StudyResults, findings: Findings, colors: dict[str, int]) -> list[FigureSection]:
    """Figures over settings: budgets, grids of loss and of scores, learning rates, scaling."""
    finished = found.table[found.table["status"] == "finished"]
    column = findings.column
    published = PUBLISHED_LOSS if PUBLISHED_LOSS in finished.columns else None
    sections = [
        FigureSection("budgets", "Budgets", budget_panels(finished, column, colors, published), _FINAL),
        FigureSection(
            "grids",
            "Bag size by step ratio",
            _grid_figures(finished, column),
            _FINAL,
            [grid_words(grid) for grid in find_grids(finished, column)],
        ),
        FigureSection("downstream", "Downstream scores by bag size", _score_figures(found, finished), _FINAL),
        FigureSection(
            "learning-rates",
            "Learning rates",
            learning_rate_panels(finished, column, colors, published),
            _FINAL,
        ),
    ]
    sizes = model_sizes(found.plan)
    if len(sizes) > 1:
        charts, notes = scaling_charts(finished, column, findings, sizes)
        settings, sentences = recommendation_section(finished, column, sizes)
        sections.append(FigureSection("scaling", "Scaling", [*charts, *settings], _FINAL, [*notes, *sentences]))
    return sections


def _grid_figures(table: pd.DataFrame, column: str, *, lower_is_better: bool = True) -> list:
    printed = _published_grids(table, column, lower_is_better)
    grids = find_grids(table, column, lower_is_better=lower_is_better)
    return [chart for grid in grids for chart in grid_charts(grid, printed.get(grid.setting))]


def _published_grids(table: pd.DataFrame, column: str, lower_is_better: bool) -> dict[tuple[str, ...], Grid]:
    name = PREFIX + column
    if name not in table.columns:
        return {}
    # One printed value stands for all seeds: the seeds say nothing about its noise.
    one = table[table["seed"] == table["seed"].min()]
    return {grid.setting: grid for grid in find_grids(one, name, lower_is_better=lower_is_better)}


def _score_figures(found: StudyResults, table: pd.DataFrame) -> list:
    lower = {row["task"] for row in found.evaluations if row["shown"] and not row["higher_is_better"]}
    names = task_names(table)
    # The average first: it is what the paper compares.
    order: Sequence[str] = sorted(names, key=lambda name: name != AVERAGE)
    return [chart for task in order for chart in _grid_figures(table, task, lower_is_better=task in lower)]
