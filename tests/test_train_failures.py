"""Two ranks, one of which fails: the job ends at once, with the true reason. And nobody outlives the launcher."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training import all_descendants, chain, constant, make_job, recipe, start_launcher

from tst_titan.files import try_flock
from tst_titan.processes import held_port
from tst_titan.train.failures import first_failure, record_failure
from tst_titan.train.job import Job, write_job


@pytest.fixture
def job(tmp_path: Path, corpus_dir: Path) -> Job:
    (segment,) = chain(constant(100_000), recipe=recipe())
    return make_job(segment, tmp_path, corpus_dir, processes=2)


OUT_OF_MEMORY = "out of device memory; lower hardware.micro_batch or raise the sharding. no checkpoint"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("out_of_memory", OUT_OF_MEMORY),
        ("connection_closed_first", OUT_OF_MEMORY),
        (
            "killed",
            r"rank 1 on \S+ was killed by SIGKILL \(out of host memory\? dmesg tells\); run again to go on",
        ),
        ("standing_still", "[Tt]imed out.*; no word from rank 1; see .*train.log"),
    ],
)
def test_when_one_rank_fails_the_job_ends_with_its_reason_whatever_the_other_does(
    fault: str, reason: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the half minute that torchrun gives a rank that hangs, nor NCCL's ten, nor with rank 0's lost
    connection."""
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    launcher = start_launcher(job, worker="faulty_rank")
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 1
    pattern = re.compile(reason)
    assert pattern.search(errors), errors
    assert "Traceback" not in errors
    assert pattern.search(json.loads((job.folder / "failure.json").read_text())["message"])
    (attempt,) = json.loads((job.folder / "attempts.json").read_text())
    assert attempt["outcome"] == "failed"
    first = first_failure(job.folder)
    assert first is not None
    # Three seconds for the others' words, and the rest for a busy machine; without the mend an hour.
    assert attempt["end"] - first.time < 20


def test_a_rank_that_hangs_when_all_is_saved_costs_seconds_and_no_result(
    tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (segment,) = chain(constant(4), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir, processes=2)
    monkeypatch.setenv("FAULT", "hanging_at_its_end")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    launcher = start_launcher(job, worker="faulty_rank")
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    assert json.loads((job.folder / "done.json").read_text())["end_step"] == 4
    assert "in hang" in (job.folder / "train.log").read_text()


def test_the_reason_is_the_known_one_then_the_first_that_is_not_only_of_another_rank(tmp_path: Path) -> None:
    assert first_failure(tmp_path) is None
    told = []
    for rank, message, known in (
        (3, "RuntimeError: Connection reset by peer", False),
        (2, "AssertionError: shapes", False),
        (0, "KeyError: 'x'", False),
        (1, "out of device memory", True),
        (4, "no space left", True),
    ):
        record_failure(tmp_path, rank, message, known=known)
        first = first_failure(tmp_path)
        assert first is not None
        told.append(first.rank)
    assert told == [3, 2, 2, 1, 1]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_files(pid: int) -> set[str]:
    return {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}


def trains(job: Job) -> bool:
    metrics = job.folder / "metrics.jsonl"
    return metrics.exists() and len(metrics.read_text().splitlines()) >= 2


def test_a_launcher_that_is_killed_takes_its_ranks_along_and_only_then_is_the_lock_free(
    job: Job,
) -> None:
    """Else a second job would write beside ranks that live on."""
    launcher = start_launcher(job)
    wait_until(lambda: trains(job), "no step was trained")
    ranks = [pid for pid in all_descendants(launcher.pid) if b"tst_titan.train.titan.worker" in _command(pid)]
    assert len(ranks) == 2
    for rank in ranks:
        assert str(job.folder / "lock") in open_files(rank)
    with (job.folder / "lock").open("a") as lock:
        assert try_flock(lock) is False
        launcher.send_signal(signal.SIGKILL)
        wait_until(lambda: try_flock(lock), "the lock was not given back")
        assert not [rank for rank in ranks if lives(rank)]
    launcher.communicate()


def test_a_nodes_task_that_is_killed_takes_its_ranks_along(job: Job) -> None:
    """As srun starts it on each node (here on the only one)."""
    job.folder.mkdir(parents=True)
    with held_port() as port:
        task = subprocess.Popen(
            [sys.executable, "-m", "tst_titan.train.node", str(write_job(job)), "--master", f"127.0.0.1:{port}"],
            env=os.environ | {"SLURM_NODEID": "0", "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,  # noqa: E501
            start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: trains(job), "no step was trained")
        ranks = all_descendants(task.pid)
        assert len([rank for rank in ranks if b"tst_titan.train.titan.worker" in _command(rank)]) == 2
        task.kill()
        task.wait()
        wait_until(lambda: not any(map(lives, ranks)), "a rank outlived its node's task")


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
