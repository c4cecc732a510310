"""A tiny study, finished for real: corpus built, trained, scored, exported and collected once, for tests of what
happens to it afterwards."""

import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import evaluate_segments
import pandas as pd
from finished_segments import finish
from training import make_job, train_here

from tst_titan.collect.notices import Notice
from tst_titan.collect.published import PUBLISHED_LOSS
from tst_titan.collect.status import segment_statuses
from tst_titan.collect.study import StudyResults, gather, segments_table
from tst_titan.compare.findings import compare
from tst_titan.data.build import build_corpus
from tst_titan.evaluate.checkpoint import find_checkpoint
from tst_titan.evaluate.environment import prepare_environment
from tst_titan.evaluate.export import export
from tst_titan.evaluate.run import Evaluation, evaluate
from tst_titan.evaluate.through_export import load_export
from tst_titan.plan import Plan, load_plan
from tst_titan.plan.settings import Segment
from tst_titan.report.study import collect_study
from tst_titan.train.launch import _check_inputs

STUDY = """\
corpus:
  source: library
  sources: {{library: {{kind: files, path: {texts}}}}}
  tokenizer: bpe-512
  validation_tokens: 5000
models:
  tiny: {{shape: {{architecture: llama3, dim: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 8, ffn_dim: 64}}}}
steps: 12
arms:
  baseline: {{}}
  tst: {{bag_size: 2, step_ratio: 0.5}}
training: {{seq_len: 64, sequences_per_step: 4, warmup_steps: 2, learning_rate: 1e-2, precision: float32, block_tokens: 64}}
evaluate: {{tasks: offline, at: final}}
compare: [equal_flops, equal_data]
log_every: 1
"""  # noqa: E501


@dataclass(frozen=True)
class FinishedStudy:
    """A baseline of two segments and a run with superposition of three; the last of each is scored, that of `tst`
    exported."""

    folder: Path
    plan: Plan

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def tables(self) -> Path:
        return self.folder / "studies" / "tiny"

    def path(self, arm: str) -> list[Segment]:
        """The segments of an arm's only run."""
        (run,) = (run for run in self.plan.runs if run.arm == arm)
        return [self.plan.segments[id] for id in run.segments]

    @property
    def final(self) -> Segment:
        """The last segment of the run with superposition."""
        return self.path("tst")[-1]

    @property
    def parent(self) -> Segment:
        """The one that it goes on from."""
        return self.path("tst")[-2]

    @property
    def other(self) -> Segment:
        """The last segment of the baseline, which ends at the same step."""
        return self.path("baseline")[-1]

    @property
    def corpus(self) -> Path:
        return self.results / "data" / self.final.recipe.corpus.id

    def segment(self, segment: Segment) -> Path:
        return self.results / "segments" / segment.id

    def checkpoint(self, segment: Segment) -> Path:
        return self.segment(segment) / "checkpoint" / f"step-{segment.end_step}"

    def scores(self, segment: Segment) -> Path:
        return self.results / "evaluations" / segment.id

    @property
    def exported(self) -> Path:
        return self.results / "exports" / self.final.id

    def copy(self, folder: Path) -> "FinishedStudy":
        """A copy to damage."""
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder)

    def gather(self) -> StudyResults:
        return gather(self.plan, self.results)

    # What a user does with it. Each raises `UserError`, prints, or gives notices.

    def collects(self) -> tuple[Notice, ...]:
        return collect_study(self.plan, self.plan.file, self.results, self.tables)[0].notices

    def evaluates(self) -> None:
        evaluate(Evaluation(results=self.results, segment=self.final.id, groups=["offline"]))

    def exports(self) -> None:
        export(self.results, self.final.id)

    def evaluates_through_the_export(self) -> None:
        load_export(self.exported, find_checkpoint(self.results, self.final.id), device="cpu", dtype="float32")

    def plans(self) -> None:
        load_plan(self.plan.file, self.results)

    def shows_its_status(self) -> list[str]:
        return [status.message for status in segment_statuses(self.plan, self.results)]

    def trains_on(self) -> None:
        """The last segment again, from what the one before it left."""
        shutil.rmtree(self.segment(self.final), ignore_errors=True)
        _check_inputs(make_job(self.final, self.results / "segments", self.corpus))
        train_here(self.final, self.results / "segments", self.corpus)


def numbers(study: FinishedStudy, found: StudyResults) -> dict[tuple[Any, ...], float | str]:
    """Every value that tables, figures and the report of a study show, by where it stands; what is absent is not
    there."""
    shown: dict[tuple[Any, ...], Any] = {}
    for row in found.table.to_dict("records"):
        finished = row["status"] == "finished"
        # How far it came is no result of a run that is not finished.
        left_out = {"run", "status"} | (set() if finished else {"last_step"})
        shown |= {("runs", row["run"], name): row[name] for name in row.keys() - left_out}
    for row in found.evaluations:
        place = ("evaluations", row["run"], row["segment"], row["task"], row["metric"])
        shown |= {(*place, name): row[name] for name in ("value", "stderr", "num_samples")}
    for row in segments_table(found.costs).to_dict("records"):
        shown |= {("segments", row["segment"], name): row[name] for name in row.keys() - {"finished"}}
    for curve in found.curves:
        for kind in ("training", "validation"):
            points = zip(getattr(curve, f"{kind}_step"), getattr(curve, f"{kind}_loss"), strict=True)
            shown |= {("curves", curve.run, kind, int(step)): float(loss) for step, loss in points}
    comparisons = compare(found.table, study.plan.compare, PUBLISHED_LOSS).table()
    keys = [name for name in comparisons.columns if comparisons[name].dtype.kind not in "fiu"]
    for row in comparisons.to_dict("records"):
        place = ("comparisons", *(str(row[name]) for name in keys))
        shown |= {(*place, name): row[name] for name in row.keys() - set(keys)}
    for id, corpus in found.corpora.items():
        shown |= {("corpora", id, *place): value for place, value in _flat(corpus) if place != ("file",)}
    return {place: value for place, value in shown.items() if not (pd.isna(value) or value == "")}  # NaN


def _flat(value: Any) -> list[tuple[tuple[Any, ...], Any]]:
    if not isinstance(value, dict | list):
        return [((), value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [((key, *rest), leaf) for key, item in items for rest, leaf in _flat(item)]


@cache
def finished_study() -> FinishedStudy:
    """The study, made once a process; needs the environment of the fixture `process_group`."""
    folder = Path(mkdtemp(dir=evaluate_segments.scratch()))
    evaluate_segments.corpus()
    file = folder / "studies" / "tiny.yaml"
    file.parent.mkdir()
    file.write_text(STUDY.format(texts=evaluate_segments.scratch() / "documents.jsonl"), encoding="utf-8")
    study = FinishedStudy(folder, load_plan(file, folder / "results"))
    build_corpus(study.final.recipe.corpus, study.corpus, num_workers=1)
    for segment in study.plan.segments.values():
        finish(segment, study.results / "segments", study.corpus)
    prepare_environment()
    for segment, limit in ((study.final, None), (study.other, None), (study.final, 2)):
        evaluate(Evaluation(results=study.results, segment=segment.id, groups=["offline"], limit=limit))
    study.exports()
    study.collects()
    return study
