"""Two processes give to the bit the scores of one, as a user starts them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evaluate_segments import DENSE, MOE, initialized, results

from tst_titan.errors import UserError
from tst_titan.evaluate.environment import prepare_environment
from tst_titan.evaluate.ranks import Ranks
from tst_titan.evaluate.run import Evaluation, evaluate

CONTINUE = """\
task: continue
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: q
doc_to_target: a
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
# torch's exchange of objects between ranks ends them, here and wherever torch or lm-eval uses it themselves.
NO_PICKLES = """\
import os
if "RANK" in os.environ:
    import torch.distributed.distributed_c10d as ranks
    def refuse(*_):
        raise AssertionError("ranks exchange pickles")
    assert ranks._pickler and ranks._unpickler
    ranks._pickler = ranks._unpickler = refuse
"""


@pytest.fixture
def own_results(tmp_path, request):
    segment = initialized(getattr(request, "param", DENSE))
    folder = tmp_path / "results"
    shutil.copytree(results() / "segments" / segment.id, folder / "segments" / segment.id)
    (folder / "data").symlink_to(results() / "data")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = [{"q": f"def name_{index}(", "a": "self"} for index in range(5)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "continue.yaml").write_text(CONTINUE.format(data=tasks / "rows.jsonl", cache=tmp_path / "cache"))
    return folder, segment.id, tasks


def alone(own_results, *groups):
    """The scores of one process: this one. Its files are removed."""
    folder, segment, tasks = own_results
    prepare_environment()
    evaluation = Evaluation(results=folder, segment=segment, groups=groups, limit=20, user_tasks=tasks)
    paths = evaluate(evaluation)
    found = [json.loads(path.read_text())["tasks"] for path in paths]
    shutil.rmtree(folder / "evaluations")
    return found


def together(own_results, *options):
    """The scores of two processes, and what they said."""
    folder, segment, tasks = own_results
    command = [
        sys.executable, "-m", "tst_titan.cli", "evaluate", segment, "--results", str(folder), "--limit", "20",
        "--task-definitions", str(tasks), "--processes", "2", *options,
    ]  # fmt: skip
    # Python imports it at its start, in every rank.
    (folder.parent / "sitecustomize.py").write_text(NO_PICKLES)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(Path(path).read_text())["tasks"] for path in done.stdout.split()], done


def test_two_processes_give_to_the_bit_the_scores_of_one_and_exchange_no_pickles(own_results):
    expected = alone(own_results, "offline", "continue")
    found, done = together(own_results, "--tasks", "offline", "continue")
    assert found == expected
    # One of them says what was found.
    assert done.stderr.count("heldout_cloze: acc_norm") == 1


@pytest.mark.parametrize("own_results", [MOE], indirect=True, ids=["moe"])
def test_a_model_divided_between_two_processes_gives_the_scores_of_the_whole(own_results):
    (expected,) = alone(own_results, "offline")
    (found,), _ = together(own_results, "--tasks", "offline", "--shard")
    bits = [tasks["heldout_bits_per_byte"]["bits_per_byte"]["value"] for tasks in (expected, found)]
    assert bits[1] == pytest.approx(bits[0], rel=1e-6)
    assert found["heldout_cloze"] == expected["heldout_cloze"]


def test_shares_are_disjoint_and_complete():
    for size in (1, 2, 3, 7):
        shares = [Ranks(rank, size).share(list(range(10))) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == list(range(10))


def test_an_export_is_evaluated_by_one_process(own_results, monkeypatch):
    folder, segment, _ = own_results
    monkeypatch.setattr("tst_titan.evaluate.run.join_ranks", lambda: Ranks(0, 2))
    with pytest.raises(UserError, match="an export is evaluated by one process"):
        evaluate(Evaluation(results=folder, segment=segment, groups=["offline"], backend="export"))
