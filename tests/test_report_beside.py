"""Published values stand beside a study's own where the paper trained the same thing, and nowhere else."""

import pandas as pd
import pytest
from collect_support import fill_results, make_plan, write_evaluation
from report_studies import drawn_marks

from tst_titan.collect.average import AVERAGED, average_score
from tst_titan.collect.published import published_of
from tst_titan.report.study import collect_study

STUDY = """\
corpus: {source: dclm, tokenizer: llama3, validation_tokens: 10M}
models: {270M: {steps: 20000}, 3B: {steps: [20000, 36000]}}
arms:
  baseline: {}
  tst: {bag_size: [4, 6, 8], step_ratio: [0.2, 0.3], models: 270M}
  tst-3b: {bag_size: 6, step_ratio: 0.3, models: 3B, steps: 20000}
seeds: [0, 1]
compare: [equal_flops, equal_loss, published]
log_every: 1000
evaluate: {tasks: paper}
"""
SCORES = dict.fromkeys(AVERAGED, (0.5, 0.01))


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    plan = make_plan(folder, STUDY)
    fill_results(plan, folder / "results", log_every=1000, validate_every=5000)
    for run in plan.runs:
        write_evaluation(folder / "results", plan.segments[run.final], SCORES)
    found, findings = collect_study(plan, plan.file, folder / "results", folder / "out")
    return plan, found, findings, folder / "out"


def test_runs_scores_and_averages_have_the_printed_values_of_the_same_run(collected):
    _, _, _, out = collected
    table = pd.read_csv(out / "table.csv").set_index("run")
    rows = table[(table["model"] == "270M") & (table["bag_size"] == 6) & (table["step_ratio"] == 0.3)]
    # The grid prints 3.1416 where Table 1 rounds to 3.142.
    assert rows["published_final_train_loss"].round(3).tolist() == [3.142, 3.142]
    large = table[(table["arm"] == "tst-3b")].iloc[0]
    assert large["published_final_train_loss"] == 2.676
    assert large["published_device_hours"] == 247
    assert large["published_piqa"] == pytest.approx(0.761)
    expected = (62.4 + 66.3 + 36.0 + 60.0 + 42.0 + 76.1 + 59.6) / 700
    assert large["published_average"] == pytest.approx(expected)
    assert large["average"] == pytest.approx(0.5)
    assert large["average_stderr"] == pytest.approx(0.01 / 7**0.5)
    evaluations = pd.read_parquet(out / "evaluations.parquet")
    piqa = evaluations[(evaluations["run"] == large.name) & (evaluations["task"] == "piqa")]
    assert piqa["published"].tolist() == [0.761]
    downstream = pd.read_csv(out / "downstream.csv").set_index(["arm", "steps"])
    assert downstream.loc[("tst-3b", 20000), "published_average"] == pytest.approx(expected)


def test_comparisons_have_their_published_counterpart_by_the_same_estimator(collected):
    _, _, findings, out = collected
    comparisons = pd.read_csv(out / "comparisons.csv")
    assert findings.column == "final_train_loss"
    large = comparisons[comparisons["arm"] == "tst-3b"].set_index("comparison")
    assert large.loc["equal FLOPs", "published"] == pytest.approx(2.676 - 2.808)
    # The printed budgets 20,000 and 36,000: the first is above the loss, the second just misses it.
    assert large.loc["equal loss", "published"] == pytest.approx(1.8)
    assert large.loc["equal loss", "published_bound"] == "at least"
    text = (out / "report.html").read_text()
    assert "−0.1320" in text or "-0.1320" in text
    assert "≥ 1.80×" in text


def test_figures_show_them_as_rings(collected):
    out = collected[-1]
    for name in ("curves", "grids", "budgets", "comparisons", "hours"):
        assert drawn_marks(out / f"{name}.svg", "rings"), name
    grids = (out / "grids.svg").read_text()
    assert "Published: 270M, 20000 steps" in grids
    # Baseline, six cells of the 270M grid, two budgets and an arm of 3B: one ring at each curve's end.
    rings = drawn_marks(out / "curves.svg", "rings")
    assert len(rings) == 7 + 2 + 1
    # Hollow, in the colour of the arm's line.
    assert {ring.get("fill") for ring in rings} == {"#ffffff"}
    lines = {line.get("stroke") for line in drawn_marks(out / "curves.svg", "lines")}
    assert {ring.get("stroke") for ring in rings} <= lines


@pytest.mark.parametrize(
    "change",
    [
        ("compare:", "training: {learning_rate: 1e-3}\ncompare:"),
        ("compare:", "training: {sequences_per_step: 64}\ncompare:"),
        ("{270M: {steps: 20000}, 3B: {steps: [20000, 36000]}}", "{270M: {steps: 10000}, 3B: {steps: 10000}}"),
    ],
    ids=["learning rate", "batch", "budget"],
)
def test_other_recipes_have_no_counterpart(tmp_path, change):
    plan = make_plan(tmp_path, STUDY.replace(*change).replace(", steps: 20000}", "}"))
    assert [published_of(run) for run in plan.runs if run.steps != 36000] == [{}] * len(
        [run for run in plan.runs if run.steps != 36000]
    )


def test_a_study_that_asks_for_nothing_published_shows_nothing(tmp_path):
    plan = make_plan(tmp_path, STUDY.replace(", published]", "]"))
    fill_results(plan, tmp_path / "results", log_every=1000, validate_every=5000)
    found, _ = collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    assert not any(name.startswith("published_") for name in found.table.columns)
    assert drawn_marks(tmp_path / "out" / "curves.svg", "lines")
    assert not drawn_marks(tmp_path / "out" / "curves.svg", "rings")


def test_an_average_over_fewer_tasks_does_not_exist():
    row = dict.fromkeys(AVERAGED, 0.5) | {f"{task}_stderr": 0.01 for task in AVERAGED}
    assert average_score(row)[0] == 0.5
    assert average_score(row | {"mmlu": 0.9})[0] == 0.5
    assert average_score({**row, "piqa": None}) == (None, None)
    assert average_score({**row, "piqa_stderr": None}) == (0.5, None)
