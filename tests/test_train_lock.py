"""The segment's lock as nodes of a cluster see it: who holds it, when it is stale, and that it is never held twice."""

import itertools
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tst_titan.cluster import lock as lock_module
from tst_titan.cluster.lock import HeldByJob, Holder, LockLost, read_holder, segment_lock

ELSEWHERE = Holder(node="another-node", process=4242, slurm_job=None, token="feedbeef", count=7)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of seconds for what takes a minute in earnest."""
    for name, seconds in (
        ("BEAT_SECONDS", 0.05),
        ("QUIET_SECONDS", 0.6),
        ("SETTLE_SECONDS", 0.1),
        ("POLL_SECONDS", 0.05),
    ):
        monkeypatch.setattr(lock_module, name, seconds)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process as job 7 on node n1 of a Slurm whose squeue says what is in a file (its name: the job's id)."""
    states = tmp_path / "states"
    states.mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        "#!/bin/sh\nfor word; do case $word in --jobs=*) job=${word#--jobs=};; esac; done\n"
        f'[ -e {states}/$job ] || {{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }}\n'
        f"cat {states}/$job\n"
    )
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    return states


def write_holder(folder: Path, holder: Holder) -> None:
    (folder / "lock").touch()
    lock_module._write(folder / "lock", json.dumps(asdict(holder)))


def hold(
    folder: Path, seconds: float, times: "multiprocessing.Queue[tuple[float, float]]", node: str, job: str
) -> None:
    os.environ.update(SLURMD_NODENAME=node, SLURM_JOB_ID=job)
    lock_module.fcntl.flock = lambda *_: None  # a file system that carries no locks from node to node
    while True:
        try:
            with segment_lock(folder) as lock:
                start = time.monotonic()
                while time.monotonic() < start + seconds:
                    lock.beat()
                    time.sleep(0.02)
                times.put((start, time.monotonic()))
                return
        except HeldByJob:
            time.sleep(0.05)


def test_a_held_lock_names_its_holder_and_a_released_one_nobody(tmp_path: Path) -> None:
    with segment_lock(tmp_path):
        holder = read_holder(tmp_path / "lock")
        assert holder is not None
        assert holder.process == os.getpid()
    assert read_holder(tmp_path / "lock") is None


def test_a_holder_on_another_node_that_beats_is_waited_for(tmp_path: Path) -> None:
    write_holder(tmp_path, ELSEWHERE)
    context = multiprocessing.get_context("fork")

    def beat() -> None:
        for count in range(20):
            write_holder(tmp_path, replace(ELSEWHERE, count=count))
            time.sleep(0.1)

    other = context.Process(target=beat)
    start = time.monotonic()
    other.start()
    with segment_lock(tmp_path):
        assert time.monotonic() - start > 2.0
        assert not other.is_alive()
    other.join()


def test_a_holder_on_another_node_that_stands_still_is_gone(tmp_path: Path) -> None:
    write_holder(tmp_path, ELSEWHERE)
    start = time.monotonic()
    with segment_lock(tmp_path) as lock:
        assert 0.6 <= time.monotonic() - start < 5
        assert lock.holder.token != ELSEWHERE.token


def test_another_running_job_is_not_waited_for_but_named(tmp_path: Path, slurm: Path) -> None:
    write_holder(tmp_path, replace(ELSEWHERE, slurm_job="6"))
    (slurm / "6").write_text("RUNNING\n")
    with pytest.raises(HeldByJob) as held, segment_lock(tmp_path):
        pass
    assert held.value.job == "6"
    assert read_holder(tmp_path / "lock").slurm_job == "6"  # type: ignore[union-attr]


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", "NODE_FAIL", "PENDING", None])
def test_a_job_that_slurm_no_longer_runs_holds_nothing_once_it_is_still(
    state: str | None, tmp_path: Path, slurm: Path
) -> None:
    write_holder(tmp_path, replace(ELSEWHERE, slurm_job="6"))
    if state:
        (slurm / "6").write_text(state + "\n")
    start = time.monotonic()
    with segment_lock(tmp_path):
        assert time.monotonic() - start >= 0.6


def test_the_same_job_started_again_waits_only_until_its_former_start_is_still(tmp_path: Path, slurm: Path) -> None:
    (slurm / "7").write_text("RUNNING\n")
    write_holder(tmp_path, replace(ELSEWHERE, slurm_job="7"))
    with segment_lock(tmp_path) as lock:
        assert lock.holder.slurm_job == "7"


def test_a_holder_whose_lock_was_taken_over_learns_it_at_the_next_beat(tmp_path: Path) -> None:
    with segment_lock(tmp_path) as lock:
        lock.beat()
        write_holder(tmp_path, ELSEWHERE)
        time.sleep(0.1)
        with pytest.raises(LockLost, match="another-node"):
            lock.beat()
    # And leaves the other's lock alone.
    assert read_holder(tmp_path / "lock") == ELSEWHERE


def test_nodes_whose_file_system_carries_no_locks_take_turns(tmp_path: Path, slurm: Path) -> None:
    folder = tmp_path / "segment"
    context = multiprocessing.get_context("fork")
    times = context.Queue()
    for job in ("11", "12", "13"):
        (slurm / job).write_text("RUNNING\n")
    holders = [
        context.Process(target=hold, args=(folder, 0.5, times, f"n{number}", f"1{number}")) for number in (1, 2, 3)
    ]
    for holder in holders:
        holder.start()
    held = sorted(times.get(timeout=60) for _ in holders)
    for holder in holders:
        holder.join()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(held))


# Holds a segment's lock for some seconds and notes when, with tenths of seconds for what takes a minute in earnest.
HOLDER = """
import json, sys, time
from pathlib import Path
from tst_titan.cluster import lock
lock.BEAT_SECONDS, lock.QUIET_SECONDS, lock.SETTLE_SECONDS, lock.POLL_SECONDS = 0.1, 2.0, 0.3, 0.1
with lock.segment_lock(Path(sys.argv[1])) as held:
    start = time.monotonic()
    print("held", flush=True)
    while time.monotonic() < start + float(sys.argv[2]):
        held.beat()
        time.sleep(0.02)
    print(json.dumps([start, time.monotonic()]), flush=True)
"""


def test_where_the_file_system_carries_no_locks_jobs_of_one_machine_take_turns(
    tmp_path: Path, without_flock: None
) -> None:
    """A killed one is waited for until its count stands still, and that there are no locks is said once."""

    def start(seconds: float) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLDER, str(tmp_path), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed = start(60)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "held\n"
    others = [start(1.0), start(1.0)]
    time.sleep(1.0)
    assert all(other.poll() is None for other in others)
    killed.kill()
    killed.communicate()
    spans = []
    for other in others:
        out, errors = other.communicate(timeout=120)
        assert other.returncode == 0, errors
        assert errors.count("this file system carries no locks (flock)") == 1
        spans.append(json.loads(out.splitlines()[1]))
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start
