"""Collect a study: read everything once, write every table, figure and the report."""

from pathlib import Path

from tst_titan.collect.charts import figure_svg
from tst_titan.collect.comparisons import equal_data, equal_flops
from tst_titan.collect.equal_loss import equal_loss
from tst_titan.collect.plots import colors_of, curve_panels
from tst_titan.collect.report import FigureSection, Findings, study_report
from tst_titan.collect.study_results import StudyResults, gather
from tst_titan.collect.tables import curves_writer, write_evaluations, write_runs
from tst_titan.files import write_text
from tst_titan.plan import Plan


def collect_study(plan: Plan, study_file: Path, results: Path, out: Path) -> tuple[StudyResults, Findings]:
    """Write `table.csv`, `table.md`, `runs.parquet`, `curves.parquet`, `evaluations.parquet`, `curves.svg` and
    `report.html` into `out`, each whole; what is damaged or missing becomes a notice of the report.
    """
    with curves_writer(out / "curves.parquet") as keep:
        found = gather(plan, results, keep)
    write_runs(found.table, out)
    write_evaluations(found.evaluations, out)
    findings = compare(found, tuple(plan.definition.compare))
    colors = colors_of(found.curves)
    entropies = {manifest.get("unigram_entropy") for manifest in found.corpora.values()}
    entropy = entropies.pop() if len(entropies) == 1 else None
    sections = []
    panels = curve_panels(found.curves, colors, entropy)
    if panels:
        write_text(out / "curves.svg", figure_svg(panels, columns=2))
        source = "From metrics.jsonl of each run's segments; every logged step is in curves.parquet."
        sections.append(FigureSection("curves", "Curves", panels, source))
    write_text(out / "report.html", study_report(found, findings, sections, study_file))
    return found, findings


def compare(found: StudyResults, wanted: tuple[str, ...]) -> Findings:
    """The comparisons that a study asks for, on validation loss where every finished run has one."""
    finished = found.table[found.table["status"] == "finished"]
    column = "validation_loss" if finished["validation_loss"].notna().all() else "final_train_loss"
    return Findings(
        flops=tuple(equal_flops(finished, column)) if "equal_flops" in wanted else (),
        loss=tuple(equal_loss(finished, column)) if "equal_loss" in wanted else (),
        data=tuple(equal_data(finished, column)) if "equal_data" in wanted else (),
    )
