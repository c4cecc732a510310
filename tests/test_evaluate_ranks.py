"""Two processes give to the bit the scores of one, through torchrun as a user starts them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from evaluate_segments import DENSE, initialized, results

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
def own_results(tmp_path):
    segment = initialized(DENSE)
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


def test_shares_are_disjoint_and_complete():
    for size in (1, 2, 3, 7):
        shares = [Ranks(rank, size).share(list(range(10))) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == list(range(10))


def test_mistakes_are_one_message_of_every_process(own_results):
    wrong = evaluated(own_results, "--processes", "2", "--through-export")
    assert wrong.returncode != 0
    assert "error: an export is evaluated by one process" in wrong.stderr
