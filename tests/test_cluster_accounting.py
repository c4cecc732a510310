"""On a real Slurm that keeps accounts and enforces them: what jobs used, who may charge what, and how Snakemake asks
`sacct`."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, cluster_or_skip
from slurm_studies import POLLING, REPOSITORY, checkout, run_snakemake, start_snakemake, wait_for

from tst_titan.cluster.accounting import job_usage
from tst_titan.cluster.preflight import Request, check_cluster
from tst_titan.errors import UserError

pytestmark = pytest.mark.slurm

# Slurm counts whole seconds, and a job holds its node a little longer than its script runs.
SLACK_SECONDS = 2.5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Two nodes with slurmdbd; the user may charge lab (QOS normal, long) and physics (normal, night)."""
    with cluster_or_skip(tmp_path_factory.mktemp("slurm"), nodes=2, accounting=True) as running:
        yield running


@pytest.fixture(autouse=True)
def its_user(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])


# --- What jobs used ---


def test_usage_is_what_the_jobs_ran_over_all_requeues_times_their_devices(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    def submit(name: str, script: str, *options: str) -> str:
        clocked = f"echo $(date +%s.%N) >> {tmp_path}/{name}; {script}; echo $(date +%s.%N) >> {tmp_path}/{name}"
        return cluster.run("sbatch", "--parsable", "--requeue", "--output=/dev/null", "--mem=100", *options, f"--wrap={clocked}")  # fmt: skip  # noqa: E501

    def hours(name: str) -> float:
        times = [float(line) for line in (tmp_path / name).read_text().split()]
        return sum(end - start for start, end in zip(times[::2], times[1::2], strict=True)) / 3600

    begin = time.time()
    wide = submit("wide", "sleep 5", "--nodes=2", "--ntasks=2", "--cpus-per-task=2", "--gres=gpu:3")
    array = submit("task-$SLURM_ARRAY_TASK_ID", "sleep $((2 * SLURM_ARRAY_TASK_ID))", "--array=1-2")
    # The first run ends when it has put itself back into the queue, the second by itself.
    again = f"echo $(date +%s.%N) >> {tmp_path}/twice; scontrol requeue $SLURM_JOB_ID; sleep 60"
    twice = submit("twice", f'sleep 4; [ -n "$SLURM_RESTART_COUNT" ] || {{ {again}; }}', "--gres=gpu:2")
    jobs = {wide: "wide", f"{array}_1": "task-1", f"{array}_2": "task-2", twice: "twice"}

    def states() -> list[str]:
        return cluster.run("sacct", "-X", "-n", "-P", "-j", f"{wide},{array},{twice}", "-o", "State").split()

    wait_for(lambda: states() == ["COMPLETED"] * 4, 60, lambda: f"{states()}\n{cluster.jobs()}")
    used = job_usage(jobs, since=begin)
    assert used.keys() >= jobs.keys()
    for job, name in jobs.items():
        assert used[job].hours == pytest.approx(hours(name), abs=SLACK_SECONDS / 3600), name
    assert (tmp_path / "twice").read_text().count("\n") == 4
    assert used[wide].gpu_hours == pytest.approx(6 * used[wide].hours)
    assert used[wide].cpu_hours == pytest.approx(4 * used[wide].hours)
    assert used[twice].gpu_hours == pytest.approx(2 * used[twice].hours)
    assert used[f"{array}_1"].gpu_hours is None
    assert used[f"{array}_2"].hours > used[f"{array}_1"].hours


# --- Who may charge what ---


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            Request("train", account="nobody"),
            "account 'nobody': not yours on this cluster; yours are: lab, physics, root",
        ),
        (
            Request("train", account="chemistry"),
            "account 'chemistry': not yours on this cluster; yours are: lab, physics, root",
        ),
        (Request("train", qos="speedy"), "qos 'speedy': not allowed for you; allowed: long, night, normal"),
        (Request("train", qos="urgent"), "qos 'urgent': not allowed for you; allowed: long, night, normal"),
        (
            Request("train", account="physics", qos="long"),
            "qos 'long': not allowed for you; allowed: night, normal",
        ),
        # Without an account the job is lab's, which has no such QOS: that only the controller knows.
        (Request("train", qos="night"), "Slurm says: Invalid qos specification"),
    ],
    ids=[
        "unknown-account",
        "not-their-account",
        "unknown-qos",
        "not-their-qos",
        "not-that-accounts-qos",
        "not-the-default-accounts-qos",
    ],
)
def test_what_the_user_cannot_charge_is_refused_in_one_line(
    cluster: SlurmCluster, tmp_path: Path, request_: Request, message: str
) -> None:
    before = cluster.jobs()
    with pytest.raises(UserError) as refused:
        check_cluster([request_], [tmp_path])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert cluster.jobs() == before


def test_what_the_user_can_charge_passes(cluster: SlurmCluster, tmp_path: Path) -> None:
    requests = [
        Request("train", account="LAB", qos="long"),
        Request("train", account="physics", qos="night"),
        Request("export"),
    ]
    assert check_cluster(requests, [tmp_path]) == []


# --- How Snakemake's executor asks `sacct` ---

SNAKEFILE = """\
onstart:
    from tst_titan.cluster.executor import mend_executor
    mend_executor(workflow.executor_settings)

rule all:
    input: "requeued", "cancelled"

rule requeued:
    output: "requeued"
    resources: mpi="", nodes=1
    shell: "if [ -e begun ]; then touch {output}; else touch begun; sleep 300; fi"

rule cancelled:
    output: "cancelled"
    resources: mpi="", nodes=1
    shell: "touch waiting; sleep 300; touch {output}"
"""


def test_snakemake_follows_jobs_through_a_requeue_a_cancellation_and_a_slurmdbd_that_is_away(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    log = tmp_path / "snakemake.log"
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "9", "--keep-going", "--slurm-requeue",  # noqa: E501
               "--ignore-incomplete", "--nolock", *POLLING, "--default-resources", "mem_mb=100", "runtime=9",
               "slurm_account=physics"]  # fmt: skip
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    running = subprocess.Popen(
        command, cwd=tmp_path, env=cluster.environment | {"PYTHONPATH": path}, stdout=log.open("w"), stderr=subprocess.STDOUT  # noqa: E501
    )  # fmt: skip

    def job(rule: str) -> dict[str, str]:
        return next(job for job in cluster.jobs() if job["comment"] == f"rule_{rule}")

    try:
        wait_for(lambda: (tmp_path / "begun").exists() and (tmp_path / "waiting").exists(), 150, log.read_text)
        cluster.kill("slurmdbd")
        cluster.run("scontrol", "requeue", job("requeued")["id"])
        cluster.run("scancel", job("cancelled")["id"])
        wait_for(lambda: "No answer from Slurm (sacct)" in log.read_text(), 60, log.read_text)
        cluster.start("slurmdbd")
        running.wait(timeout=120)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 1, log.read_text()
    assert log.read_text().count("SLURM status is: 'CANCELLED'") == 1
    assert (tmp_path / "requeued").exists()
    assert job("requeued")["restarts"] == "1"
    assert not (tmp_path / "cancelled").exists()


# --- Studies charged to an account ---


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A checkout whose jobs are lab's, with a QOS that is not the default."""
    site = {"account": "lab", "qos": "long"}
    return checkout(tmp_path, 400, {"site": site, "hardware": {"nodes": 2, "processes": 1, "threads": 1}})


@pytest.fixture
def running(cluster: SlurmCluster, study: Path) -> Iterator["subprocess.Popen[str]"]:
    """Snakemake at work on the study."""
    process = start_snakemake(study, "slurm", cluster, "studies/tiny")
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def training(cluster: SlurmCluster, before: list[dict[str, str]]) -> list[dict[str, str]]:
    """The training jobs that were not there before."""
    known = {job["id"] for job in before}
    return [job for job in cluster.jobs() if job["id"] not in known and "tiny-baseline" in job["comment"]]


def reach(study: Path, step: int) -> None:
    def steps() -> int:
        return max((len(file.read_text().splitlines()) for file in study.glob("results/segments/*/*/metrics.jsonl")), default=0)  # fmt: skip  # noqa: E501

    wait_for(lambda: steps() >= step, 300, (study / "slurm.log").read_text)


def accounted_core_hours(cluster: SlurmCluster, jobs: list[dict[str, str]]) -> float:
    """What Slurm itself charges for jobs."""
    ids = ",".join(job["id"] for job in jobs)
    raw = cluster.run("sacct", "-X", "-D", "-n", "-P", "-j", ids, "-o", "CPUTimeRAW")
    return sum(map(int, raw.split())) / 3600


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_study_ends_though_slurmdbd_was_away_and_says_what_slurm_charged(
    cluster: SlurmCluster, study: Path, running: "subprocess.Popen[str]"
) -> None:
    before = cluster.jobs()
    log = study / "slurm.log"
    # Away before the first job is submitted, until a query has failed.
    wait_for(lambda: "Tokenize" in log.read_text(), 120, log.read_text)
    cluster.kill("slurmdbd")
    wait_for(lambda: "No answer from Slurm (sacct)" in log.read_text(), 120, log.read_text)
    cluster.start("slurmdbd")
    # And again while the job trains, saves, and goes back into the queue.
    reach(study, 20)
    cluster.kill("slurmdbd")
    cluster.run("scancel", "--signal=TERM", training(cluster, before)[0]["id"])
    wait_for(lambda: training(cluster, before)[0]["restarts"] == "1", 120, lambda: str(cluster.jobs()))
    cluster.start("slurmdbd")
    running.wait(timeout=400)
    assert running.returncode == 0, log.read_text()[-6000:]

    jobs = training(cluster, before)
    assert [job["state"] for job in jobs] == ["COMPLETED"] * 2
    charged = cluster.run("sacct", "-X", "-n", "-P", "-j", ",".join(job["id"] for job in jobs), "-o", "Account,QOS")
    assert charged.splitlines() == ["lab|long"] * 2
    with (study / "studies" / "tiny" / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["device_kind"], row["device_hours_source"]) == ("CPU core", "sacct")
    assert float(row["device_hours"]) == pytest.approx(accounted_core_hours(cluster, jobs))
    assert "(sacct)" in status(cluster, study)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_study_whose_job_somebody_cancels_ends_and_goes_on_when_started_again(
    cluster: SlurmCluster, study: Path, running: "subprocess.Popen[str]"
) -> None:
    before = cluster.jobs()
    reach(study, 20)
    (cancelled,) = training(cluster, before)
    cluster.run("scancel", cancelled["id"])
    running.wait(timeout=400)
    assert running.returncode == 1
    assert "SLURM status is: 'CANCELLED'" in (study / "slurm.log").read_text()
    run_snakemake(study, "slurm", cluster, "studies/tiny")
    jobs = training(cluster, before)
    assert [job["state"] for job in jobs] == ["CANCELLED", "COMPLETED", "COMPLETED"]
    with (study / "studies" / "tiny" / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["device_hours"]) == pytest.approx(accounted_core_hours(cluster, jobs))


def status(cluster: SlurmCluster, study: Path) -> str:
    command = [sys.executable, "-m", "tst_titan.cli", "status", "studies/tiny"]
    environment = cluster.environment | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, check=True).stdout
