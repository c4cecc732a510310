"""Many small jobs through the slurm profile: how often Slurm is asked, how soon the next job starts."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, cluster_or_skip
from slurm_studies import checkout, run_snakemake, start_snakemake

from tst_titan.plan import load_plan

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(5400)]

REPOSITORY = Path(__file__).parent.parent
INTERVAL = 2
SNAKEFILE = """\
rule all:
    input: {targets}

rule train:
    input: {input}
    output: "done/{{segment}}"
    resources: mem_mb=10, mpi="", nodes=1
    shell: "touch {{output}}"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Two nodes."""
    with cluster_or_skip(tmp_path_factory.mktemp("slurm"), nodes=2) as running:
        yield running


def run(folder: Path, cluster: SlurmCluster, snakefile: str) -> list[float]:
    """Run a workflow of no-op jobs under the slurm profile; the times at which Slurm was asked for states."""
    shutil.copytree(REPOSITORY / "slurm", folder / "slurm")
    (folder / "Snakefile").write_text(snakefile)
    asked = folder / "asked"
    (folder / "bin").mkdir()
    for tool in ("squeue", "sacct"):
        (folder / "bin" / tool).write_text(
            # `--help` and the like are asked once at the start; a status query has --name.
            f'#!/bin/sh\ncase "$*" in *--name*) date +%s.%N >> {asked};; esac\nexec {shutil.which(tool)} "$@"\n'
        )
        (folder / "bin" / tool).chmod(0o755)
    environment = cluster.environment | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm", "--jobs", "400", "--slurm-status-command=squeue",
         f"--slurm-init-seconds-before-status-checks={INTERVAL}", "--keep-going"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return [float(line) for line in asked.read_text().split()]


def test_three_hundred_jobs_cost_one_status_query_an_interval(cluster: SlurmCluster, tmp_path: Path) -> None:
    targets = [f"done/{number}" for number in range(300)]
    asked = run(tmp_path, cluster, SNAKEFILE.format(targets=targets, input="[]"))
    assert len([job for job in cluster.jobs() if job["state"] == "COMPLETED"]) == 300
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert min(gaps) > INTERVAL - 0.5


def test_the_next_job_of_a_chain_starts_within_fifteen_seconds(cluster: SlurmCluster, tmp_path: Path) -> None:
    chained = "lambda w: f'done/{int(w.segment) - 1}' if int(w.segment) else []"
    before = len(cluster.jobs())
    run(tmp_path, cluster, SNAKEFILE.format(targets=["done/2"], input=chained))
    lines = cluster.run(
        "squeue", "-h", "--states=all", "--sort=i", "--Format=JobID:20,StartTime:30,EndTime:30"
    ).splitlines()
    times = [line.split()[1:] for line in lines][before:]
    assert len(times) == 3
    waits = [seconds(start) - seconds(end) for (_, end), (start, _) in itertools.pairwise(times)]
    assert max(waits) <= 15, waits


def seconds(time: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(time).timestamp()


def test_small_jobs_share_one_and_a_failed_one_costs_the_others_nothing(cluster: SlurmCluster, tmp_path: Path) -> None:
    folder = checkout(tmp_path, 20, {"hardware": {"processes": 1, "threads": 1}})
    study = folder / "studies" / "tiny.yaml"
    text = study.read_text().replace("steps: 20", "steps: [10, 15, 20]").replace("20k", "40k")
    study.write_text(text + "evaluate: {tasks: offline}\n")

    def evaluate(at_a_time: int) -> tuple[int, list[Path]]:
        running = start_snakemake(
            folder, "slurm", cluster, "--groups", "evaluate=small", "--group-components", "small=20", "--resources",
            f"in_turn={at_a_time}", "--set-resources", "evaluate:runtime=15", "--until", "evaluate", "--", "studies/tiny",  # noqa: E501
        )  # fmt: skip
        return running.wait(timeout=600), list((folder / "results/evaluations").rglob("offline.json"))

    plan = load_plan(study, folder / "results")
    decays = [folder / "results/segments" / name for name in plan.segments if "/decay-" in name]
    run_snakemake(folder, "slurm", cluster, *(f"results/segments/{d.parent.name}/{d.name}/done.json" for d in decays))
    # The checkpoint of one of the three is away.
    decays[1].joinpath("checkpoint").rename(folder / "away")
    code, done = evaluate(at_a_time=3)
    assert code != 0
    # At least the one that ran beside it; the third only where there is a core for it.
    assert len(done) in (1, 2)
    (folder / "away").rename(decays[1] / "checkpoint")
    for other in done[1:]:
        other.unlink()
    kept = done[0].stat().st_mtime_ns
    code, again = evaluate(at_a_time=1)
    assert code == 0
    assert len(again) == 3
    assert done[0].stat().st_mtime_ns == kept
    # Processors of three and minutes of one, then processors of one and minutes of two.
    asked = cluster.run(
        "squeue", "-h", "--states=all", "--sort=i", "--Format=Comment:80,NumCPUs:20,TimeLimit:20,State:20"
    )
    assert [line.split()[1:] for line in asked.splitlines() if "evaluate" in line] == [
        ["3", "15:00", "FAILED"],
        ["1", "30:00", "COMPLETED"],
    ]
