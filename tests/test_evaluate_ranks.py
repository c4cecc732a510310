"""Two processes give to the bit the scores of one, through torchrun as a user starts them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from evaluate_segments import DENSE, MOE, initialized, results

from tst_titan.evaluate.ranks import Ranks

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


def evaluated(own_results, *options):
    folder, segment, tasks = own_results
    command = [
        sys.executable, "-m", "tst_titan.cli", "evaluate", segment, "--results", str(folder), "--limit", "20",
        "--tasks", "offline", "continue", "--task-definitions", str(tasks), *options,
    ]  # fmt: skip
    return subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_give_the_scores_of_one(own_results):
    folder, segment, _ = own_results
    out = folder / "evaluations" / segment
    alone = evaluated(own_results)
    assert alone.returncode == 0, alone.stderr
    names = ("offline.json", "continue.json")
    expected = [json.loads((out / name).read_text())["tasks"] for name in names]
    shutil.rmtree(out)
    together = evaluated(own_results, "--processes", "2")
    assert together.returncode == 0, together.stderr
    assert [json.loads((out / name).read_text())["tasks"] for name in names] == expected
    # One of them says what was found, and where.
    assert together.stdout == alone.stdout
    assert together.stderr.count("heldout_cloze: acc_norm") == 1
    # What is finished is not done again, on any number of processes.
    written = (out / "tasks" / "heldout_cloze.json").stat().st_mtime_ns
    assert evaluated(own_results, "--processes", "2").returncode == 0
    assert (out / "tasks" / "heldout_cloze.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("own_results", [DENSE, MOE], indirect=True, ids=["dense", "moe"])
def test_a_model_divided_between_two_processes_gives_the_scores_of_the_whole(own_results):
    folder, segment, _ = own_results
    out = folder / "evaluations" / segment
    assert evaluated(own_results).returncode == 0
    expected = json.loads((out / "offline.json").read_text())["tasks"]
    shutil.rmtree(out)
    divided = evaluated(own_results, "--processes", "2", "--shard")
    assert divided.returncode == 0, divided.stderr
    found = json.loads((out / "offline.json").read_text())["tasks"]
    bits = [tasks["heldout_bits_per_byte"]["bits_per_byte"]["value"] for tasks in (expected, found)]
    assert bits[1] == pytest.approx(bits[0], rel=1e-6)
    assert found["heldout_cloze"] == expected["heldout_cloze"]


def test_shares_are_disjoint_and_complete():
    for size in (1, 2, 3, 7):
        shares = [Ranks(rank, size).share(list(range(10))) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == list(range(10))


def test_mistakes_are_one_message_of_every_process(own_results):
    wrong = evaluated(own_results, "--processes", "2", "--through-export")
    assert wrong.returncode != 0
    assert "error: an export is evaluated by one process" in wrong.stderr
