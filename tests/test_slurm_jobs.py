"""Training jobs on a real Slurm: several nodes, stop signals, time limits, preemption, nodes and controllers that die.

Every fault ends with the losses, weights and moments of a run that nothing disturbed, at the same number of ranks.
"""

import itertools
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, cluster_or_skip
from slurm_jobs import (
    attempts,
    end_of,
    finish,
    nodes_of,
    reach,
    said,
    slowed,
    starts,
    state_of,
    steps_done,
    submit,
)
from slurm_studies import wait_for
from training import chain, constant, launch, make_job, recipe

from tst_titan.cluster import own_job
from tst_titan.meeting import MEETING_FILE
from tst_titan.plan.settings import Segment
from tst_titan.train.job import Job
from tst_titan.train.node import WORKER

pytestmark = pytest.mark.slurm

STEPS = 150
SLOW_STEPS = 600


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Three nodes; two partitions, of which `spare` gives way to `main`."""
    with cluster_or_skip(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def patient_cluster(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """One that takes its time to miss a node, as most do (SlurmdTimeout is 300 s where nobody sets it)."""
    with cluster_or_skip(tmp_path_factory.mktemp("patient"), slurmd_timeout=100) as running:
        yield running


def train_in_peace(steps: int, results: Path, corpus_dir: Path) -> tuple[Segment, Path]:
    """A segment trained by two ranks on one machine without Slurm, and its folder."""
    (segment,) = chain(constant(steps), recipe=recipe(learning_rate=3e-3))
    done = launch(make_job(segment, results, corpus_dir, processes=2))
    assert done.returncode == 0, done.stderr
    return segment, results / segment.id


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path) -> tuple[Segment, Path]:
    return train_in_peace(STEPS, tmp_path_factory.mktemp("undisturbed"), corpus_dir)


@pytest.fixture(scope="module")
def undisturbed_slowly(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path) -> tuple[Segment, Path]:
    """One that is long enough for Slurm to notice things while it is trained."""
    return train_in_peace(SLOW_STEPS, tmp_path_factory.mktemp("undisturbed"), corpus_dir)


@pytest.fixture
def job(undisturbed: tuple[Segment, Path], tmp_path: Path, corpus_dir: Path) -> Job:
    """The same segment to be trained by one rank on each of two nodes."""
    job = make_job(undisturbed[0], tmp_path, corpus_dir, nodes=2, stop_seconds=5)
    job.folder.mkdir(parents=True)
    return job


def test_a_signal_to_the_job_saves_on_all_nodes_and_slurm_runs_it_again(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    job_id = submit(cluster, job)
    reach(job, 30)
    cluster.run("scancel", "--signal=TERM", job_id)
    end = finish(cluster, job, job_id, undisturbed[1])
    assert end["restarts"] == "1"
    first, second = attempts(job)
    # Nothing after the signal is lost: the second goes on where the first stood.
    assert f"Training starts at step {first['step'] + 1}" in (job.folder / "train.log").read_text()
    assert 30 <= first["step"] < STEPS
    assert first["slurm_job_id"] == second["slurm_job_id"] == job_id


def test_a_start_that_slurm_has_given_up_does_not_take_the_next_one_for_itself(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = cluster.run("sbatch", "--parsable", "--requeue", "--output=/dev/null", "--wrap=sleep 300")
    wait_for(lambda: state_of(cluster, job_id)["state"] == "RUNNING")
    cluster.run("scontrol", "requeue", job_id)
    again = {"state": "RUNNING", "restarts": "1"}
    wait_for(lambda: state_of(cluster, job_id).items() >= again.items())
    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    monkeypatch.setenv("TST_TITAN_SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("TST_TITAN_SLURM_RESTARTS", "1")
    assert own_job.own_state() == "RUNNING"
    # As on a node that hung while Slurm started the job elsewhere.
    monkeypatch.setenv("TST_TITAN_SLURM_RESTARTS", "0")
    assert own_job.own_state() is None
    assert not own_job.run_again()
    assert state_of(cluster, job_id).items() >= again.items()
    cluster.run("scancel", job_id)


@pytest.mark.parametrize(("steps", "least"), [(500, 1), pytest.param(1200, 2, marks=pytest.mark.long)])
def test_a_run_longer_than_the_time_limit_finishes_by_itself(
    steps: int, least: int, cluster: SlurmCluster, tmp_path: Path, corpus_dir: Path
) -> None:
    segment, peace = train_in_peace(steps, tmp_path / "peace", corpus_dir)
    # A checkpoint every step, to take its time. How long a start takes on this machine, a first one shows, that is
    # cancelled.
    job = make_job(segment, tmp_path, corpus_dir, nodes=2, stop_seconds=5, checkpoint_steps=1)
    job.folder.mkdir(parents=True)
    begin = time.monotonic()
    job_id = submit(cluster, job)
    reach(job, 1)
    start_seconds = time.monotonic() - begin
    cluster.run("scancel", job_id)
    assert end_of(cluster, job, job_id)["state"] == "CANCELLED"
    # Limits are whole minutes: of three, the job uses what a start takes and some seconds.
    job = replace(job, hardware=replace(job.hardware, stop_seconds=180 - min(1.5 * start_seconds + 6, 150)))
    job_id = submit(cluster, job, "--time=3")
    end = finish(cluster, job, job_id, peace)
    assert int(end["restarts"]) >= least
    # Each start goes on where the one before it, out of time, has saved; the first is the one that was cancelled.
    reached = [attempt["step"] for attempt in attempts(job)]
    assert len(reached) == int(end["restarts"]) + 2
    assert reached == sorted(reached)
    assert starts(job) == list(dict.fromkeys([1, *(step + 1 for step in reached[:-1])]))


def test_slow_steps_and_slow_saves_stop_in_time_by_themselves(
    cluster: SlurmCluster, undisturbed: tuple[Segment, Path], tmp_path: Path, corpus_dir: Path
) -> None:
    """Without `stop_seconds`: steps and saves are measured, and the job is told early enough to save before its
    limit."""
    segment, peace = undisturbed
    # How long a start takes on this machine, as busy as it is; limits are whole minutes.
    first_row = json.loads((peace / "metrics.jsonl").read_text().splitlines()[0])
    start_seconds = first_row["time"] - json.loads((peace / "done.json").read_text())["attempts"][0]["start"]
    minutes = math.ceil((2 * start_seconds + 60) / 60)
    job = make_job(segment, tmp_path, corpus_dir, nodes=2, checkpoint_steps=4)
    job.folder.mkdir(parents=True)
    # More steps of two seconds than one start has time for.
    step = max(2.0, 60 * minutes / STEPS)
    environment = slowed(tmp_path / "slowed", step=step, save=3)
    job_id = submit(cluster, job, f"--time={minutes}", environment=environment)
    end = finish(cluster, job, job_id, peace)
    assert end["restarts"] == "1"
    first, second = attempts(job)
    assert (first["outcome"], second["outcome"]) == ("stopped", "finished")
    # It stopped before the limit by more than what stopping took, and lost no step.
    assert first["end"] - first["start"] < 60 * minutes - step - 3
    assert starts(job) == [1, first["step"] + 1]
    assert 1 < first["step"] < STEPS


@pytest.mark.long
def test_a_fixed_time_to_stop_that_is_too_short_ends_in_timeout(
    cluster: SlurmCluster, tmp_path: Path, corpus_dir: Path
) -> None:
    """What one number for all layouts did to a slow one: Slurm ends the job while it saves, and never runs it again."""
    (segment,) = chain(constant(STEPS), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir, nodes=2, stop_seconds=2)
    job.folder.mkdir(parents=True)
    environment = slowed(tmp_path / "slowed", step=2, save=60)
    job_id = submit(cluster, job, "--time=1", environment=environment)
    wait_for(lambda: state_of(cluster, job_id)["state"] == "TIMEOUT", 300, lambda: str(cluster.jobs()))
    assert state_of(cluster, job_id)["restarts"] == "0"
    assert not (job.folder / "done.json").exists()


def test_a_second_job_goes_behind_the_first_and_trains_nothing(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    first = submit(cluster, job)
    reach(job, 1)
    second = submit(cluster, job)
    wait_for(
        lambda: state_of(cluster, second)["restarts"] == "1" or state_of(cluster, second)["state"] == "COMPLETED",
        on_failure=lambda: said(job),
    )
    finish(cluster, job, first, undisturbed[1])
    finish(cluster, job, second, undisturbed[1])
    assert len(attempts(job)) == 1
    assert (job.folder / "train.log").read_text().count("Training starts at step") in (1, 2)  # once a rank


def test_preempted_it_saves_and_goes_on(
    cluster: SlurmCluster,
    tmp_path: Path,
    corpus_dir: Path,
    undisturbed_slowly: tuple[Segment, Path],
) -> None:
    segment, peace = undisturbed_slowly
    job = make_job(segment, tmp_path, corpus_dir, nodes=2, stop_seconds=5)
    job.folder.mkdir(parents=True)
    # So slow in its first start that it is under way when the other job comes, on any machine.
    environment = slowed(tmp_path / "slowed", step=0.05, save=0)
    job_id = submit(cluster, job, "--partition=spare", environment=environment)
    reach(job, 30)
    cluster.run("sbatch", "--partition=main", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 15")
    end = finish(cluster, job, job_id, peace)
    assert end["restarts"] == "1"
    first, second = attempts(job)
    assert (first["outcome"], second["outcome"]) == ("stopped", "finished")
    assert 30 <= first["step"] < SLOW_STEPS
    # Saved because it was told to, as no checkpoint was due: nothing is lost.
    assert starts(job) == [1, first["step"] + 1]


def sets_of_processes(job: Job) -> set[str]:
    """The rendezvous of each set of ranks that is alive for a segment."""
    found: set[str] = set()
    of_this_job = {WORKER.encode(), str(job.folder / "job.json").encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = set((process / "cmdline").read_bytes().split(b"\0"))
            environment = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            if of_this_job <= command and any(value.startswith("LOCAL_RANK=") for value in environment):
                found |= {value for value in environment if value.startswith(("MASTER_PORT=", MEETING_FILE))}
    return found


@contextmanager
def sampling(look: Callable[[], object]) -> Iterator[None]:
    """Call `look` some times a second until the block ends."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            look()

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


INTERVAL = 7


@pytest.mark.long
@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
def test_a_node_that_dies_costs_at_most_a_checkpoint_interval(
    place: int, cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    job = replace(job, hardware=replace(job.hardware, checkpoint_steps=INTERVAL))
    job_id = submit(cluster, job)
    reach(job, 30)
    nodes = nodes_of(cluster, job_id)
    cluster.kill_node(nodes[place])
    reached = steps_done(job)
    try:
        end = finish(cluster, job, job_id, undisturbed[1])
    finally:
        cluster.start(nodes[place])
    assert end["restarts"] == "1", said(job)
    first, second = attempts(job)
    assert (first["outcome"], second["outcome"]) == ("killed", "finished")
    assert reached - INTERVAL <= first["step"] <= reached < STEPS
    assert starts(job) == [1, first["step"] + 1]
    cluster.wait_until_idle()


@pytest.mark.long
@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
def test_slurmd_that_dies_over_living_processes_costs_nothing_and_no_segment_has_two_writers(
    place: int,
    cluster: SlurmCluster,
    tmp_path: Path,
    corpus_dir: Path,
    undisturbed_slowly: tuple[Segment, Path],
) -> None:
    segment, peace = undisturbed_slowly
    job = make_job(segment, tmp_path, corpus_dir, nodes=2, stop_seconds=5, checkpoint_steps=1)
    job.folder.mkdir(parents=True)
    job_id = submit(cluster, job)
    reach(job, 30)
    node = nodes_of(cluster, job_id)[place]
    cluster.kill(node)
    seen: list[set[str]] = []
    try:
        with sampling(lambda: seen.append(sets_of_processes(job))):
            end = finish(cluster, job, job_id, peace)
    finally:
        cluster.start(node)
    assert end["restarts"] == "1", said(job)
    assert max(map(len, seen)) == 1, seen
    spans = [(attempt["start"], attempt["end"]) for attempt in attempts(job)]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    cluster.wait_until_idle()


@pytest.mark.long
def test_a_dead_node_that_slurm_has_not_noticed_is_no_failure_of_the_job(
    patient_cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    job = replace(job, hardware=replace(job.hardware, checkpoint_steps=INTERVAL))
    job_id = submit(patient_cluster, job)
    reach(job, 30)
    node = nodes_of(patient_cluster, job_id)[-1]
    patient_cluster.kill_node(node)
    try:
        end = finish(patient_cluster, job, job_id, undisturbed[1])
    finally:
        patient_cluster.start(node)
    assert "node 1 of 2 ended without a word" in said(job)
    assert end["restarts"] == "1"
    first, second = attempts(job)
    assert (first["outcome"], second["outcome"]) == ("killed", "finished")
    assert starts(job) == [1, first["step"] + 1]


def test_the_controller_is_killed_and_started_again(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    job_id = submit(cluster, job)
    reach(job, 30)
    cluster.kill("slurmctld")
    time.sleep(5)
    cluster.start("slurmctld")
    wait_for(lambda: "is UP" in cluster.run("scontrol", "ping", check=False))
    end = finish(cluster, job, job_id, undisturbed[1])
    assert end["restarts"] == "0"
    assert len(attempts(job)) == 1


def test_saved_while_the_controller_is_away_the_job_goes_into_the_queue_when_it_is_back(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    job_id = submit(cluster, job)
    reach(job, 30)
    (launcher,) = [
        pid
        for pid in cluster.processes_of_jobs(nodes_of(cluster, job_id)[0])
        if b"run_segment" in (command := Path(f"/proc/{pid}/cmdline").read_bytes()) and b"python" in command
    ]
    cluster.kill("slurmctld")
    try:
        os.kill(launcher, signal.SIGTERM)
        wait_for(lambda: "no answer from Slurm, asking again" in said(job), 120, lambda: said(job))
    finally:
        cluster.start("slurmctld")
    wait_for(lambda: "is UP" in cluster.run("scontrol", "ping", check=False), 30)
    end = finish(cluster, job, job_id, undisturbed[1])
    assert end["restarts"] == "1"
    assert [attempt["outcome"] for attempt in attempts(job)] == ["stopped", "finished"]
    assert "Slurm answers again" in said(job)


def test_a_full_tmp_does_not_matter(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path], tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=True)
    try:
        (full / "ballast").write_bytes(b"x" * (64 << 10))
        job_id = submit(cluster, job, environment={"TMPDIR": str(full)})
        finish(cluster, job, job_id, undisturbed[1])
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)


@pytest.mark.long
def test_cancelled_by_a_person_it_saves_and_stays_cancelled(cluster: SlurmCluster, job: Job) -> None:
    job_id = submit(cluster, job)
    reach(job, 30)
    cluster.run("scancel", job_id)
    assert end_of(cluster, job, job_id)["state"] == "CANCELLED"
    time.sleep(8)
    assert state_of(cluster, job_id)["state"] == "CANCELLED"
    assert list(job.folder.glob("checkpoint/step-*/.metadata"))
    assert not (job.folder / "done.json").exists()


@pytest.mark.long
def test_a_time_limit_too_short_for_a_step_is_one_error_and_no_endless_loop(
    cluster: SlurmCluster, undisturbed: tuple[Segment, Path], tmp_path: Path, corpus_dir: Path
) -> None:
    job = make_job(undisturbed[0], tmp_path, corpus_dir, nodes=2, stop_seconds=120)
    job.folder.mkdir(parents=True)
    job_id = submit(cluster, job, "--time=2")
    assert end_of(cluster, job, job_id)["state"] == "FAILED"
    assert "without getting any further" in said(job)


@pytest.mark.long
def test_a_real_failure_fails_once_and_is_named(cluster: SlurmCluster, tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(60), recipe=recipe(learning_rate=1e30, warmup_steps=40, max_grad_norm=1e9))
    job = make_job(segment, tmp_path, corpus_dir, nodes=2)
    job.folder.mkdir(parents=True)
    job_id = submit(cluster, job)
    assert end_of(cluster, job, job_id)["state"] == "FAILED"
    assert state_of(cluster, job_id)["restarts"] == "0"
    assert "not finite" in said(job)
