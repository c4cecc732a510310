"""Collect a study: read everything once, write every table, figure and the report."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tst_titan.collect.notices import Notice, listed
from tst_titan.collect.published import PUBLISHED_LOSS, evaluations_with_published, with_published
from tst_titan.collect.study import StudyResults, gather, segments_table
from tst_titan.collect.tables import task_names
from tst_titan.compare.downstream import downstream_table
from tst_titan.compare.findings import Findings, compare
from tst_titan.compare.pairing import Refusal
from tst_titan.compare.variants import single_seeds
from tst_titan.files import write_text
from tst_titan.plan import Plan
from tst_titan.report.figures import write_figure
from tst_titan.report.page import study_report
from tst_titan.report.sections import figure_sections
from tst_titan.report.tables import curves_writer, write_csv, write_evaluations, write_runs


def collect_study(plan: Plan, study_file: Path, results: Path, out: Path) -> tuple[StudyResults, Findings]:
    """Write the tables, a figure file for every section of figures that the study has, and `report.html` into `out`.

    Each is written whole; what is damaged or missing becomes a notice of the report.
    """
    with curves_writer(out / "curves.parquet") as keep:
        found = gather(plan, results, keep)
    found = replace(found, notices=(*found.notices, *_single_seeds(found.table)))
    if "published" in plan.compare:
        table = with_published(found.table, plan.runs)
        found = replace(found, table=table, evaluations=evaluations_with_published(found.evaluations, table))
    write_runs(found.table, out)
    write_evaluations(found.evaluations, out)
    write_csv(segments_table(found.costs), out / "segments.csv")
    tasks = task_names(found.table)
    if tasks:
        write_csv(downstream_table(found.table, tasks), out / "downstream.csv")
    findings = compare(found.table, plan.compare, PUBLISHED_LOSS)
    found = replace(found, notices=(*found.notices, *_refused(findings.refused)))
    write_csv(findings.table(), out / "comparisons.csv")
    sections = figure_sections(found, findings)
    for section in sections:
        write_figure(section, out)
    write_text(out / "report.html", study_report(found, findings, sections, study_file))
    return found, findings


def _refused(refused: Iterable[Refusal]) -> list[Notice]:
    """What was asked for and is not compared: one notice for all variants of one reason."""
    by_text: dict[str, list[str]] = {}
    for item in refused:
        at = f" at {item.comparison}" if item.comparison else ""
        variants = by_text.setdefault(f"no comparison{at}: {item.reason}", [])
        variants.append(f"{item.label}, {item.model}, {item.steps} steps")
    return [Notice("not compared", listed(where, between="; "), text) for text, where in by_text.items()]


def _single_seeds(table: pd.DataFrame) -> list[Notice]:
    text = "one seed: there is no measure of the noise between seeds, and no interval on a difference"
    variants, are_all = single_seeds(table)
    return [Notice("single seed", where, text) for where in (["every run"] if are_all else variants)]
