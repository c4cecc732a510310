"""Tables against numbers worked out by hand, from results folders in the documented format."""

import json

import numpy as np
import pandas as pd
import pytest
from collect_support import STUDY, fill_results, make_plan, training_row, write_evaluation, write_segment

from tst_titan.collect.study import gather
from tst_titan.files import read_json, write_json
from tst_titan.report.study import collect_study

REQUIRED = [
    "run",
    "arm",
    "model",
    "bag_size",
    "step_ratio",
    "steps",
    "seed",
    "equivalent_tokens",
    "data_tokens",
    "flops",
    "final_train_loss",
    "validation_loss",
]


@pytest.fixture
def study(tmp_path):
    plan = make_plan(tmp_path)
    fill_results(plan, tmp_path / "results")
    return plan, tmp_path / "results"


def rows_of(found):
    return {row["arm"]: row for row in found.table.to_dict("records")}


def final_segment(plan, arm):
    return plan.segments[next(run for run in plan.runs if run.arm == arm).final]


def notices_of(found, kind="damaged"):
    return [str(notice) for notice in found.notices if notice.kind == kind]


def test_table_has_the_required_columns_first_and_the_numbers_that_the_runs_left(study, tmp_path):
    plan, results = study
    collect_study(plan, plan.file, results, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert [name for name in table.columns if name in REQUIRED] == REQUIRED
    baseline, tst = (table[table["arm"] == arm].iloc[0] for arm in ("baseline", "tst"))
    # 1200 steps of 8 x 128 positions; TST reads 4 tokens a position in its first 360 steps.
    assert (baseline["equivalent_tokens"], baseline["data_tokens"]) == (1_228_800, 1_228_800)
    assert (tst["equivalent_tokens"], tst["data_tokens"]) == (1_228_800, 1024 * (360 * 4 + 840))
    assert (tst["bag_size"], tst["step_ratio"], tst["seed"], tst["flops"]) == (4, 0.3, 0, 1_228_800_000)
    # The last 5% of 1200 steps are 60 steps: six rows.
    expected = np.mean(
        [2.5 + 6 * (1 + step / 20) ** -0.5 - 0.25 * (step - 1080) / 120 for step in range(1150, 1201, 10)]
    )
    assert baseline["final_train_loss"] == pytest.approx(expected, rel=1e-9)
    assert baseline["final_train_loss_rows"] == 6
    assert baseline["validation_loss"] == pytest.approx(2.5 + 6 * 61**-0.5 - 0.25 + 0.1, rel=1e-9)
    # 0.1 s a step on two ranks.
    assert baseline["wall_clock_s"] == pytest.approx(120)
    assert baseline["device_hours"] == pytest.approx(240 / 3600)
    assert baseline["commit"] == "abc1234"
    assert baseline["segment"] == final_segment(plan, "baseline").id
    assert pd.read_parquet(tmp_path / "out" / "runs.parquet")["run"].tolist() == table["run"].tolist()


def test_curve_joins_the_segments_of_a_path_and_names_their_phases(study, tmp_path):
    plan, results = study
    collect_study(plan, plan.file, results, tmp_path / "out")
    curves = pd.read_parquet(tmp_path / "out" / "curves.parquet")
    tst = curves[(curves["run"] == plan.runs[1].run) & curves["loss"].notna()]
    assert tst["step"].tolist() == list(range(10, 1201, 10))
    ends = tst.groupby("phase", observed=True)["step"].max().to_dict()
    assert ends == {"superposition": 360, "recovery": 1080, "decay": 1200}
    assert set(tst.loc[tst["phase"] == "superposition", "bag_size"]) == {4}
    assert set(tst.loc[tst["phase"] != "superposition", "bag_size"]) == {1}
    validation = curves[(curves["run"] == plan.runs[1].run) & curves["validation_loss"].notna()]
    assert validation["loss"].isna().all()
    assert len(validation) == 14  # every 100 steps, and the ends at 360 and 1080


def test_shared_segments_belong_to_every_run_and_are_paid_once(tmp_path):
    plan = make_plan(tmp_path, STUDY.replace("steps: 1200", "steps: [1200, 2400]"))
    fill_results(plan, tmp_path / "results")
    found = gather(plan, tmp_path / "results")
    shared = [cost for cost in found.costs if cost.num_runs > 1]
    assert [cost.segment.split("/")[1].split("-")[0] for cost in shared] == ["constant", "superposition"]
    trained = sum(cost.steps for cost in found.costs)
    assert trained == 2 * (1200 + 2400) - 1080 - 360
    for curve in found.curves:
        assert curve.training_step.tolist() == list(range(10, curve.steps + 1, 10))
    assert found.table["wall_clock_s"].tolist() == pytest.approx([120, 240, 120, 240])


def test_unfinished_runs_are_shown_as_such_and_have_no_final_numbers(tmp_path):
    plan = make_plan(tmp_path)
    final = final_segment(plan, "tst")
    fill_results(plan, tmp_path / "results", unfinished=(final.id,))
    metrics = tmp_path / "results" / "segments" / final.id / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    # A line that is being written while we read is no mistake.
    metrics.write_text("\n".join(lines[:5]) + "\n" + lines[5][:17])
    found, _ = collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    tst = rows_of(found)["tst"]
    assert tst["status"] == "running"
    assert tst["last_step"] == 1120
    for column in ("final_train_loss", "validation_loss", "wall_clock_s", "data_tokens", "flops"):
        assert pd.isna(tst[column])
    text = (tmp_path / "out" / "table.csv").read_text().splitlines()[2]
    assert ",,," in text
    assert "0.0," not in text.split("tst")[2]
    assert notices_of(found) == []
    assert any("at step 1120 of 1200" in notice for notice in notices_of(found, "unfinished"))
    assert rows_of(found)["baseline"]["status"] == "finished"


def test_cut_last_line_of_a_finished_segment_is_named(study):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    found = gather(plan, results)
    assert notices_of(found) == [f"{path}: the last line is cut short; it was left out"]
    # done.json still has the validation loss that the lost line held.
    assert rows_of(found)["tst"]["validation_loss"] == pytest.approx(2.5 + 6 * 61**-0.5 - 0.1 - 0.25 + 0.1, abs=1e-6)


def test_steps_logged_twice_count_once_and_the_last_row_wins(study):
    plan, results = study
    segment = final_segment(plan, "baseline")
    path = results / "segments" / segment.id / "metrics.jsonl"
    again = [json.dumps(training_row(segment, step, 1.0)) for step in range(1150, 1201, 10)]
    path.write_text(path.read_text() + "\n".join(again) + "\n")
    found = gather(plan, results)
    assert rows_of(found)["baseline"]["final_train_loss"] == 1.0
    assert found.curves[0].training_step.tolist() == list(range(10, 1201, 10))
    assert notices_of(found) == []


@pytest.mark.parametrize("written", ["NaN", "null"])
def test_losses_that_are_no_number_are_named_and_never_averaged_away(study, written):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "metrics.jsonl"
    row = json.loads(path.read_text().splitlines()[-2])
    assert row["step"] == 1200
    path.write_text(path.read_text().replace(json.dumps(row["loss"]), written))
    found = gather(plan, results)
    assert f"{path}: loss is not a finite number at step 1200" in notices_of(found)
    assert pd.isna(rows_of(found)["tst"]["final_train_loss"])
    assert any("no final training loss" in notice for notice in notices_of(found))
    assert rows_of(found)["tst"]["validation_loss"] > 0


def test_unreadable_lines_are_named_by_number_and_the_rest_is_kept(study):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = '{"step": 11'
    path.write_text("\n".join(lines) + "\n")
    found = gather(plan, results)
    assert notices_of(found) == [f"{path}: line 4 cannot be read; left out"]
    assert len(found.curves[1].training_step) == 119


def test_missing_metrics_of_a_finished_segment_are_named(study):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "metrics.jsonl"
    path.unlink()
    found = gather(plan, results)
    assert f"{path}: missing although the segment is finished" in notices_of(found)
    assert pd.isna(rows_of(found)["tst"]["final_train_loss"])
    assert rows_of(found)["baseline"]["final_train_loss"] > 0


def test_settings_of_another_study_under_the_same_identity_are_named(study):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "settings.json"
    settings = read_json(path)
    settings["recipe"]["learning_rate"] = 1.0
    write_json(path, settings)
    notices = notices_of(gather(plan, results))
    assert len(notices) == 1
    assert notices[0].startswith(f"{path}: holds other settings than the study's (recipe)")


def test_done_file_of_another_segment_does_not_finish_a_run(study):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "done.json"
    write_json(path, read_json(path) | {"segment": "2M-other/decay-0-1-00000000"})
    found = gather(plan, results)
    assert rows_of(found)["tst"]["status"] != "finished"
    assert any(notice.startswith(f"{path}: belongs to another segment") for notice in notices_of(found))


def test_token_counts_that_contradict_the_plan_are_named(study):
    plan, results = study
    path = results / "segments" / final_segment(plan, "tst").id / "done.json"
    write_json(path, read_json(path) | {"data_tokens": 4 * 1_228_800})
    (notice,) = notices_of(gather(plan, results))
    assert "counts 4915200 data tokens, the plan says 2334720" in notice


def test_scores_have_their_standard_errors_and_absent_ones_stay_absent(study, tmp_path):
    plan, results = study
    write_evaluation(results, final_segment(plan, "tst"), {"cloze": (0.41, 0.02), "bits": (1.3, None)})
    found, _ = collect_study(plan, plan.file, results, tmp_path / "out")
    tst, baseline = rows_of(found)["tst"], rows_of(found)["baseline"]
    assert (tst["cloze"], tst["cloze_stderr"], tst["bits"]) == (0.41, 0.02, 1.3)
    assert pd.isna(tst["bits_stderr"])
    assert pd.isna(baseline["cloze"])
    assert "0.4100 ± 0.0200" in (tmp_path / "out" / "table.md").read_text()
    evaluations = pd.read_parquet(tmp_path / "out" / "evaluations.parquet")
    assert evaluations[["task", "metric", "value"]].values.tolist() == [
        ["cloze", "acc", 0.41],
        ["bits", "acc", 1.3],
    ]
    assert evaluations["file"].str.endswith("offline.json").all()


def test_evaluation_of_another_checkpoint_is_named_and_left_out(study):
    plan, results = study
    path = write_evaluation(results, final_segment(plan, "tst"), {"cloze": (0.41, 0.02)})
    write_json(path, read_json(path) | {"checkpoint": "checkpoint/step-600"})
    found = gather(plan, results)
    (notice,) = notices_of(found)
    assert (
        notice
        == f"{path}: evaluates checkpoint checkpoint/step-600, the segment ended with checkpoint/step-1200; left out; evaluate again"  # noqa: E501
    )
    assert "cloze" not in found.table.columns


@pytest.mark.parametrize(
    ("made", "told"), [({"limit": 5}, "5 samples a task"), ({"backend": "export"}, "backend export")]
)
def test_a_trial_in_the_place_of_a_final_evaluation_is_named_and_left_out(study, made, told):
    plan, results = study
    path = write_evaluation(results, final_segment(plan, "tst"), {"cloze": (0.41, 0.02)})
    write_json(path, read_json(path) | made)
    found = gather(plan, results)
    (notice,) = notices_of(found)
    assert notice.startswith(f"{path}: a trial ({told}), not the evaluation of a study; left out")
    assert "cloze" not in found.table.columns


def test_arms_scored_under_several_definitions_or_dtypes_are_told_apart(study):
    plan, results = study
    write_evaluation(results, final_segment(plan, "tst"), {"cloze": (0.41, 0.02), "bits": (1.3, None)})
    path = write_evaluation(results, final_segment(plan, "baseline"), {"cloze": (0.4, 0.02), "bits": (1.3, None)})
    assert notices_of(gather(plan, results), "uncertain") == []
    other = read_json(path) | {"dtype": "bfloat16"}
    other["tasks"]["cloze"]["version"] = "1+0a1b2c3d"
    write_json(path, other)
    assert notices_of(gather(plan, results), "uncertain") == [
        "task cloze: scored under several definitions (versions): 1, 1+0a1b2c3d; evaluate again",
        "task cloze: scored under several dtypes: None, bfloat16; evaluate again",
        "task bits: scored under several dtypes: None, bfloat16; evaluate again",
    ]


def test_repeated_data_is_told(tmp_path):
    from collect_support import write_corpus

    plan = make_plan(tmp_path)
    fill_results(plan, tmp_path / "results")
    write_corpus(tmp_path / "results", *plan.corpora, num_tokens=1_000_000)
    (notice,) = notices_of(gather(plan, tmp_path / "results"), "repeated data")
    assert "reads this source 2.33 times" in notice


def test_a_segment_folder_that_does_not_exist_yet_gives_an_empty_row_not_an_error(tmp_path):
    plan = make_plan(tmp_path)
    write_segment(plan.segments[plan.runs[0].segments[0]], tmp_path / "results")
    found, findings = collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    assert found.table["status"].tolist() == ["queued", "queued"]
    assert found.table["last_step"].tolist() == [1080, 0]
    assert not findings.flops
    assert "Nothing can be compared yet" in (tmp_path / "out" / "report.html").read_text()


def test_an_evaluation_that_is_planned_and_not_there_is_named(tmp_path):
    """A task whose data could not be had leaves no file: the table is built without it, and the reader is told."""
    plan = make_plan(tmp_path, STUDY + "evaluate: {tasks: offline}\n")
    fill_results(plan, tmp_path / "results")
    write_evaluation(tmp_path / "results", final_segment(plan, "tst"), {"cloze": (0.41, 0.02)})
    found, _ = collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    baseline = final_segment(plan, "baseline").id
    path = tmp_path / "results" / "evaluations" / baseline / "offline.json"
    assert notices_of(found, "unfinished") == [
        f"{path}: missing: {baseline} is not evaluated on offline; run: tst-titan evaluate {baseline} --tasks offline"
    ]
    assert rows_of(found)["tst"]["cloze"] == 0.41
    assert pd.isna(rows_of(found)["baseline"]["cloze"])
