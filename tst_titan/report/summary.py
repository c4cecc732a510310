"""The end of a collect on the terminal: one table, what was compared, where the report is."""

import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tst_titan.collect.study import StudyResults
from tst_titan.collect.tables import task_names
from tst_titan.compare.findings import Findings
from tst_titan.formats import number, short, with_error
from tst_titan.report.page import finding_sentences
from tst_titan.shown import printable

MOST_RUNS = 24
MOST_SENTENCES = 4


def print_summary(found: StudyResults, findings: Findings, out: Path, console: Console | None = None) -> None:
    """Print the runs (the first `MOST_RUNS` of many), the comparisons, the number of warnings and the report's path."""
    # Without a terminal there is no width to keep to: a log takes long lines.
    console = console or Console(width=None if sys.stdout.isatty() else 140)
    tasks = task_names(found.table)[:4]
    table = Table(title=f"study {escape(found.plan.study)}", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("steps", "data tokens", "train loss", "val. loss", *tasks):
        table.add_column(escape(printable(name)), justify="right")
    table.add_column("status")
    records = found.table.to_dict("records")
    for row in records[:MOST_RUNS]:
        scores = [with_error(row[task], row[f"{task}_stderr"]) for task in tasks]
        cells = [str(row["run"]), str(row["steps"]), short(row["data_tokens"])]
        cells += [
            number(row["final_train_loss"], 4),
            number(row["validation_loss"], 4),
            *scores,
            str(row["status"]),
        ]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    console.print(table)
    if len(records) > MOST_RUNS:
        console.print(f"... and {len(records) - MOST_RUNS} more runs in {out / 'table.md'}", markup=False)
    sentences = finding_sentences(findings)
    for sentence in sentences[:MOST_SENTENCES]:
        console.print(printable(sentence), markup=False, highlight=False)
    if len(sentences) > MOST_SENTENCES:
        console.print(f"... and {len(sentences) - MOST_SENTENCES} more comparisons in the report")
    if found.notices:
        kinds = Counter(notice.kind for notice in found.notices)
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        console.print(f"{len(found.notices)} warnings ({counted}): see the report", markup=False)
    console.print(f"report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
