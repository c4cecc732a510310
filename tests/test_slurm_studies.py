"""Studies through Snakemake on a real Slurm: the table of one machine, a cap on GPUs, a Snakemake that is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, cluster_or_skip
from slurm_studies import REPOSITORY, checkout, run_snakemake, start_snakemake, wait_for
from training import EXACT, rows

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Three nodes."""
    with cluster_or_skip(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def table(folder: Path) -> list[dict[str, str]]:
    """The study's table without what a clock measured."""
    with (folder / "studies" / "tiny" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    clocked = [
        name for name in rows[0] if any(word in name for word in ("hour", "seconds", "tokens_per", "time", "wall"))
    ]
    return [{key: value for key, value in row.items() if key not in clocked} for row in rows]


def test_a_study_on_two_nodes_of_two_processes_ends_with_the_table_of_one_machine(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "local").mkdir()
    site = {"hardware": {"nodes": 2, "processes": 2, "threads": 1}}
    # There the corpus is made by jobs too, each a share of it, where no training goes; training goes where it can
    # start, asks for no memory, and its setup is as careless as some of conda's.
    places = {"partition": "main,spare", "cpu_partition": "spare", "corpus_minutes": 5}
    places |= {"ask_memory": False, "setup": "export LOADED=yes$NOT_SET_ANYWHERE", "srun_options": "--label"}
    shares = {"site": places, "data": {"tokens_per_job": 2000, "most_jobs": 3}}
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
    assert {job["partition"] for job in jobs if job not in trained} == {"spare"}
    assert {job["partition"] for job in trained} == {"main"}  # of the higher priority
    assert all(job["name"].startswith("tst-titan") for job in jobs)
    logs = sorted(log.relative_to(there / "logs/slurm").parts[0] for log in there.glob("logs/slurm/*/*/*.log"))
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
    # GPUs that do not exist: what is counted is what Slurm gives, and training is told to use the CPU.
    site = {
        "site": {"gpus_per_node": 8, "environment": {"CUDA_VISIBLE_DEVICES": ""}},
        "hardware": {"nodes": 1, "processes": 2, "threads": 1},
    }
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
    most = max(sum(other.gpus for other in queued if other.submitted <= job.submitted < other.ended) for job in queued)
    assert most == 4


def test_snakemake_killed_and_started_again_trains_no_segment_twice(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = checkout(tmp_path, 400, {"hardware": {"nodes": 2, "processes": 1, "stop_seconds": 20}})
    before = {job["id"] for job in cluster.jobs()}

    def training() -> list[dict[str, str]]:
        return [job for job in cluster.jobs() if job["id"] not in before and "tiny-baseline" in job["comment"]]

    def metrics() -> list[Path]:
        return list(folder.glob("results/segments/*/constant-*/metrics.jsonl"))

    segment = next(name for name in planned(folder) if "/constant-" in name)
    target = f"results/segments/{segment}/done.json"
    first = start_snakemake(folder, "slurm", cluster, target)
    wait_for(lambda: (metrics() and len(metrics()[0].read_text().splitlines()) > 20) or first.poll() is not None)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert [job["state"] for job in training()] == ["RUNNING"]
    # Told to stop while no Snakemake looks: Slurm runs it again all the same.
    cluster.run("scancel", "--signal=TERM", training()[0]["id"])
    output = run_snakemake(folder, "slurm", cluster, target)
    assert "Directory cannot be locked" not in output
    done = json.loads((folder / target).read_text())
    # The file is there before Slurm has cleaned up behind the job that wrote it.
    over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
    wait_for(lambda: {job["state"] for job in training()} <= over, on_failure=lambda: str(cluster.jobs()))
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
            found.append(GpuJob(job_id, gpus, datetime.fromisoformat(submitted), datetime.fromisoformat(ended)))
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
