"""Many small jobs through the slurm profile: how often Slurm is asked, how soon the next job starts."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, SlurmUnavailable, slurm_cluster

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
    try:
        with slurm_cluster(tmp_path_factory.mktemp("slurm"), nodes=2) as running:
            yield running
    except SlurmUnavailable as reason:
        pytest.skip(f"no Slurm here: {reason}")


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
