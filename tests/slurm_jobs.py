"""Training jobs on a test cluster: submitted as the executor submits them, watched, and compared with one
undisturbed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from slurm_cluster import SlurmCluster
from slurm_studies import REPOSITORY, wait_for
from training import EXACT, assert_same_state, rows, saved_state

from tst_titan.train.job import Job, write_job


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
    command = f"{before} && unset SLURM_CONF && {shlex.join([sys.executable, '-c', code, str(write_job(job))])}"
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
    # Or until it is over, for nothing that comes after that is waited for.
    wait_for(
        lambda: steps_done(job) >= step or (job.folder / "failure.json").exists(),
        on_failure=lambda: said(job),
    )
    assert steps_done(job) >= step, f"step {step} was not reached\n{said(job)}"


def end_of(cluster: SlurmCluster, job: Job, job_id: str) -> dict[str, str]:
    """Wait until Slurm is done with the job, however that ended."""
    over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
    wait_for(lambda: state_of(cluster, job_id)["state"] in over, on_failure=lambda: said(job) + str(cluster.jobs()))
    return state_of(cluster, job_id)


def finish(cluster: SlurmCluster, job: Job, job_id: str, undisturbed: Path) -> dict[str, str]:
    """Wait for the job's end; it completed, and the segment is what it would have been undisturbed."""
    end = end_of(cluster, job, job_id)
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


SLOWED = """\
import os, sys, time

# The ranks, and not torchrun, whose command line ends like theirs. Once Slurm has started the job again, they are as fast as ever.
a_rank = "tst_titan.train.titan.worker" in sys.orig_argv and "torch.distributed.run" not in sys.orig_argv
if a_rank and os.environ["TST_TITAN_SLURM_RESTARTS"] == "0":
    import tst_titan.train.titan
    from torchtitan.trainer import Trainer

    step, fsync = Trainer.train_step, os.fsync

    def slow_step(self, *arguments):
        time.sleep({step})
        return step(self, *arguments)

    def slow_fsync(file):
        if os.readlink(f"/proc/self/fd/{{file}}").endswith(".distcp"):
            time.sleep({save})
        fsync(file)

    Trainer.train_step, os.fsync = slow_step, slow_fsync
"""  # noqa: E501


def slowed(folder: Path, *, step: float, save: float) -> dict[str, str]:
    """Environment of a job whose steps, and the disk under its checkpoints, take so many seconds more in its first
    start."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOWED.format(step=step, save=save))
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
