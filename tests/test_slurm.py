"""Studies and training jobs on a real Slurm: several nodes, stop signals, time limits, preemption, nodes and Snakemakes that die.

Every fault ends with the losses, weights and moments of a run that nothing disturbed, at the same number of ranks.
"""

import csv
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from slurm_cluster import SlurmCluster, SlurmUnavailable, slurm_cluster
from slurm_studies import checkout, run_snakemake, start_snakemake, wait_for
from training import assert_same_state, chain, constant, launch, make_job, recipe, rows, saved_state

from tst_titan.plan.settings import Segment
from tst_titan.train import slurm
from tst_titan.train.job import Job, write_job
from tst_titan.train.node import WORKER

pytestmark = pytest.mark.slurm

REPOSITORY = Path(__file__).parent.parent
EXACT = ("step", "loss", "grad_norm", "learning_rate", "data_tokens")
STEPS = 150
SLOW_STEPS = 600


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Three nodes; two partitions, of which `spare` gives way to `main`."""
    try:
        with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
            yield running
    except SlurmUnavailable as reason:
        pytest.skip(f"no Slurm here: {reason}")


@pytest.fixture
def patient_cluster(
    cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmCluster]:
    """One that takes its time to miss a node, as most do (SlurmdTimeout is 300 s where nobody sets it)."""
    with slurm_cluster(tmp_path_factory.mktemp("patient"), slurmd_timeout=100) as running:
        yield running


# --- Training jobs, submitted as the executor submits them ---


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path) -> tuple[Segment, Path]:
    """A segment trained in peace by two ranks on one machine without Slurm."""
    (segment,) = chain(constant(STEPS), recipe=recipe(learning_rate=3e-3))
    results = tmp_path_factory.mktemp("undisturbed")
    done = launch(make_job(segment, results, corpus_dir, processes=2))
    assert done.returncode == 0, done.stderr
    return segment, results / segment.id


@pytest.fixture(scope="module")
def undisturbed_slowly(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path) -> tuple[Segment, Path]:
    """One that is long enough, with a checkpoint every step, for Slurm to notice things while it is trained."""
    (segment,) = chain(constant(SLOW_STEPS), recipe=recipe(learning_rate=3e-3))
    results = tmp_path_factory.mktemp("undisturbed")
    done = launch(make_job(segment, results, corpus_dir, processes=2))
    assert done.returncode == 0, done.stderr
    return segment, results / segment.id


def submit(cluster: SlurmCluster, job: Job, *options: str, environment: dict[str, str] | None = None) -> str:
    """Queue a training job with the profile's own precommand; returns its id."""
    profile = yaml.safe_load((REPOSITORY / "slurm" / "config.yaml").read_text())
    before = profile["precommand"].replace("\\$", "$")
    code = (
        "import sys; from pathlib import Path; from tst_titan.train.job import read_job;"
        "from tst_titan.train.launch import run_segment;"
        "sys.exit(run_segment(read_job(Path(sys.argv[1]))))"
    )
    # The executor's job step, like this, keeps of Slurm's variables little more than the job's id.
    command = (
        f"{before} && unset SLURM_CONF && {shlex.join([sys.executable, '-c', code, str(write_job(job))])}"
    )
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--nodes={job.hardware.nodes}",
         f"--ntasks={job.hardware.nodes}", f"--cpus-per-task={job.hardware.processes}", "--mem=4000",
         f"--output={job.folder}/slurm-%j.log", f"--comment={job.segment.id}", *options, f"--wrap={command}"],
        env=cluster.environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state_of(cluster: SlurmCluster, job_id: str) -> dict[str, str]:
    return next(job for job in cluster.jobs() if job["id"] == job_id)


def steps_done(job: Job) -> int:
    metrics = job.folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def said(job: Job) -> str:
    logs = [*job.folder.glob("slurm-*.log"), job.folder / "train.log"]
    return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())


def reach(job: Job, step: int) -> None:
    wait_for(lambda: steps_done(job) >= step, 240, lambda: f"step {step} was not reached\n{said(job)}")


def finish(
    cluster: SlurmCluster, job: Job, job_id: str, undisturbed: Path, seconds: float = 300
) -> dict[str, str]:
    """Wait for the job's end; it completed, and the segment is what it would have been undisturbed."""
    over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
    wait_for(
        lambda: state_of(cluster, job_id)["state"] in over, seconds, lambda: said(job) + str(cluster.jobs())
    )
    end = state_of(cluster, job_id)
    assert end["state"] == "COMPLETED", said(job)
    last = job.segment.end_step
    assert_same_state(saved_state(job.folder, last), saved_state(undisturbed, last))
    assert rows(job.folder, *EXACT) == rows(undisturbed, *EXACT)
    return end


def attempts(job: Job) -> list[dict]:
    return json.loads((job.folder / "done.json").read_text())["attempts"]


def nodes_of(cluster: SlurmCluster, job_id: str) -> list[str]:
    return cluster.run("scontrol", "show", "hostnames", state_of(cluster, job_id)["nodes"]).split()


def starts(job: Job) -> list[int]:
    """The step at which each start of the training processes began."""
    log = (job.folder / "train.log").read_text()
    return list(dict.fromkeys(map(int, re.findall(r"Training starts at step (\d+)", log))))


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
    wait_for(lambda: state_of(cluster, job_id)["state"] == "RUNNING", 60)
    cluster.run("scontrol", "requeue", job_id)
    again = {"state": "RUNNING", "restarts": "1"}
    wait_for(lambda: state_of(cluster, job_id).items() >= again.items(), 90)
    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    monkeypatch.setenv("TST_TITAN_SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("TST_TITAN_SLURM_RESTARTS", "1")
    assert slurm.own_state() == "RUNNING"
    # As on a node that hung while Slurm started the job elsewhere.
    monkeypatch.setenv("TST_TITAN_SLURM_RESTARTS", "0")
    assert slurm.own_state() is None
    assert not slurm.run_again()
    assert state_of(cluster, job_id).items() >= again.items()
    cluster.run("scancel", job_id)


@pytest.mark.parametrize(
    ("steps", "least"), [(500, 1), pytest.param(1200, 2, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_a_run_longer_than_the_time_limit_finishes_by_itself(
    steps: int, least: int, cluster: SlurmCluster, tmp_path: Path, corpus_dir: Path
) -> None:
    (segment,) = chain(constant(steps), recipe=recipe(learning_rate=3e-3))
    peace = make_job(segment, tmp_path / "peace", corpus_dir, processes=2)
    assert launch(peace).returncode == 0
    # A checkpoint every step, to take its time. How long a start takes on this machine, a first one shows, that is cancelled.
    job = make_job(segment, tmp_path, corpus_dir, nodes=2, stop_seconds=5, checkpoint_steps=1)
    job.folder.mkdir(parents=True)
    begin = time.monotonic()
    job_id = submit(cluster, job)
    reach(job, 1)
    start_seconds = time.monotonic() - begin
    cluster.run("scancel", job_id)
    wait_for(lambda: state_of(cluster, job_id)["state"] == "CANCELLED", 60)
    # Limits are whole minutes: of three, the job uses what a start takes and some seconds.
    job = replace(job, hardware=replace(job.hardware, stop_seconds=180 - min(1.5 * start_seconds + 6, 150)))
    job_id = submit(cluster, job, "--time=3")
    end = finish(cluster, job, job_id, peace.folder, seconds=500 if least == 1 else 900)
    assert int(end["restarts"]) >= least
    # Each start goes on where the one before it, out of time, has saved; the first is the one that was cancelled.
    reached = [attempt["step"] for attempt in attempts(job)]
    assert len(reached) == int(end["restarts"]) + 2
    assert reached == sorted(reached)
    assert starts(job) == list(dict.fromkeys([1, *(step + 1 for step in reached[:-1])]))


def test_a_second_job_goes_behind_the_first_and_trains_nothing(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    first = submit(cluster, job)
    reach(job, 1)
    second = submit(cluster, job)
    wait_for(
        lambda: (
            state_of(cluster, second)["restarts"] == "1" or state_of(cluster, second)["state"] == "COMPLETED"
        ),
        120,
        lambda: said(job),
    )
    finish(cluster, job, first, undisturbed[1])
    finish(cluster, job, second, undisturbed[1])
    assert len(attempts(job)) == 1
    assert (job.folder / "train.log").read_text().count("Training starts at step") in (1, 2)  # once a rank


def test_preempted_it_saves_and_goes_on(
    cluster: SlurmCluster, job: Job, undisturbed: tuple[Segment, Path]
) -> None:
    # A checkpoint every step, to take its time.
    job = replace(job, hardware=replace(job.hardware, checkpoint_steps=1))
    job_id = submit(cluster, job, "--partition=spare")
    reach(job, 30)
    cluster.run(
        "sbatch", "--partition=main", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 15"
    )
    end = finish(cluster, job, job_id, undisturbed[1])
    assert end["restarts"] == "1"
    assert 30 <= attempts(job)[0]["step"] < STEPS


def sets_of_processes(job: Job) -> set[str]:
    """The rendezvous of each set of ranks that is alive for a segment."""
    found: set[str] = set()
    of_this_job = {WORKER.encode(), str(job.folder / "job.json").encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = set((process / "cmdline").read_bytes().split(b"\0"))
            environment = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            if of_this_job <= command and any(value.startswith("LOCAL_RANK=") for value in environment):
                found |= {value for value in environment if value.startswith("MASTER_PORT=")}
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
        end = finish(cluster, job, job_id, undisturbed[1], seconds=400)
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
            end = finish(cluster, job, job_id, peace, seconds=400)
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
        end = finish(patient_cluster, job, job_id, undisturbed[1], seconds=400)
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
    wait_for(lambda: "is UP" in cluster.run("scontrol", "ping", check=False), 30)
    end = finish(cluster, job, job_id, undisturbed[1])
    assert end["restarts"] == "0"
    assert len(attempts(job)) == 1


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
    wait_for(lambda: state_of(cluster, job_id)["state"] == "CANCELLED", 60, lambda: str(cluster.jobs()))
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
    wait_for(lambda: state_of(cluster, job_id)["state"] == "FAILED", 400, lambda: said(job))
    assert "without getting any further" in said(job)


@pytest.mark.long
def test_a_real_failure_fails_once_and_is_named(
    cluster: SlurmCluster, tmp_path: Path, corpus_dir: Path
) -> None:
    (segment,) = chain(constant(60), recipe=recipe(learning_rate=1e30, warmup_steps=40, max_grad_norm=1e9))
    job = make_job(segment, tmp_path, corpus_dir, nodes=2)
    job.folder.mkdir(parents=True)
    job_id = submit(cluster, job)
    wait_for(lambda: state_of(cluster, job_id)["state"] == "FAILED", 300, lambda: said(job))
    assert state_of(cluster, job_id)["restarts"] == "0"
    assert "not finite" in said(job)


# --- Studies, through Snakemake ---


def table(folder: Path) -> list[dict[str, str]]:
    """The study's table without what a clock measured."""
    with (folder / "studies" / "tiny" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    clocked = [
        name
        for name in rows[0]
        if any(word in name for word in ("hour", "seconds", "tokens_per", "time", "wall"))
    ]
    return [{key: value for key, value in row.items() if key not in clocked} for row in rows]


def test_a_study_on_two_nodes_of_two_processes_ends_with_the_table_of_one_machine(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "local").mkdir()
    site = {"hardware": {"nodes": 2, "processes": 2, "threads": 1}}
    # There the corpus is made by jobs too, each a share of it.
    shares = {"site": {"corpus_minutes": 5}, "data": {"tokens_per_job": 2000, "most_jobs": 3}}
    there = checkout(tmp_path / "slurm", 20, site | shares)
    here = checkout(tmp_path / "local", 20, {"hardware": {"nodes": 1, "processes": 4, "threads": 1}})
    # The corpus' identity holds its sources' path.
    study = here / "studies" / "tiny.yaml"
    study.write_text(study.read_text().replace(str(here / "texts"), str(there / "texts")))
    before = {job["id"] for job in cluster.jobs()}
    run_snakemake(there, "slurm", cluster, "studies/tiny")
    jobs = [job for job in cluster.jobs() if job["id"] not in before]
    # What a person sees in squeue: study, model, arm, stage and steps.
    trained = [job for job in jobs if job["comment"].startswith("tiny tiny-baseline/")]
    assert len(trained) == 2  # the constant-rate segment, then its decay
    assert all(job["nodes"] == "n[1-2]" and job["state"] == "COMPLETED" for job in trained)
    assert all(job["name"].startswith("tst-titan") for job in jobs)
    logs = sorted(
        log.relative_to(there / "logs/slurm").parts[0] for log in there.glob("logs/slurm/*/*/*.log")
    )
    assert logs == [
        "rule_corpus",
        "rule_corpus_listing",
        *["rule_corpus_part"] * 3,
        "rule_train",
        "rule_train",
    ]
    run_snakemake(here, "local", cluster, "studies/tiny")
    assert table(there) == table(here)
    for metrics in (there / "results").glob("segments/*/*/metrics.jsonl"):
        twin = here / metrics.relative_to(there)
        assert rows(metrics.parent, *EXACT) == rows(twin.parent, *EXACT)


@pytest.mark.long
def test_gpus_of_all_jobs_in_the_queue_stay_within_the_cap(cluster: SlurmCluster, tmp_path: Path) -> None:
    site = {"site": {"gpus_per_node": 8}, "hardware": {"nodes": 1, "processes": 2, "threads": 1}}
    folder = checkout(tmp_path, 20, site)
    study = folder / "studies" / "tiny.yaml"
    study.write_text(study.read_text() + "seeds: [0, 1, 2, 3]\n")
    before = {job["id"] for job in cluster.jobs()}
    # Four independent jobs of two GPUs each, on a cluster that could run all at once.
    targets = [f"results/segments/{name}/done.json" for name in planned(folder) if "/constant-" in name]
    assert len(targets) == 4
    run_snakemake(folder, "slurm", cluster, *targets, "--resources", "gpus=5")
    queued = [job for job in gpu_jobs(cluster) if job.id not in before]
    assert [job.gpus for job in queued] == [2] * 4
    most = max(
        sum(other.gpus for other in queued if other.submitted <= job.submitted < other.ended)
        for job in queued
    )
    assert most == 4


def test_snakemake_killed_and_started_again_trains_no_segment_twice(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    folder = checkout(tmp_path, 400, {"hardware": {"nodes": 2, "processes": 1, "stop_seconds": 20}})
    before = {job["id"] for job in cluster.jobs()}

    def training() -> list[dict[str, str]]:
        return [
            job for job in cluster.jobs() if job["id"] not in before and "tiny-baseline" in job["comment"]
        ]

    def metrics() -> list[Path]:
        return list(folder.glob("results/segments/*/constant-*/metrics.jsonl"))

    segment = next(name for name in planned(folder) if "/constant-" in name)
    target = f"results/segments/{segment}/done.json"
    first = start_snakemake(folder, "slurm", cluster, target)
    wait_for(lambda: metrics() and len(metrics()[0].read_text().splitlines()) > 20, 240)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert [job["state"] for job in training()] == ["RUNNING"]
    # Told to stop while no Snakemake looks: Slurm runs it again all the same.
    cluster.run("scancel", "--signal=TERM", training()[0]["id"])
    output = run_snakemake(folder, "slurm", cluster, target)
    assert "Directory cannot be locked" not in output
    done = json.loads((folder / target).read_text())
    assert {job["state"] for job in training()} == {"COMPLETED"}
    assert len(done["attempts"]) <= 3
    steps = [json.loads(line)["step"] for line in metrics()[0].read_text().splitlines() if '"loss"' in line]
    assert steps == sorted(set(steps))
    again = run_snakemake(folder, "slurm", cluster, target)
    assert again.count("has been submitted") == output.count("has been submitted")


@dataclass(frozen=True)
class GpuJob:
    """What Slurm counts of a job with GPUs: those of all its nodes, from its submission to its end (local times)."""

    id: str
    gpus: int
    submitted: datetime
    ended: datetime


def gpu_jobs(cluster: SlurmCluster) -> list[GpuJob]:
    """Every job with GPUs, oldest first."""
    lines = cluster.run(
        "squeue", "--noheader", "--states=all", "--sort=i",
        "--Format=JobID:20,NumNodes:20,tres-per-node:40,SubmitTime:40,EndTime:40",
    ).splitlines()  # fmt: skip
    found = []
    for line in lines:
        job_id, nodes, gres, submitted, ended = line.split()
        if "gpu" in gres:
            gpus = int(nodes) * int(gres.rpartition(":")[2])
            found.append(
                GpuJob(job_id, gpus, datetime.fromisoformat(submitted), datetime.fromisoformat(ended))
            )
    return found


def planned(folder: Path) -> list[str]:
    """The segments of the study in a checkout."""
    plan = subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", "plan", "studies/tiny", "--json"], cwd=folder, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, check=True,
    )  # fmt: skip
    return list(dict.fromkeys(_segments(json.loads(plan.stdout))))


def _segments(plan: object) -> list[str]:
    """Every segment id in a plan's JSON."""
    if isinstance(plan, str):
        return [plan] if plan.startswith("tiny-") else []
    if isinstance(plan, dict):
        return [name for value in (*plan.keys(), *plan.values()) for name in _segments(value)]
    return [name for value in plan for name in _segments(value)] if isinstance(plan, list) else []
