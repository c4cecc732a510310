"""Evaluations as a user meets them: files, resuming, tasks of every kind, and errors that say what to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed.checkpoint as dcp
from data_hub_server import HubServer
from evaluate_segments import DENSE, TIED, initialized, results
from evaluate_tasks import user_task

from tst_titan.cli import main
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint, load_model
from tst_titan.evaluate.environment import prepare_environment
from tst_titan.evaluate.run import Evaluation, evaluate
from tst_titan.evaluate.suites import SUITE_METRICS, Tasks, tasks_of
from tst_titan.study.catalogue import TASK_GROUPS


@pytest.fixture(autouse=True)
def environment():
    before = dict(os.environ)
    prepare_environment()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def own_results(tmp_path):
    """A copy of `results()` with one segment, which a test may damage. Evaluations start anew."""
    segment = initialized(DENSE)
    copy = tmp_path / "results"
    shutil.copytree(results() / "segments" / segment.id, copy / "segments" / segment.id)
    (copy / "data").symlink_to(results() / "data")
    return copy, segment.id


def run(own_results, *groups, **options):
    folder, segment = own_results
    return evaluate(Evaluation(results=folder, segment=segment, groups=groups, limit=20, **options))


def test_the_documented_file_and_the_same_numbers_again(own_results, capsys):
    folder, segment = own_results
    assert main(["evaluate", segment, "--tasks", "offline", "--results", str(folder), "--limit", "20"]) == 0
    path = folder / "evaluations" / segment / "trials" / "offline.json"
    assert capsys.readouterr().out == f"{path}\n"
    found = json.loads(path.read_text())
    assert (found["segment"], found["checkpoint"], found["lm_eval_version"]) == (
        segment,
        "checkpoint/step-1",
        "0.4.13",
    )
    bits, cloze = found["tasks"]["heldout_bits_per_byte"], found["tasks"]["heldout_cloze"]
    # Untrained: about 9 bits a token of 512, at about 2 bytes a token.
    assert 3.5 < bits["bits_per_byte"]["value"] < 6
    assert 0 < bits["bits_per_byte"]["stderr"] < 0.5
    assert bits["bits_per_byte"]["higher_is_better"] is False
    assert (bits["metric"], cloze["metric"], cloze["num_samples"], cloze["version"]) == (
        "bits_per_byte",
        "acc_norm",
        20,
        "1.0",
    )
    assert {"acc", "acc_norm"} <= cloze.keys()
    # The same again, from nothing.
    path.unlink()
    shutil.rmtree(path.parent / "tasks")
    run(own_results, "offline")
    assert json.loads(path.read_text())["tasks"] == found["tasks"]


def test_a_trial_never_takes_the_place_of_a_final_evaluation(own_results):
    folder, segment = own_results
    (final,) = evaluate(Evaluation(results=folder, segment=segment, groups=["heldout_bits_per_byte"]))
    assert final == folder / "evaluations" / segment / "heldout_bits_per_byte.json"
    before = final.read_bytes()
    for trial in ({"limit": 2}, {"dtype": "bfloat16"}, {"limit": 3, "dtype": "float32"}):
        (path,) = evaluate(Evaluation(results=folder, segment=segment, groups=["heldout_bits_per_byte"], **trial))
        assert path == final.parent / "trials" / final.name
    assert final.read_bytes() == before
    records = (final.parent / "tasks").iterdir()
    assert [json.loads(record.read_text())["key"]["limit"] for record in records] == [None]


def test_finished_tasks_are_not_evaluated_again_and_others_are(own_results):
    folder, segment = own_results
    path = run(own_results, "offline")[0]
    records = sorted((path.parent / "tasks").iterdir())
    assert [record.stem for record in records] == ["heldout_bits_per_byte", "heldout_cloze"]
    written = [record.stat().st_mtime_ns for record in [*records, path]]
    run(own_results, "offline")
    # A task on its own is a group of its own and uses what is there.
    single = run(own_results, "heldout_cloze")[0]
    assert single.name == "heldout_cloze.json"
    assert [record.stat().st_mtime_ns for record in [*records, path]] == written
    # Another limit, and another training of the same segment, are other scores.
    evaluate(Evaluation(results=folder, segment=segment, groups=["offline"], limit=10))
    assert json.loads(path.read_text())["tasks"]["heldout_cloze"]["num_samples"] == 10
    before = json.loads(path.read_text())
    checkpoint = find_checkpoint(folder, segment)
    weights = {name: 1.5 * tensor for name, tensor in load_model(checkpoint).state_dict().items()}
    dcp.save(weights, checkpoint_id=str(checkpoint.path), no_dist=True)
    evaluate(Evaluation(results=folder, segment=segment, groups=["offline"], limit=10))
    after = json.loads(path.read_text())
    assert after["checkpoint_digest"] != before["checkpoint_digest"]
    assert after["tasks"] != before["tasks"]


def test_a_killed_evaluation_goes_on_after_its_last_finished_task(own_results):
    folder, segment = own_results
    command = [
        sys.executable,
        "-m",
        "tst_titan.cli",
        "evaluate",
        segment,
        "--results",
        str(folder),
        "--limit",
        "20",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    record = folder / "evaluations" / segment / "trials" / "tasks" / "heldout_bits_per_byte.json"
    while not record.is_file() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "evaluations" / segment / "trials" / "offline.json").exists()
    written = record.stat().st_mtime_ns
    path = run(own_results, "offline")[0]
    assert record.stat().st_mtime_ns == written
    assert json.loads(path.read_text())["tasks"].keys() == set(TASK_GROUPS["offline"])


def test_a_users_own_task(own_results, tmp_path):
    path = user_task(tmp_path / "tasks", "sums")
    found = json.loads(run(own_results, "sums", user_tasks=tmp_path / "tasks")[0].read_text())
    assert found["tasks"]["sums"]["acc"]["value"] in (0.0, 1.0)
    assert found["tasks"]["sums"]["metric"] == "acc"
    # An edited definition is another task, even where its version says nothing.
    path.write_text(path.read_text().replace('"q"', '"The {{q}}"'))
    again = json.loads(run(own_results, "sums", user_tasks=tmp_path / "tasks")[0].read_text())
    assert again["tasks"]["sums"]["acc"] is not None
    records = json.loads(
        (own_results[0] / "evaluations" / own_results[1] / "trials" / "tasks" / "sums.json").read_text()
    )
    assert records["key"]["version"].startswith("none+")


def test_mistakes_in_names_and_definitions(own_results, tmp_path):
    with pytest.raises(UserError, match=r"task helaswag: neither lm-eval nor .* did you mean .*hellaswag"):
        run(own_results, "helaswag")
    user_task(tmp_path / "tasks", "extended", include="missing.yaml")
    with pytest.raises(UserError, match=r"extended.yaml: task extended cannot be read: .*missing.yaml"):
        run(own_results, "extended", user_tasks=tmp_path / "tasks")
    folder, _ = own_results
    with pytest.raises(UserError, match=rf"no such segment; the nearest there is {own_results[1]}"):
        evaluate(Evaluation(results=folder, segment=own_results[1] + "x", groups=["offline"]))
    with pytest.raises(UserError, match=r"--device cuda:77: cannot be used here"):
        run(own_results, "offline", device="cuda:77")


def test_data_that_only_the_network_has(own_results, capsys):
    folder, segment = own_results
    assert main(["evaluate", segment, "--tasks", "paper", "--results", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "task hellaswag: its data (Rowan/hellaswag) are not in the prepared cache" in error
    assert "tst-titan fetch-eval-data --tasks hellaswag" in error


def test_fetched_data_serve_evaluations_without_network(own_results, tmp_path):
    folder, segment = own_results
    user_task(tmp_path / "tasks", "hosted", dataset_path="org/name", dataset_kwargs={})
    rows = (tmp_path / "tasks/hosted.jsonl").read_bytes()
    server = HubServer({"test.jsonl": rows}, {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tasks = ["--tasks", "hosted", "--task-definitions", str(tmp_path / "tasks")]

    def tst_titan(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": server.url}
        environment.pop("HF_HUB_OFFLINE")
        return subprocess.run(
            [sys.executable, "-m", "tst_titan.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        fetched = tst_titan("fetch-eval-data", *tasks)
    finally:
        server.shutdown()
        server.server_close()
    assert fetched.returncode == 0, fetched.stderr
    assert "hosted: 2 samples from org/name" in fetched.stderr
    assert server.requests["test.jsonl"] == 1
    evaluated = tst_titan("evaluate", segment, "--results", str(folder), *tasks)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(Path(evaluated.stdout.strip()).read_text())["tasks"]["hosted"]["num_samples"] == 2


def test_the_published_suite_is_complete_and_names_its_data():
    names = tasks_of("paper")
    tasks = Tasks(names, corpus_tasks=None, user_tasks=None)
    data = {name: tasks.datasets(name) for name in names}
    assert data["hellaswag"] == ["Rowan/hellaswag"]
    assert data["arc_easy"] == ["allenai/ai2_arc [ARC-Easy]"]
    assert data["winogrande"] == ["allenai/winogrande [winogrande_xl]"]
    assert len(data["mmlu"]) == 57
    assert all(data.values())
    assert {name: SUITE_METRICS[name] for name in names} == {
        "hellaswag": "acc_norm",
        "arc_easy": "acc_norm",
        "arc_challenge": "acc_norm",
        "mmlu": "acc",
        "boolq": "acc",
        "openbookqa": "acc_norm",
        "piqa": "acc_norm",
        "winogrande": "acc",
    }


def test_checkpoints_that_are_missing_damaged_or_of_something_else(own_results):
    folder, segment = own_results
    path = folder / "segments" / segment
    evaluated = folder / "evaluations" / segment / "trials" / "offline.json"
    evaluated.parent.mkdir(parents=True)
    evaluated.write_text(json.dumps({"segment": "other/decay-0-1-00000000", "tasks": {}}))
    with pytest.raises(UserError, match=r"offline.json: is the evaluation of other/decay-0-1-00000000, not of"):
        run(own_results, "offline")
    evaluated.unlink()

    data = next((path / "checkpoint/step-1").glob("*.distcp"))
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"step-1: damaged, or not of this segment .* train the segment again"):
        run(own_results, "offline")
    data.write_bytes(whole)

    settings = (path / "settings.json").read_text()
    (path / "settings.json").write_text(settings.replace('"num_layers": 2', '"num_layers": 3'))
    with pytest.raises(UserError, match=r"settings.json: holds the settings of "):
        run(own_results, "offline")
    (path / "settings.json").write_text(settings)

    tied = results() / "segments" / initialized(TIED).id / "checkpoint" / "step-1"
    shutil.copytree(tied, path / "checkpoint" / "step-1", dirs_exist_ok=True)
    (path / "checkpoint/step-1/.metadata").unlink()
    with pytest.raises(UserError, match=r"checkpoint/step-1: the checkpoint is missing; delete .*done.json"):
        run(own_results, "offline")
    (path / "done.json").unlink()
    with pytest.raises(UserError, match=rf"not finished \(no done.json\); train it first: tst-titan train {segment}"):
        run(own_results, "offline")
