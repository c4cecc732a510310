"""Several builders of one corpus: two checkouts, users or commands on one results folder."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from data_fixtures import jsonl, settings, texts

from tst_titan.cluster import lock as lock_module
from tst_titan.cluster.lock import Holder, LockLost, beating, folder_lock, read_holder
from tst_titan.data.build import build_corpus, tokenize_share
from tst_titan.data.building import corpus_lock, running_share
from tst_titan.data.manifest import verify_corpus
from tst_titan.errors import UserError

SHAPE = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "ffn_dim": 64}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose corpus of a dozen files trains a tokenizer."""
    folder = tmp_path / "in"
    for number in range(12):
        jsonl(folder / f"{number:02d}.jsonl", texts(400, seed=number))
    file = tmp_path / "studies" / "mine.yaml"
    file.parent.mkdir()
    definition = {
        "corpus": {
            "source": "texts",
            "sources": {"texts": {"kind": "files", "path": str(folder)}},
            "tokenizer": "bpe-512",
            "validation_tokens": 500,
        },
        "models": {"tiny": {"shape": SHAPE, "learning_rate": 1e-2}},
        "steps": 10,
        "arms": {"baseline": {}},
        "training": {"seq_len": 64, "sequences_per_step": 2, "warmup_steps": 1, "precision": "float32"},
    }
    file.write_text(yaml.safe_dump(definition))
    return file


def building(study: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tst_titan.cli", "data", "build", str(study)]
    return subprocess.Popen(
        [*command, "--results", str(study.parent.parent / "results"), "--workers", "1", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(running: "subprocess.Popen[str]", words: str) -> None:
    """Wait until a process says these words on stderr."""
    assert running.stderr is not None
    line = running.stderr.readline()
    while words not in line:
        assert line, f"ended without a word of {words!r}"
        line = running.stderr.readline()


def test_of_three_builders_at_once_one_builds_and_the_others_find_it_finished(study: Path) -> None:
    """One of two failed each time, and once the other ended well with a shard missing."""
    builders = [building(study) for _ in range(3)]
    ends = [builder.communicate() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0], ends
    trained = [errors.count("training a byte-level BPE of 512 ids") for _, errors in ends]
    assert sorted(trained) == [0, 0, 1]
    assert len({out for out, _ in ends}) == 1
    (folder,) = (study.parent.parent / "results" / "data").iterdir()
    assert verify_corpus(folder) > 0
    assert not (folder / ".work").exists()
    assert read_holder(folder / "lock") is None


def test_a_builder_that_is_killed_leaves_the_next_one_to_go_on(study: Path) -> None:
    killed = building(study)
    said(killed, "training a byte-level BPE")
    killed.kill()
    killed.communicate()
    next_one = building(study)
    _, errors = next_one.communicate()
    assert next_one.returncode == 0, errors


def test_shares_run_side_by_side_and_the_build_waits_for_them(tmp_path: Path) -> None:
    """A build that ended while a share ran deleted the folder under it."""
    for number in range(12):
        jsonl(tmp_path / "in" / f"{number:02d}.jsonl", texts(40, seed=number))
    chosen = settings(tmp_path / "in")
    folder = tmp_path / "corpus"
    with corpus_lock(folder):
        first = running_share(folder)
        first.__enter__()
    tokenize_share(chosen, folder, (1, 2), num_workers=1)
    builder = threading.Thread(target=build_corpus, args=(chosen, folder), kwargs={"num_workers": 1})
    builder.start()
    while read_holder(folder / "lock") is None:
        time.sleep(0.01)
    time.sleep(1.0)
    assert builder.is_alive()
    assert not (folder / "corpus.json").exists()
    first.__exit__(None, None, None)
    builder.join()
    assert verify_corpus(folder) > 0
    assert not (folder / ".work").exists()


def test_a_corpus_that_is_whole_needs_no_right_to_write(tmp_path: Path) -> None:
    chosen = settings(jsonl(tmp_path / "in.jsonl", texts(300)))
    folder = tmp_path / "corpus"
    manifest = build_corpus(chosen, folder, num_workers=1)
    (folder / "lock").unlink()
    assert build_corpus(chosen, folder, num_workers=1) == manifest
    tokenize_share(chosen, folder, (0, 2), num_workers=1)
    assert not (folder / "lock").exists()


def test_who_lost_the_lock_while_it_stood_still_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was suspended for minutes wakes up, and another builds."""
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.05)
    other = Holder(node="another-node", process=4242, slurm_job=None, token="feedbeef")

    def suspended() -> None:
        with folder_lock(tmp_path, doing="built") as lock, beating(lock):
            lock_module._write(tmp_path / "lock", json.dumps(asdict(other)))
            time.sleep(60)

    with pytest.raises(LockLost, match=r"lock: taken over by process 4242 on another-node"):
        suspended()
    assert read_holder(tmp_path / "lock") == other


def test_a_share_that_fails_is_waited_for_no_longer(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "missing")
    with pytest.raises(UserError):
        tokenize_share(chosen, tmp_path / "corpus", (0, 2), num_workers=1)
    jsonl(tmp_path / "missing" / "in.jsonl", texts(300))
    assert build_corpus(chosen, tmp_path / "corpus", num_workers=1)["sources"]
