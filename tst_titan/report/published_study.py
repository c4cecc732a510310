"""The published study, rebuilt by the collector from its printed numbers alone: data that nobody here made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tst_titan.collect.average import AVERAGE, average_score
from tst_titan.collect.tables import runs_table, task_names
from tst_titan.compare.downstream import downstream_table
from tst_titan.compare.equal_loss import ReadOff, equal_loss
from tst_titan.compare.findings import Findings
from tst_titan.compare.grids import Grid, find_grids
from tst_titan.compare.paired import Difference, equal_data, equal_flops
from tst_titan.files import write_text
from tst_titan.published import SOURCE, published_grids, published_table1
from tst_titan.report.comparison_charts import hours_rows, three_way_charts
from tst_titan.report.figures import FigureSection, write_figure
from tst_titan.report.grid_charts import budget_panels, grid_charts
from tst_titan.report.page import plain_report
from tst_titan.report.recommended import known_sizes, recommendation_section
from tst_titan.report.tables import write_csv, write_runs
from tst_titan.report.words import grid_words
from tst_titan.study.catalogue import PAPER_TASKS

LOSS = "final_train_loss"


@dataclass(frozen=True)
class PublishedResults:
    """Tables in the collector's own columns, and what it reads off them."""

    table: pd.DataFrame
    grid_runs: pd.DataFrame
    flops: tuple[Difference, ...]
    loss: tuple[ReadOff, ...]
    data: tuple[Difference, ...]
    grids: tuple[Grid, ...]


def read_published() -> PublishedResults:
    """Read the packaged figures and run every comparison on them."""
    table, grid_runs = table1_runs(), grid_table(LOSS)
    main = table[table["arm"] != "tst_reinit_embeddings"]
    return PublishedResults(
        table=table,
        grid_runs=grid_runs,
        flops=tuple(equal_flops(table, LOSS)),
        loss=tuple(equal_loss(main, LOSS)),
        data=tuple(equal_data(main, LOSS)),
        grids=(
            *find_grids(grid_runs, LOSS),
            *find_grids(grid_table("hellaswag_acc_norm"), "hellaswag_acc_norm", lower_is_better=False),
        ),
    )


def table1_runs() -> pd.DataFrame:
    """Table 1 as a table of runs; `average` is the mean of all tasks but MMLU, absent where one of them is."""
    rows = []
    for item in published_table1():
        row: dict[str, Any] = {
            "run": f"{item.model}-{item.method}-{item.total_steps}",
            "arm": item.method,
            "model": item.model,
            "bag_size": item.bag_size or 1,
            "step_ratio": (item.tst_steps or 0) / item.total_steps,
            "steps": item.total_steps,
            "data_tokens": int(item.total_data_tokens_b * 1e9),
            "final_train_loss": item.final_train_loss,
            "device_hours": item.b200_hours,
            "reinit_embeddings": item.method == "tst_reinit_embeddings",
            "status": "published",
            "device": "B200",
        }
        for task in PAPER_TASKS:
            row[task] = getattr(item, task)
            row[f"{task}_stderr"] = None
        row[AVERAGE], row[f"{AVERAGE}_stderr"] = average_score(row)
        rows.append(row)
    return runs_table(rows)


def grid_table(metric: str) -> pd.DataFrame:
    """The printed cells of one metric as a table of runs (column `metric`), a baseline run for every weighting."""
    rows = []
    for cell in published_grids():
        if cell.metric == metric:
            model, _, budget = cell.setting.partition("-")
            rows.append(
                {
                    "run": f"{cell.setting}-{cell.bag_weighting}-s{cell.bag_size}-r{cell.step_ratio:g}",
                    "arm": "baseline" if cell.step_ratio == 0 else "tst",
                    "model": model,
                    "steps": int(budget.removesuffix("k")) * 1000,
                    "bag_size": cell.bag_size,
                    "step_ratio": cell.step_ratio,
                    "bag_weighting": cell.bag_weighting,
                    # One run a cell.
                    "seed": 0,
                    metric: cell.value,
                }
            )
    return pd.DataFrame(rows)


def collect_published(out: Path) -> PublishedResults:
    """Write the published study's `table.csv`, `table.md`, `runs.parquet`, `grids.csv`, figures and `report.html`."""
    found = read_published()
    write_runs(found.table, out)
    write_csv(found.grid_runs.drop(columns="seed"), out / "grids.csv")
    colors = {"baseline": 0, "tst": 1, "tst_reinit_embeddings": 4}
    budgets = budget_panels(found.table, LOSS, colors)
    uniform = found.grid_runs[found.grid_runs["bag_weighting"] == "uniform"]
    trends, sentences = recommendation_section(uniform, LOSS, known_sizes())
    hours = hours_rows(
        [
            ((row["arm"], f"{row['model']}, {row['steps'] / 1000:.3g}k"), row["arm"], row["device_hours"])
            for row in found.table.to_dict("records")
        ],
        colors,
    )
    charts = [chart for grid in found.grids for chart in grid_charts(grid)]
    findings = Findings(LOSS, found.flops, found.loss, found.data)
    sections = [
        FigureSection(
            "comparisons",
            "Equal FLOPs, equal loss, equal data",
            three_way_charts(findings, colors),
            f"From Table 1 of {SOURCE}; comparisons.csv.",
        ),
        FigureSection("budgets", "Budgets", budgets, f"From Table 1 of {SOURCE}; table.csv."),
        FigureSection(
            "grids",
            "Bag size by step ratio",
            charts,
            f"From the grids of {SOURCE}; grids.csv.",
            [grid_words(grid) for grid in found.grids],
        ),
        FigureSection("scaling", "Scaling", trends, f"From the grids of {SOURCE}; grids.csv.", sentences),
        FigureSection("hours", "B200-hours", hours, f"From Table 1 of {SOURCE}; table.csv."),
    ]
    for section in sections:
        write_figure(section, out)
    write_csv(findings.table(), out / "comparisons.csv")
    write_csv(downstream_table(found.table, task_names(found.table)), out / "downstream.csv")
    write_text(out / "report.html", plain_report("published", SOURCE, found.table, findings, sections))
    return found
