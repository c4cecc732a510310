"""`tst-titan prune` deletes checkpoints that no study needs; what was learned stays, and a state that is needed later
is trained again."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from checkouts import REPOSITORY, copy_workflow
from finished_study import FinishedStudy, finished_study, numbers

from tst_titan.cli import main
from tst_titan.cluster.lock import segment_lock
from tst_titan.collect.status import segment_statuses
from tst_titan.errors import UserError
from tst_titan.files import digest_file, read_json, write_json
from tst_titan.plan import Segment, load_plan
from tst_titan.pruned import is_pruned
from tst_titan.results import Results
from tst_titan.workflow import read_workflow

ALL = ("--finals", "--decay-starts")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_group: None) -> FinishedStudy:
    """A checkout of its own with the finished study `tiny`: baseline of two segments, run with superposition of
    three."""
    folder = copy_workflow(tmp_path / "my checkout")
    shutil.copytree(finished_study().folder, folder, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TST_TITAN_SITE", raising=False)
    return replace(finished_study(), folder=Path(), plan=load_plan(Path("studies/tiny.yaml"), Path("results")))


@pytest.fixture
def prune(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command; returns what it says."""

    def call(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(["prune", *words]) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    return call


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder by its digest."""
    return {str(path.relative_to(folder)): digest_file(path) for path in folder.rglob("*") if path.is_file()}


def damaged(study: FinishedStudy) -> list[str]:
    """What collecting says is damaged."""
    return [str(notice) for notice in study.collects() if notice.kind == "damaged"]


def pruned(study: FinishedStudy) -> set[str]:
    places = Results(study.results)
    return {id for id, segment in study.plan.segments.items() if is_pruned(places.segment(id), segment.end_step)}


def first(study: FinishedStudy) -> Segment:
    """The superposition, which only the recovery started from."""
    return study.path("tst")[0]


def later_study(name: str = "later", **changes: str) -> None:
    """A study whose run leaves `tiny`'s earlier: its recovery ends sooner, so that it starts from the superposition's
    end."""
    text = Path("studies/tiny.yaml").read_text().replace("warmup_steps: 2,", "warmup_steps: 2, decay_fraction: 0.4,")
    for old, new in changes.items():
        text = text.replace(old, new)
    Path(f"studies/{name}.yaml").write_text(text)


def snakemake(*words: str, dry: bool = True) -> str:
    """What it says: of a dry run the jobs, one a line, or that there are none."""
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "local", *["-n"] * dry, *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    jobs = [line.split(": ", 1)[1] for line in said.splitlines() if re.match(r"Job \d+: ", line)]
    return "\n".join(sorted(set(jobs))) if jobs and dry else said


def test_it_lists_what_no_study_needs_and_deletes_nothing_before_it_is_told_to(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    before = files(study.folder)
    said = prune("tiny")
    assert files(study.folder) == before
    (line,) = re.findall(r"would delete .*", said)
    assert re.fullmatch(rf"would delete the checkpoint of {first(study).id}: [\d.]+ [kM]B", line)
    assert re.search(r"kept: 2 at the end of a run \(--finals\): [\d.]+ [kM]B", said)
    assert "kept: 2 where a decay starts, from which a larger budget goes on (--decay-starts)" in said
    assert said.splitlines()[-1].startswith("1 checkpoints, ")
    assert prune("studies/tiny.yaml", *ALL).count("would delete") == 5


@pytest.mark.parametrize(("options", "num_pruned"), [((), 1), (ALL, 5)])
def test_a_pruned_segment_is_finished_its_numbers_stay_and_nothing_trains_it_again(
    study: FinishedStudy, prune: Callable[..., str], options: tuple[str, ...], num_pruned: int
) -> None:
    before, shown = files(study.results), numbers(study, study.gather())
    used = sum(path.stat().st_size for path in study.results.rglob("step-*/*"))
    said = prune("tiny", "--yes", *options)
    assert said.splitlines()[-1].startswith(f"{num_pruned} checkpoints deleted, ")
    assert len(pruned(study)) == num_pruned
    left = sum(path.stat().st_size for path in study.results.rglob("step-*/*"))
    assert left == 0 if options else 0 < left < used

    after = files(study.results)
    record = re.compile(r"/(checkpoint|pruned|pruned\.json|lock)(/|$)")
    assert {name: digest for name, digest in after.items() if not record.search(name)} == {
        name: digest for name, digest in before.items() if not record.search(name)
    }
    gone = read_json(study.segment(first(study)) / "pruned.json")
    assert gone["checkpoint_digest"] == read_json(study.segment(first(study)) / "done.json")["checkpoint_digest"]
    assert damaged(study) == []
    assert numbers(study, study.gather()) == shown
    assert study.shows_its_status() == [""] * 5
    plan = load_plan(Path("studies/tiny.yaml"), study.results)
    assert (len(plan.finished), plan.new_segments) == (5, ())
    assert "Nothing to be done" in snakemake("studies/tiny")
    assert prune("tiny", "--yes", *options).splitlines()[-1].startswith("0 checkpoints deleted")


def test_plan_and_workflow_train_a_pruned_state_again_for_a_later_study_and_only_for_that(
    study: FinishedStudy, prune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    prune("tiny", "--yes")
    later_study()
    capsys.readouterr()
    assert main(["plan", "later", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    again = [segment["id"] for segment in plan["segments"] if segment["again"]]
    assert again == [first(study).id]
    fresh = sum(segment["flops"] for segment in plan["segments"] if not segment["finished"])
    assert plan["totals"]["flops_to_train"] == fresh + next(
        segment["flops"] for segment in plan["segments"] if segment["again"]
    )
    assert main(["plan", "later"]) == 0
    said = capsys.readouterr().out
    assert "of these 1 are trained again" in said
    assert f"  {first(study).id}\n" in said

    wanted = load_plan(Path("studies/later.yaml"), study.results)
    states = {status.id: status.state for status in segment_statuses(wanted, study.results)}
    (child,) = (segment for segment in wanted.new_segments if segment.parent == first(study).id)
    assert (states[first(study).id], states[child.id]) == ("queued", "waiting")
    assert study.shows_its_status() == [""] * 5

    jobs = snakemake("studies/later")
    assert f"Train {first(study).id} again, whose checkpoint was pruned" in jobs
    assert len(re.findall("Train .* again", jobs)) == 1
    assert len(re.findall("^Train .*/recovery-6-", jobs, flags=re.M)) == 1
    assert "Nothing to be done" in snakemake("studies/tiny")
    # The state is needed now: it is trained again, and stays.
    assert f"the checkpoint of {first(study).id}" not in prune("tiny", "later")


def test_what_a_pruned_state_was_trained_from_is_trained_again_too_where_that_was_pruned(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    prune("tiny", "--yes", *ALL)
    later_study(**{"steps: 12": "steps: 24", "step_ratio: 0.5": "step_ratio: 0.25", "decay_fraction: 0.4, ": ""})
    plan = load_plan(Path("studies/later.yaml"), study.results)
    superposed, recovered, _ = study.path("tst")
    (constant, _) = study.path("baseline")
    assert plan.again == {superposed.id, recovered.id, constant.id}
    assert {superposed.id, recovered.id, constant.id} < {segment.id for segment in plan.new_segments}
    workflow = read_workflow(None)
    assert workflow.restoring_inputs(_Of(recovered.id))["parent"] == workflow.results.segment(superposed.id).restored
    # What that was trained from is gone with its record: one line with the mend, before any work.
    shutil.rmtree(study.segment(superposed))
    with pytest.raises(
        UserError,
        match=r"was deleted by `tst-titan prune`, and the segment that .* was trained from is gone; delete",
    ):
        load_plan(Path("studies/later.yaml"), study.results)
    assert load_plan(Path("studies/tiny.yaml"), study.results).again == frozenset()


class _Of:
    """A job's wildcards."""

    def __init__(self, segment: str, group: str = "offline") -> None:
        self.segment, self.group = segment, group


def test_scores_and_exports_of_a_pruned_state_wait_for_its_checkpoint_unless_they_are_there(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    prune("tiny", "--yes", *ALL)
    final, other = study.final.id, study.other.id
    workflow = read_workflow(None)
    done, restored = workflow.results.segment(final).done, workflow.results.segment(final).restored
    assert workflow.evaluation_inputs(_Of(final))["done"] == done
    assert workflow.export_inputs(_Of(final)) == {"done": done}
    assert workflow.evaluation_inputs(_Of(final, "mmlu"))["done"] == restored
    assert workflow.export_inputs(_Of(other)) == {"done": workflow.results.segment(other).restored}
    jobs = snakemake(f"results/exports/{other}")
    assert f"Train {other} again, whose checkpoint was pruned" in jobs
    assert f"Export {other}" in jobs


def test_a_later_study_trains_the_pruned_state_again_to_the_byte_and_goes_on_from_it(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    """By Snakemake itself; the record of what was pruned stays what it was."""
    folder, id = study.segment(first(study)), first(study).id
    before = files(folder)
    prune("tiny", "--yes")
    assert main(["train", id]) == 0  # finished: nothing to do
    assert is_pruned(Results(study.results).segment(id), first(study).end_step)
    later_study()
    (child,) = (s for s in load_plan(Path("studies/later.yaml"), study.results).new_segments if s.parent == id)
    said = snakemake(f"results/segments/{child.id}/done.json", dry=False)
    assert f"{id}: trained again to the same bits; its record stays" in said
    assert read_json(study.segment(child) / "done.json")["start_step"] == first(study).end_step
    changing = re.compile(r"verified\.json|^lock$|^restored$")
    assert {name: digest for name, digest in files(folder).items() if not changing.search(name)} == {
        name: digest for name, digest in before.items() if not changing.search(name)
    }
    assert damaged(study) == []
    # It can be pruned once more, now that what started from it is there, and then the mark is gone.
    assert load_plan(Path("studies/later.yaml"), study.results).again == frozenset()
    prune("tiny", "--yes")
    assert not (folder / "restored").exists()
    assert is_pruned(Results(study.results).segment(id), first(study).end_step)


def test_one_that_is_trained_to_other_bits_takes_the_place_of_its_record(
    study: FinishedStudy, prune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    files_of = Results(study.results).segment(study.final.id)
    whole = study.folder / "trained again"
    shutil.copytree(files_of.folder, whole)
    prune("tiny", "--yes", "--finals")
    seal = next(files_of.pruned_index.glob("seal-0.json"))
    content = read_json(seal)
    name = next(iter(content["files"]))
    content["files"][name]["sha256"] = "0" * 64
    write_json(seal, content)
    whole.rename(files_of.restoring)
    (files_of.restoring / "train.log").write_text("of the new training")
    assert main(["train", study.final.id, "--restore"]) == 0
    assert "not to the same bits" in capsys.readouterr().err
    assert files_of.log.read_text() == "of the new training"
    assert not files_of.restoring.exists()
    assert not files_of.pruned.exists()
    study.evaluates()


def killed_at(number: int, call: Callable[[], object]) -> bool:
    """Run `call` in a process that is gone before its `number`th change of the file system; whether it got that far."""
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile"}
    child = os.fork()
    if not child:
        seen = 0

        def count(event: str, arguments: object) -> None:
            nonlocal seen
            if event in changes:
                seen += 1
                if seen == number:
                    os._exit(9)

        sys.addaudithook(count)
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


def test_killed_at_any_moment_it_leaves_a_checkpoint_whole_or_a_segment_pruned_and_the_next_call_ends_it(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    folder, files_of = study.segment(first(study)), Results(study.results).segment(first(study).id)
    kept = study.folder / "kept"
    shutil.copytree(folder, kept)
    checkpoint = files(kept / "checkpoint")
    states = []
    number = 1
    while killed_at(number, lambda: main(["prune", "tiny", "--yes"])):
        gone = is_pruned(files_of, first(study).end_step)
        states.append(gone)
        assert gone or files(folder / "checkpoint") == checkpoint
        prune("tiny", "--yes")
        assert is_pruned(files_of, first(study).end_step)
        assert files_of.pruned_index.is_dir()
        assert not list(files_of.checkpoints.iterdir())
        assert damaged(study) == []
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        number += 1
    assert False in states
    assert True in states


def test_it_refuses_while_a_job_is_at_work_here_or_on_another_node(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    folder = study.segment(first(study))
    before = files(study.results)
    with segment_lock(folder):
        said = prune("tiny", "--yes", *ALL, status=2)
    assert f"{folder}: process {os.getpid()} on " in said
    assert "is at work here: wait for its end" in said
    holder = {"node": "node17", "process": 4, "slurm_job": "81", "token": "ab", "count": 3}
    (folder / "lock").write_text(json.dumps(holder))
    assert f"{folder}: process 4 on node17, Slurm job 81 is at work here" in prune("tiny", "--yes", *ALL, status=2)
    same = re.compile(r"/lock$")
    assert {name: digest for name, digest in files(study.results).items() if not same.search(name)} == {
        name: digest for name, digest in before.items() if not same.search(name)
    }


def test_what_something_unfinished_or_unscored_needs_is_kept(study: FinishedStudy, prune: Callable[..., str]) -> None:
    for segment in (study.parent, study.final):
        shutil.rmtree(study.segment(segment))
    shutil.rmtree(study.scores(study.other))
    said = prune("tiny", "--yes", *ALL)
    assert "kept: 1 from which something unfinished starts" in said
    assert "kept: 1 not evaluated yet" in said
    assert pruned(study) == {study.path("baseline")[0].id}


def test_damaged_scores_are_none(study: FinishedStudy, prune: Callable[..., str]) -> None:
    scores = study.scores(study.other) / "offline.json"
    scores.write_text(scores.read_text().replace('"num_samples": ', '"num_samples": 1'))
    assert "kept: 1 not evaluated yet" in prune("tiny", "--yes", *ALL)
    assert study.other.id not in pruned(study)


def test_a_neighbours_need_keeps_a_checkpoint_that_its_own_study_has_done_with(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    later_study()
    assert "kept: 1 from which something unfinished starts" in prune("tiny", "--yes")
    assert pruned(study) == set()


def test_what_it_cannot_explain_is_left_and_named(study: FinishedStudy, prune: Callable[..., str]) -> None:
    text = Path("studies/tiny.yaml").read_text()
    Path("studies/tiny.yaml").write_text(re.sub(r"  tst: .*\n|^compare.*\n", "", text, flags=re.M))
    constant, decay = study.path("baseline")
    (study.segment(constant) / "checkpoint" / "notes.txt").write_text("mine")
    elsewhere = study.folder / "elsewhere"
    (study.segment(decay) / "checkpoint").rename(elsewhere)
    (study.segment(decay) / "checkpoint").symlink_to(elsewhere.resolve())
    before = files(study.results)
    said = prune("tiny", "--yes", *ALL)
    for segment in study.path("tst"):
        assert f"left: {study.segment(segment)}: no study has this segment" in said
    assert f"left: {study.segment(constant)}/checkpoint/notes.txt: no checkpoint of this segment" in said
    assert f"left: {study.segment(decay)}/checkpoint: is a symbolic link" in said
    assert files(study.results) == before


def test_a_segment_whose_record_does_not_vouch_for_it_is_left_and_named(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    constant, decay = study.path("baseline")
    (study.segment(constant) / "metrics.jsonl").write_text("")
    shutil.rmtree(study.checkpoint(decay))
    shutil.copytree(study.checkpoint(study.final), study.checkpoint(decay))
    said = prune("tiny", "--yes", *ALL)
    assert f"left: {study.segment(constant)}/metrics.jsonl: not as it was" in said
    assert f"left: {study.checkpoint(decay)}: is the checkpoint of {study.final.id}" in said
    assert pruned(study) == {segment.id for segment in study.path("tst")}


def test_while_a_study_of_the_folder_cannot_be_planned_nothing_is_deleted(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    Path("studies/broken.yaml").write_text("modles: tiny\n")
    before = files(study.results)
    said = prune("tiny", "--yes", status=2)
    assert "studies/broken.yaml" in said
    assert "nothing is deleted: a study that cannot be planned may need any checkpoint" in said
    assert files(study.results) == before


def test_who_needs_a_pruned_checkpoint_by_hand_is_told_how_to_get_it(
    study: FinishedStudy, prune: Callable[..., str]
) -> None:
    prune("tiny", "--yes", *ALL)
    shutil.rmtree(study.scores(study.final))
    shutil.rmtree(study.exported)
    for use in (study.evaluates, study.exports):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value) == (
            f"{study.checkpoint(study.final)}: the checkpoint was deleted by `tst-titan prune`; train it again: "
            f"tst-titan train {study.final.id} --restore"
        )
    with pytest.raises(UserError, match=f"train it again: tst-titan train {study.parent.id} --restore"):
        study.trains_on()
    assert main(["train", study.final.id, "--restore"]) == 2
