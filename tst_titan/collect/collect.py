"""Collect a study: read everything once, write every table, figure and the report."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from tst_titan.collect.beside import PublishedComparisons, evaluations_with_published, with_published
from tst_titan.collect.charts import figure_svg
from tst_titan.collect.comparisons import equal_data, equal_flops
from tst_titan.collect.downstream import downstream_table
from tst_titan.collect.equal_loss import equal_loss
from tst_titan.collect.report import Findings, study_report
from tst_titan.collect.sections import figure_sections
from tst_titan.collect.study_results import StudyResults, gather, segments_table
from tst_titan.collect.tables import curves_writer, task_names, write_csv, write_evaluations, write_runs
from tst_titan.files import write_text
from tst_titan.plan import Plan


def collect_study(plan: Plan, study_file: Path, results: Path, out: Path) -> tuple[StudyResults, Findings]:
    """Write the tables, a figure file for every section of figures that the study has, and `report.html` into `out`.

    Each is written whole; what is damaged or missing becomes a notice of the report.
    """
    with curves_writer(out / "curves.parquet") as keep:
        found = gather(plan, results, keep)
    if "published" in plan.compare:
        table = with_published(found.table, plan.runs)
        found = replace(found, table=table, evaluations=evaluations_with_published(found.evaluations, table))
    write_runs(found.table, out)
    write_evaluations(found.evaluations, out)
    write_csv(segments_table(found.costs), out / "segments.csv")
    tasks = task_names(found.table)
    if tasks:
        write_csv(downstream_table(found.table, tasks), out / "downstream.csv")
    findings = compare(found, plan.compare)
    write_csv(findings.table(), out / "comparisons.csv")
    sections = figure_sections(found, findings)
    for section in sections:
        if section.charts or section.folded:
            write_text(out / f"{section.id}.svg", figure_svg([*section.charts, *section.folded]))
    write_text(out / "report.html", study_report(found, findings, sections, study_file))
    return found, findings


def compare(found: StudyResults, wanted: tuple[str, ...]) -> Findings:
    """The comparisons that a study asks for."""
    finished = found.table[found.table["status"] == "finished"]
    column = compared_column(finished, wanted)
    return Findings(
        column=column,
        flops=tuple(equal_flops(finished, column)) if "equal_flops" in wanted else (),
        loss=tuple(equal_loss(finished, column)) if "equal_loss" in wanted else (),
        data=tuple(equal_data(finished, column)) if "equal_data" in wanted else (),
        published=PublishedComparisons(found.table) if "published" in wanted else None,
    )


def compared_column(finished: pd.DataFrame, wanted: tuple[str, ...]) -> str:
    """Which loss of the finished runs is compared: the validation loss where each has one.

    Beside published values it is the final training loss, the one that the paper prints.
    """
    validated = finished["validation_loss"].notna().all() and "published" not in wanted
    return "validation_loss" if validated else "final_train_loss"
