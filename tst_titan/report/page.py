"""One self-contained HTML page of a study: what was compared, figures, tables, cost, provenance, warnings.

The page loads nothing: styles, script and figures are inside. All text that a user wrote passes through the
template engine's escaping. Every number names the file that it came from, as a hint or in the line below it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd
import yaml

from tst_titan import __version__
from tst_titan.collect.notices import Notice
from tst_titan.collect.study import StudyResults
from tst_titan.collect.tables import PROVENANCE_COLUMNS, task_names
from tst_titan.compare.downstream import downstream_table
from tst_titan.compare.findings import Findings
from tst_titan.compare.intervals import Interval
from tst_titan.formats import is_missing, number, short, with_error
from tst_titan.report.charts import HeatMap, Series, legend
from tst_titan.report.cost_table import cost_note, cost_rows
from tst_titan.report.figures import FigureSection, script_bundle, script_hash, script_json
from tst_titan.report.tables import readable
from tst_titan.report.theme import color_index, config, dark_figures, dash_of, variables
from tst_titan.report.words import (
    COMPARISON_HEADER,
    column_name,
    comparison_cells,
    difference_words,
    pooled_words,
    read_off_words,
    value_words,
)
from tst_titan.shown import hide_paths, known_folders
from tst_titan.study.yaml_file import StudySource

# More comparisons than this are read better in the table alone.
MOST_SENTENCES = 4
# Rows of the comparisons that are not folded away.
MOST_ROWS = 16


@dataclass(frozen=True)
class Card:
    """A headline number. `tone` is "good", "bad" or "": which way it fell, where its interval tells."""

    kind: str
    value: str
    note: str
    tone: str
    source: str


def study_report(found: StudyResults, findings: Findings, sections: Sequence[FigureSection], study_file: Path) -> str:
    """The report of a study as HTML text."""
    table = found.table
    finished = int((table["status"] == "finished").sum())
    facts = [
        (f"of {len(table)} runs finished", str(finished), "done.json of each segment"),
        ("equivalent tokens in the longest run", short(table["equivalent_tokens"].max()), "table.csv"),
        ("seeds" if table["seed"].nunique() > 1 else "seed", str(table["seed"].nunique()), "table.csv"),
    ]
    header, cells = readable(table)
    rows = [
        {"cells": row, "source": _run_source(record), "unfinished": record["status"] != "finished"}
        for row, record in zip(cells, table.to_dict("records"), strict=True)
    ]
    rows_in_mean = sorted({int(value) for value in table["final_train_loss_rows"].dropna()})
    description = getattr(found.plan.definition, "description", "")
    return _render(
        known_folders([found.results]),
        title=found.plan.study,
        description=description,
        facts=facts,
        notices=_grouped(found.notices),
        cards=finding_cards(findings),
        **_comparison_context(findings),
        figures=[_figure_context(section) for section in sections],
        header=header,
        rows=rows,
        table_note=_table_note(rows_in_mean),
        corpora=[_corpus_context(found, corpus_id) for corpus_id in found.corpora],
        downstream=_downstream(table),
        costs=cost_rows(found.costs),
        cost_note=cost_note(found.costs),
        definition=_definition(study_file, found.plan.source),
        study_files=[(file.name, file.sha256) for file in found.plan.source.files],
        provenance=_provenance(found),
        paths=[(run.run, run.segments) for run in found.plan.runs],
    )


def plain_report(
    title: str, description: str, table: pd.DataFrame, findings: Findings, sections: Sequence[FigureSection]
) -> str:
    """A report of numbers that no study of ours made: no plan, corpus, cost or provenance of segments."""
    header, cells = readable(table)
    return _render(
        {},
        title=title,
        description=description,
        facts=[("runs", str(len(table)), "table.csv")],
        notices=[],
        cards=[],
        **_comparison_context(findings),
        figures=[_figure_context(section) for section in sections],
        header=header,
        rows=[{"cells": row, "source": "table.csv", "unfinished": False} for row in cells],
        table_note="From table.csv. An em dash is a number that was not printed.",
        downstream=_downstream(table),
        corpora=[],
        costs=[],
        definition="",
        provenance=[],
    )


def finding_sentences(findings: Findings) -> list[str]:
    """Every comparison as a sentence, equal FLOPs first."""
    return [
        *(difference_words(item) for item in findings.flops),
        *(read_off_words(item) for item in findings.loss),
        *(difference_words(item, "equal data") for item in findings.data),
        *(pooled_words(item) for item in findings.pooled),
    ]


def _comparison_context(findings: Findings) -> dict[str, Any]:
    rows = [comparison_cells(row) for row in findings.table().to_dict("records")]
    header = COMPARISON_HEADER
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return {
        "sentences": finding_sentences(findings) if len(rows) <= MOST_SENTENCES else [],
        "compared": column_name(findings.column),
        "comparison_header": header,
        "comparisons": rows[:MOST_ROWS] if len(rows) > MOST_SENTENCES else [],
        "more_comparisons": rows[MOST_ROWS:],
        "nothing_compared": not rows,
    }


def finding_cards(findings: Findings) -> list[Card]:
    """The headline of each comparison: the first variant that it has, of the longest budget."""
    cards = []
    for kind, items in (("Equal FLOPs", findings.flops), ("Equal data", findings.data)):
        if items:
            # Of several variants at the largest budget, the first of the study.
            item = max(items, key=lambda item: item.steps)
            low, high = item.interval.low, item.interval.high
            sure = f"; 90% interval {low:+.3f} to {high:+.3f}" if low is not None and high is not None else ""
            note = (
                f"nats {column_name(item.column)}, {item.label} minus baseline, {item.model}, {item.steps} steps{sure}"
            )
            note += f"; {item.remark}" if item.remark else ""
            value = f"{item.value:+.3f}".replace("-", "−")
            tone = _tone(item.interval, 0.0, lower_is_better=True)
            cards.append(Card(kind, value, note, tone, "final losses in table.csv of: " + ", ".join(item.runs)))
    if findings.loss:
        # A measured read-off says more than a bound.
        read_off = max(findings.loss, key=lambda item: (not item.bound, item.steps))
        value = value_words(read_off.speedup, read_off.bound, speedup=True)
        note = (
            f"baseline steps to reach the {column_name(read_off.column)} of {read_off.label} ({read_off.model}, "
            f"{read_off.steps} steps), over its own"
        )
        if read_off.bound:
            note += "; a bound, not a measurement"
        if read_off.shape_speedups is not None:
            value = "{:.2f}× to {:.2f}×".format(*read_off.shape_speedups)
            note += "; two budgets of the baseline do not tell the shape of its curve"
        note += f"; {read_off.remark}" if read_off.remark else ""
        tone = _tone(read_off.interval, 1.0, lower_is_better=False)
        source = "final losses in table.csv of: " + ", ".join(read_off.runs)
        cards.insert(1, Card("Equal loss", value, note, tone, source))
    return cards


def _tone(interval: Interval, none: float, *, lower_is_better: bool) -> str:
    """Which way a number fell, where its interval leaves out `none` (no effect): "good" or "bad"; else nothing is
    told."""
    low, high = interval.low, interval.high
    if low is None or high is None or low <= none <= high:
        return ""
    return "good" if (high < none) == lower_is_better else "bad"


def _render(folders: Mapping[str, str], /, **context: Any) -> str:
    def shown(value: Any) -> Any:
        """Text of users and files without their folders; charts and styles are ours."""
        plain = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
        return hide_paths(value, folders) if plain else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tst_titan.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
    )
    # Ours, not a user's: the only text that is not escaped, besides the figures (`script_json` makes them inert).
    style = variables() + dark_figures() + _template("report.css")
    scripts = [script_bundle(), _template("report.js")]
    return (
        environment.get_template("report.html").render(
            style=markupsafe.Markup(style),
            scripts=[markupsafe.Markup(script) for script in scripts],
            script_hashes=" ".join(script_hash(script) for script in scripts),
            figure_config=markupsafe.Markup(script_json(config() | {"legend": {"disable": True}})),
            version=__version__,
            **context,
        )
        + "\n"
    )


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _figure_context(section: FigureSection) -> dict[str, Any]:
    names = legend(section.all_charts)
    figures = [
        {
            "title": chart.title,
            "caption": chart.caption,
            "spec": markupsafe.Markup(script_json(spec)),
            "x_label": chart.x_label,
            # With room for title and axis: what follows stays in its place when it is drawn.
            "height": spec["height"] + 80,
            "columns": len(chart.columns) if isinstance(chart, HeatMap) else 0,
        }
        for chart, spec in zip(section.all_charts, section.specs, strict=True)
    ]
    return {
        "id": section.id,
        "title": section.title,
        "legend": [_swatch(name, series) for name, series in names.items()] if len(names) > 1 else [],
        "figures": figures[: len(section.charts)],
        "folded": figures[len(section.charts) :],
        "source": section.source,
        "notes": section.notes,
    }


def _swatch(name: str, series: Series) -> dict[str, Any]:
    dash = " ".join(str(length) for length in dash_of(series.slot, series.fitted))
    return {"name": name, "color": color_index(series.slot), "dash": dash}


def _grouped(notices: Iterable[Notice]) -> list[tuple[str, list[Notice]]]:
    kinds: dict[str, list[Notice]] = {}
    for notice in notices:
        kinds.setdefault(notice.kind, []).append(notice)
    return list(kinds.items())


def _downstream(table: pd.DataFrame) -> dict[str, Any]:
    """Scores of every variant, means over its seeds, with the published ones where the table has them."""
    tasks = task_names(table)
    rows = []
    for row in downstream_table(table, tasks).to_dict("records"):
        cells = [f"{row['arm']}, {row['model']}, {row['steps']} steps"]
        for task in tasks:
            score = with_error(row[task], row[f"{task}_spread"])
            published = row.get(f"published_{task}")
            cells.append(score if is_missing(published) else f"{score} (published {number(published, 4)})")
        rows.append(cells)
    return {"header": ["variant", *tasks], "rows": rows}


def _run_source(record: dict[str, Any]) -> str:
    return f"from metrics.jsonl and done.json of segment {record['segment']} and its parents"


def _table_note(rows_in_mean: list[int]) -> str:
    scores = "Scores are shown with their standard errors; an em dash is a number that does not exist."
    if not rows_in_mean:
        return scores
    how_many = f"{rows_in_mean[0]}" if len(rows_in_mean) == 1 else f"{rows_in_mean[0]} to {rows_in_mean[-1]}"
    return (
        f"Final training loss: mean of the last {how_many} logged rows. From metrics.jsonl and done.json of each "
        f"run's segments and from results/evaluations; the same table is in table.csv and runs.parquet. {scores}"
    )


def _corpus_context(found: StudyResults, corpus_id: str) -> dict[str, Any]:
    manifest = found.corpora[corpus_id]
    rows = found.table[(found.table["corpus"] == corpus_id) & found.table["validation_loss"].notna()]
    entropy = manifest.get("unigram_entropy")
    facts = []
    if entropy is not None:
        facts.append(("unigram entropy", f"{number(entropy, 4)} nats a token (training split)"))
    if len(rows) and entropy is not None:
        best = rows.loc[rows["validation_loss"].idxmin()]
        below = float(entropy) - float(best["validation_loss"])
        side = "below" if below >= 0 else "above"
        text = f"{number(best['validation_loss'], 4)} ({best['run']}), {abs(below):.4f} nats {side} the unigram entropy"
        facts.append(("lowest validation loss", text))
    for source in manifest.get("sources", []):
        text = f"{short(source.get('num_tokens'))} tokens, {short(source.get('num_documents'))} documents"
        facts.append((f"source {source.get('name')}", f"{text}, weight {number(source.get('weight'), 3)}"))
    held_out = manifest.get("validation") or {}
    if held_out:
        text = f"{short(held_out.get('num_tokens'))} tokens, {short(held_out.get('num_documents'))} documents"
        facts.append(("held out", text))
    tokenizer = manifest.get("tokenizer") or {}
    if tokenizer:
        facts.append(("tokenizer", f"{tokenizer.get('vocab_size')} ids, digest {tokenizer.get('digest')}"))
    if manifest.get("bytes_per_token") is not None:
        facts.append(("bytes a token", number(manifest["bytes_per_token"], 3)))
    notes = manifest.get("notes") or []
    return {
        "id": corpus_id,
        "file": manifest["file"],
        "facts": facts,
        "notes": [notes] if isinstance(notes, str) else [str(note) for note in notes],
    }


def _definition(study_file: Path, source: StudySource) -> str:
    """The study as its file has it, or what all its files say together."""
    if len(source.files) == 1:
        return study_file.read_text(encoding="utf-8-sig")
    return yaml.safe_dump(source.data, sort_keys=False, allow_unicode=True)


def _provenance(found: StudyResults) -> list[tuple[str, str]]:
    names = {"segment": "final segments", "corpus": "corpora", "commit": "commits", "device": "devices"}
    pairs = [("tst-titan", __version__), ("results", str(found.results))]
    for column in PROVENANCE_COLUMNS:
        values = sorted(set(found.table[column].dropna()))
        if column == "segment":
            pairs.append((names[column], f"{len(values)}, listed below"))
        else:
            pairs.append((names[column], ", ".join(values) if values else "not recorded"))
    return pairs
