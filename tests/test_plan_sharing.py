"""What runs share, what `results/` gives back, and what an edit would train anew."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from tst_titan.errors import UserError
from tst_titan.files import write_json
from tst_titan.plan import (
    Plan,
    Stage,
    find_segment,
    load_plan,
    load_plans,
    segment_from_dict,
    segment_to_dict,
)
from tst_titan.plan.chains import Chains

STUDY = {
    "corpus": {"source": "python-stdlib", "tokenizer": "bpe-4096"},
    "models": ["2M"],
    "steps": 1000,
    "arms": {"baseline": {}, "tst": {"bag_size": 4, "step_ratio": 0.3}},
    "training": {"seq_len": 128, "sequences_per_step": 8, "warmup_steps": 10, "learning_rate": 0.003},
}


def study(folder: Path, name: str = "a", **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}))
    return file


def finish(plan: Plan, results: Path, ids: list[str] | None = None) -> None:
    """Leave behind what training leaves: settings and the mark that a segment is done."""
    for id in ids or plan.segments:
        write_json(results / "segments" / id / "settings.json", segment_to_dict(plan.segments[id]))
        write_json(results / "segments" / id / "done.json", {"segment": id})


def stage_ends(plan: Plan, arm: str) -> list[tuple[str, int, int]]:
    run = next(run for run in plan.runs if run.arm == arm)
    segments = [plan.segments[id] for id in run.segments]
    return [(segment.stage.name, segment.start_step, segment.end_step) for segment in segments]


def test_step_ratios_branch_off_one_superposition_and_budgets_off_one_constant_chain(tmp_path: Path) -> None:
    arms = {"baseline": {"steps": [1000, 2000, 3000]}, "tst": {"bag_size": 4, "step_ratio": [0.2, 0.5]}}
    plan = load_plan(study(tmp_path / "s", arms=arms), tmp_path / "results")
    paths = [run.segments for run in plan.runs if run.arm == "baseline"]
    # 900 -> 1800 -> 2700, each with its decay.
    assert [len(path) for path in paths] == [2, 3, 4]
    assert paths[0][0] == paths[1][0] == paths[2][0]
    assert paths[1][1] == paths[2][1]
    short, long = (run.segments for run in plan.runs if run.arm == "tst")
    assert short[0] == long[0]
    assert plan.segments[long[1]].start_step == 200
    assert plan.segments[long[1]].end_step == 500
    superposed = 500 + (900 - 200) + 100 + (900 - 500) + 100
    jobs = sum(segment.end_step - segment.start_step for segment in plan.segments.values())
    assert jobs == (2700 + 100 + 200 + 300) + superposed


def test_a_neighbours_branch_point_is_used(tmp_path: Path) -> None:
    file = study(tmp_path / "s")
    alone = load_plan(file, tmp_path / "results")
    study(tmp_path / "s", "b", steps=500)
    beside = load_plan(file, tmp_path / "results")
    assert stage_ends(alone, "baseline")[:1] == [("constant", 0, 900)]
    assert stage_ends(beside, "baseline")[:2] == [("constant", 0, 450), ("constant", 450, 900)]
    assert [run.final for run in alone.runs] == [run.final for run in beside.runs]


def test_a_broken_neighbour_hurts_no_other_study(tmp_path: Path) -> None:
    study(tmp_path / "s")
    study(tmp_path / "s", "broken", steps=-3)
    plans, errors = load_plans(tmp_path / "s", tmp_path / "results")
    assert list(plans) == ["a"]
    assert "broken.yaml: steps = -3" in str(errors["broken"])
    with pytest.raises(UserError, match="steps = -3"):
        load_plan(tmp_path / "s" / "broken.yaml", tmp_path / "results")


def test_a_finished_study_has_nothing_to_train(tmp_path: Path) -> None:
    file, results = study(tmp_path / "s"), tmp_path / "results"
    before = load_plan(file, results)
    finish(before, results)
    after = load_plan(file, results)
    assert after.new_segments == ()
    assert after.finished == frozenset(before.segments)
    assert after.segments == before.segments
    assert after.runs == before.runs


def test_a_finished_state_is_the_start_of_a_longer_run(tmp_path: Path) -> None:
    results = tmp_path / "results"
    finish(load_plan(study(tmp_path / "s"), results), results)
    longer = load_plan(study(tmp_path / "s", steps=2000), results)
    assert stage_ends(longer, "baseline") == [
        ("constant", 0, 900),
        ("constant", 900, 1800),
        ("decay", 1800, 2000),
    ]
    assert [segment.end_step - segment.start_step for segment in longer.new_segments if len(segment.stages) == 1] == [
        900,
        300,
    ]


def test_a_branch_point_added_later_does_not_touch_what_is_finished(tmp_path: Path) -> None:
    file, results = study(tmp_path / "s"), tmp_path / "results"
    finish(load_plan(file, results), results)
    study(tmp_path / "s", "b", steps=500)
    plans, _ = load_plans(tmp_path / "s", results)
    assert plans["a"].new_segments == ()
    assert {segment.end_step for segment in plans["b"].new_segments} == {150, 450, 500}


def test_a_parent_that_was_deleted_is_not_wanted_back(tmp_path: Path) -> None:
    file, results = study(tmp_path / "s"), tmp_path / "results"
    before = load_plan(file, results)
    finish(before, results)
    constant = before.runs[0].segments[0]
    shutil.rmtree(results / "segments" / constant)
    after = load_plan(file, results)
    assert constant not in after.segments
    assert after.runs[0].segments == (before.runs[0].final,)
    assert after.new_segments == ()


def test_a_folder_without_done_is_not_finished(tmp_path: Path) -> None:
    file, results = study(tmp_path / "s"), tmp_path / "results"
    plan = load_plan(file, results)
    finish(plan, results)
    (results / "segments" / plan.runs[0].final / "done.json").unlink()
    assert [segment.id for segment in load_plan(file, results).new_segments] == [plan.runs[0].final]


def test_an_edited_definition_shows_what_was_trained_against_what_is_asked(tmp_path: Path) -> None:
    results = tmp_path / "results"
    old = load_plan(study(tmp_path / "s"), results)
    finish(old, results)
    new = load_plan(study(tmp_path / "s", training=STUDY["training"] | {"learning_rate": 0.002}), results)
    assert new.finished == frozenset()
    assert {difference.segment for difference in new.differences} == set(new.segments)
    assert {difference.settings for difference in new.differences} == {(("recipe.learning_rate", 0.003, 0.002),)}
    assert {difference.cached for difference in new.differences} == set(old.segments)


def test_a_setting_of_another_version_is_shown_not_swallowed(tmp_path: Path) -> None:
    """Segments whose settings this version cannot read are never mistaken for ours, and still compared."""
    file, results = study(tmp_path / "s"), tmp_path / "results"
    plan = load_plan(file, results)
    final = plan.runs[0].final
    older = segment_to_dict(plan.segments[final])
    older["recipe"] = {key: value for key, value in older["recipe"].items() if key != "attention"} | {"dropout": 0.1}
    folder = results / "segments" / f"{final[:-8]}00000000"
    write_json(folder / "settings.json", older | {"id": "2M-baseline/decay-900-1000-00000000"})
    write_json(folder / "done.json", {})
    differences = {difference.segment: difference.settings for difference in load_plan(file, results).differences}
    assert set(differences) == {final}
    assert set(differences[final]) == {
        ("recipe.attention", "(absent)", "causal"),
        ("recipe.dropout", 0.1, "(absent)"),
    }


def test_a_study_that_only_grows_reports_no_difference(tmp_path: Path) -> None:
    results = tmp_path / "results"
    finish(load_plan(study(tmp_path / "s"), results), results)
    grown = load_plan(study(tmp_path / "s", seeds=[0, 1], steps=[1000, 2000]), results)
    assert len(grown.new_segments) == 17 - 2
    assert grown.differences == ()


def test_settings_that_are_not_the_folders_are_an_error(tmp_path: Path) -> None:
    file, results = study(tmp_path / "s"), tmp_path / "results"
    plan = load_plan(file, results)
    baseline, tst = plan.runs[0].segments[0], plan.runs[0].segments[1]
    finish(plan, results, [baseline])
    write_json(results / "segments" / baseline / "settings.json", segment_to_dict(plan.segments[tst]))
    with pytest.raises(UserError, match=r"settings\.json: id = .*not the settings of 2M-baseline/constant"):
        load_plan(file, results)
    (results / "segments" / baseline / "settings.json").write_text('{"recipe": ')
    with pytest.raises(UserError, match=r"settings\.json: not a whole JSON file.*restore it"):
        load_plan(file, results)


def test_a_segment_is_found_by_its_id_and_survives_json(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "broken.yaml").write_text("models: [")
    plans, errors = load_plans(study(tmp_path / "s").parent, tmp_path / "results")
    for id, segment in plans["a"].segments.items():
        assert find_segment(plans, id, errors) is segment
        assert segment_from_dict(segment_to_dict(segment)) == segment
        assert segment_from_dict(segment_to_dict(segment)).id == id
    with pytest.raises(UserError, match=r"(?s)'nothing/there'.*study broken is left out: .*broken.yaml"):
        find_segment(plans, "nothing/there", errors)


def test_re_initialization_comes_right_after_superposition(tmp_path: Path) -> None:
    arms = {"tst": {"bag_size": 4, "step_ratio": [0.3, 0.9], "reinit_embeddings": [False, True]}}
    plan = load_plan(study(tmp_path / "s", arms=arms), tmp_path / "results")
    for run in plan.runs:
        stages = plan.segments[run.final].stages
        assert [stage.reinit_embeddings for stage in stages] == [False, run.reinit_embeddings, False][: len(stages)]
        assert stages[1].name == ("recovery" if run.step_ratio == 0.3 else "decay")
    assert len({run.segments[0] for run in plan.runs if run.step_ratio == 0.3}) == 1


def test_evaluation_points_are_states_on_the_trajectory(tmp_path: Path) -> None:
    plan = load_plan(
        study(tmp_path / "s", evaluate={"tasks": ["offline", "sciq"], "at": "every 10%"}),
        tmp_path / "results",
    )
    for run in plan.runs:
        ends = [plan.segments[id].end_step for id in run.evaluations]
        assert ends == list(range(100, 1001, 100))
        assert set(run.evaluations) <= set(run.segments)
    assert plan.task_groups == {"offline": ("heldout_bits_per_byte", "heldout_cloze"), "sciq": ("sciq",)}


@pytest.mark.parametrize(
    "content",
    ['{"recipe": ', "[1, 2]", "\xff\xfe", '{"a": ' + "[" * 100_000, '{"recipe": ' + "9" * 5000 + "}", None],
)
def test_a_damaged_finished_segment_stops_the_studies_that_need_it_and_no_other(
    tmp_path: Path, content: str | None
) -> None:
    results = tmp_path / "results"
    plan = load_plan(study(tmp_path / "s"), results)
    study(tmp_path / "s", name="other", training=STUDY["training"] | {"learning_rate": 0.002})
    finish(plan, results)
    file = results / "segments" / plan.runs[0].final / "settings.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode("latin-1"))
    plans, errors = load_plans(tmp_path / "s", results)
    assert list(plans) == ["other"]
    assert list(errors) == ["a"]
    assert str(errors["a"]).startswith(str(file))
    assert len(str(errors["a"])) < 500


@dataclass(frozen=True, kw_only=True)
class LaterStage(Stage):
    """A stage as a later version may have it: with one setting more."""

    dropout: float = 0.0


def test_stages_that_differ_in_a_setting_of_a_later_version_share_no_trajectory(tmp_path: Path) -> None:
    """The settings that keep trajectories apart were listed by hand: a new one would have merged them."""
    plan = load_plan(study(tmp_path / "s"), tmp_path / "results")
    recipe = next(iter(plan.segments.values())).recipe
    chains = Chains(tmp_path / "results", None)
    half, whole, other = (
        (LaterStage(name="constant", start_step=0, end_step=end, dropout=dropout),)
        for end, dropout in ((100, 0.1), (200, 0.1), (200, 0.0))
    )
    for stages in (half, whole, other):
        chains.want(recipe, stages, ())
    chains.read_results()
    assert [segment.end_step for segment in chains.path(recipe, whole)] == [100, 200]
    assert [segment.end_step for segment in chains.path(recipe, other)] == [200]


def test_a_segments_identity_is_that_of_its_settings(tmp_path: Path) -> None:
    """The planner wrote identities into segments, past their being frozen."""
    file = study(tmp_path / "s", evaluate={"tasks": "offline", "at": "every 10%"})
    for segment in load_plan(file, tmp_path / "results").segments.values():
        assert segment.id == replace(segment).id
