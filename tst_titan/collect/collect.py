"""Collect a study: read everything once, write every table, figure and the report."""

from pathlib import Path

from tst_titan.collect.charts import figure_svg
from tst_titan.collect.comparisons import equal_data, equal_flops
from tst_titan.collect.equal_loss import equal_loss
from tst_titan.collect.grid_plots import budget_panels, grid_charts, learning_rate_panels
from tst_titan.collect.grids import find_grids
from tst_titan.collect.plots import colors_of, curve_panels, largest_budgets
from tst_titan.collect.report import FigureSection, Findings, study_report
from tst_titan.collect.scaling_report import model_sizes, scaling_charts
from tst_titan.collect.study_results import StudyResults, gather, segments_table
from tst_titan.collect.tables import curves_writer, write_csv, write_evaluations, write_runs
from tst_titan.files import write_text
from tst_titan.plan import Plan


def collect_study(plan: Plan, study_file: Path, results: Path, out: Path) -> tuple[StudyResults, Findings]:
    """Write `table.csv`, `table.md`, `runs.parquet`, `curves.parquet`, `evaluations.parquet`, `comparisons.csv`, `segments.csv`, `curves.svg`,
    a figure of settings for each kind that the study has, and `report.html` into `out`, each whole; what is damaged or missing becomes a notice of the report.
    """
    with curves_writer(out / "curves.parquet") as keep:
        found = gather(plan, results, keep)
    write_runs(found.table, out)
    write_evaluations(found.evaluations, out)
    write_csv(segments_table(found.costs), out / "segments.csv")
    findings = compare(found, plan.compare)
    write_csv(findings.table(), out / "comparisons.csv")
    colors = colors_of(found.curves)
    entropies = {manifest.get("unigram_entropy") for manifest in found.corpora.values()}
    entropy = entropies.pop() if len(entropies) == 1 else None
    first, others = largest_budgets(found.curves)
    source = "From metrics.jsonl of each run's segments; every logged step is in curves.parquet."
    panels = curve_panels(first, colors, entropy)
    curves = FigureSection("curves", "Curves", panels, source, folded=curve_panels(others, colors, entropy))
    # What a study of many settings asks comes first; the two curves of a small one are its result.
    sections = [
        section
        for section in (*setting_sections(found, findings, colors), curves)
        if section.charts or section.notes
    ]
    for section in sections:
        if section.charts or section.folded:
            write_text(out / f"{section.id}.svg", figure_svg([*section.charts, *section.folded]))
    write_text(out / "report.html", study_report(found, findings, sections, study_file))
    return found, findings


def setting_sections(found: StudyResults, findings: Findings, colors: dict[str, int]) -> list[FigureSection]:
    """Figures over settings, where the study has them: budgets, grids (of loss and scores), learning rates, scaling."""
    finished = found.table[found.table["status"] == "finished"]
    column = findings.column
    better_low = {row["task"]: not row["higher_is_better"] for row in found.evaluations if row["shown"]}
    grids = find_grids(finished, column)
    for task, low in better_low.items():
        if task in finished.columns:
            grids += find_grids(finished, task, lower_is_better=low)
    source = "From the final numbers of each run in table.csv."
    sections = [
        FigureSection("budgets", "Budgets", budget_panels(finished, column, colors), source),
        FigureSection(
            "grids",
            "Bag size by step ratio",
            [chart for grid in grids for chart in grid_charts(grid)],
            source,
        ),
        FigureSection(
            "learning-rates", "Learning rates", learning_rate_panels(finished, column, colors), source
        ),
    ]
    sizes = model_sizes(found.plan)
    if len(sizes) > 1:
        charts, notes = scaling_charts(finished, column, findings.loss, sizes)
        sections.append(FigureSection("scaling", "Scaling", charts, source, notes))
    return sections


def compare(found: StudyResults, wanted: tuple[str, ...]) -> Findings:
    """The comparisons that a study asks for, on validation loss where every finished run has one."""
    finished = found.table[found.table["status"] == "finished"]
    column = "validation_loss" if finished["validation_loss"].notna().all() else "final_train_loss"
    return Findings(
        column=column,
        flops=tuple(equal_flops(finished, column)) if "equal_flops" in wanted else (),
        loss=tuple(equal_loss(finished, column)) if "equal_loss" in wanted else (),
        data=tuple(equal_data(finished, column)) if "equal_data" in wanted else (),
    )
