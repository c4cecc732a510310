"""A table believes a segment's files only as they were when it was finished; what was edited, lost or mixed up is told,
and no number.

Before, rewritten metrics, deleted rows, a group score that its own tasks contradict and NaN scores changed a table
without a word.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from collect_support import fill_results, make_plan, write_evaluation
from finished_segments import Finished, finished

from tst_titan.collect.segments import read_done
from tst_titan.collect.study import gather
from tst_titan.errors import UserError
from tst_titan.evaluate.export import export
from tst_titan.files import read_json, write_json
from tst_titan.train.record import SEALED_FILES, changed_files, sealed


@pytest.fixture
def study(tmp_path: Path) -> tuple[Any, Path]:
    """Finished runs, each segment with its sealed record."""
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    fill_results(plan, results)
    for segment in plan.segments.values():
        folder = results / "segments" / segment.id
        write_json(folder / "done.json", sealed(read_json(folder / "done.json"), folder))
    return plan, results


def final(plan: Any, arm: str) -> Any:
    return plan.segments[next(run for run in plan.runs if run.arm == arm).final]


def damaged(plan: Any, results: Path) -> list[str]:
    return [str(notice) for notice in gather(plan, results).notices if notice.kind == "damaged"]


def test_a_record_of_an_earlier_version_is_taken_as_it_is(study: tuple[Any, Path]) -> None:
    plan, results = study
    for segment in plan.segments.values():
        path = results / "segments" / segment.id / "done.json"
        write_json(path, {key: value for key, value in read_json(path).items() if key not in ("files", "digest")})
    assert damaged(plan, results) == []


def test_the_launcher_seals_what_a_segment_leaves(corpus_dir: Path, process_group: None, tmp_path: Path) -> None:
    own: Finished = finished(corpus_dir).copy(tmp_path / "results")
    done, notices = read_done(own.first, own.folder)
    assert notices == []
    assert done is not None
    assert sorted(done["files"]) == sorted(SEALED_FILES)
    assert changed_files(done, own.folder) == []
    for name in SEALED_FILES:
        content = (own.folder / name).read_bytes()
        (own.folder / name).write_bytes(content.replace(b"1", b"2"))
        assert changed_files(done, own.folder) == [name]
        (own.folder / name).write_bytes(content)
    # A model card prints these numbers.
    write_json(own.folder / "done.json", done | {"validation_loss": 1.0})
    with pytest.raises(UserError, match=r"done\.json: not as it was when the segment was finished; bring it back"):
        export(own.results, own.first.id)


def scored(study: tuple[Any, Path]) -> tuple[Any, Path, Path]:
    """A group's file with two tasks, and the finished tasks beside it."""
    plan, results = study
    path = write_evaluation(results, final(plan, "tst"), {"cloze": (0.41, 0.02), "bits": (1.3, None)})
    for task, scores in read_json(path)["tasks"].items():
        write_json(path.parent / "tasks" / f"{task}.json", {"key": {}, "tasks": {task: scores}, "subtasks": {}})
    return plan, results, path


def scores_of(plan: Any, results: Path) -> dict[str, Any]:
    table = gather(plan, results).table
    row = next(row for row in table.to_dict("records") if row["arm"] == "tst")
    return {name: row[name] for name in ("cloze", "bits") if name in row and not pd.isna(row[name])}


def test_a_group_score_that_its_own_tasks_contradict_is_named_and_left_out(study: tuple[Any, Path]) -> None:
    plan, results, path = scored(study)
    assert damaged(plan, results) == []
    assert scores_of(plan, results) == {"cloze": 0.41, "bits": 1.3}
    content = read_json(path)
    content["tasks"]["cloze"]["acc"]["value"] = 0.9
    write_json(path, content)
    assert damaged(plan, results) == [
        f"{path}: its scores of cloze are not those of the finished task beside it; left out; delete both and evaluate "
        "again"
    ]
    assert scores_of(plan, results) == {"bits": 1.3}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_score_that_is_no_number_is_named(study: tuple[Any, Path], value: float | None) -> None:
    plan, results, path = scored(study)
    for file in (path, path.parent / "tasks" / "cloze.json"):
        content = read_json(file)
        content["tasks"]["cloze"]["acc"]["value"] = value
        write_json(file, content)
    assert damaged(plan, results) == [f"{path}: acc of cloze is no finite number; left out"]
    assert scores_of(plan, results) == {"bits": 1.3}


def test_a_task_without_a_finite_score_is_named_and_the_others_count(study: tuple[Any, Path]) -> None:
    """What an evaluation leaves whose only score was NaN; all of the group's scores were dropped with it."""
    plan, results, path = scored(study)
    for file in (path, path.parent / "tasks" / "cloze.json"):
        content = read_json(file)
        content["tasks"]["cloze"] = {"version": 1, "num_samples": 400}
        write_json(file, content)
    assert damaged(plan, results) == [f"{path}: cloze has no finite score; left out"]
    assert scores_of(plan, results) == {"bits": 1.3}


def test_the_evaluation_of_another_checkpoint_of_the_same_step_is_named(study: tuple[Any, Path]) -> None:
    plan, results, path = scored(study)
    folder = results / "segments" / final(plan, "tst").id
    done = {key: value for key, value in read_json(folder / "done.json").items() if key != "digest"}
    write_json(folder / "done.json", sealed(done | {"checkpoint_digest": "0123456789abcdef"}, folder))
    write_json(path, read_json(path) | {"checkpoint_digest": "fedcba9876543210"})
    (notice,) = damaged(plan, results)
    assert notice.startswith(
        f"{path}: evaluates another checkpoint (fedcba9876543210) than the segment's (0123456789abcdef)"
    )
    assert scores_of(plan, results) == {}
