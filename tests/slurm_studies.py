"""Studies on a test cluster: a checkout with one tiny study, and Snakemake started in it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from checkouts import REPOSITORY, copy_library, copy_workflow
from slurm_cluster import SlurmCluster

STUDY = """\
corpus:
  source: texts
  sources: {{texts: {{kind: files, path: {texts}}}}}
  tokenizer: bpe-512
  validation_tokens: 20k
models:
  tiny: {{shape: {{dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16, ffn_dim: 64}}, learning_rate: 1e-2}}
steps: {steps}
arms: {{baseline: {{}}}}
training: {{seq_len: 64, sequences_per_step: 4, warmup_steps: 3, precision: float32, block_tokens: 256}}
validation: {{every: 10, tokens: 512}}
"""  # noqa: E501


# Seconds that no test waits but one whose wait is in vain: a busy machine is slow, and slow is no failure.
PATIENCE = 1500


def wait_for(what: Callable[[], object], seconds: float = PATIENCE, on_failure: Callable[[], str] = lambda: "") -> None:
    """Wait for a state; `seconds` is only where it is the shortness that is tested."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, on_failure()
        time.sleep(0.1)


def checkout(folder: Path, steps: int, site: dict) -> Path:
    """A checkout of its own with one tiny study and a site file."""
    copy_workflow(folder)
    texts = copy_library(folder / "texts")
    (folder / "studies" / "tiny.yaml").write_text(STUDY.format(texts=texts, steps=steps))
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return folder


# Polling of the tests: the first query 2 s after a job was submitted or ended.
POLLING = ["--slurm-init-seconds-before-status-checks=2"]


def start_snakemake(folder: Path, profile: str, cluster: SlurmCluster, *arguments: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    polling = POLLING if profile == "slurm" else []
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--profile", profile, *polling, *arguments], cwd=folder,
        env=cluster.environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, text=True, start_new_session=True,
        stdout=(folder / f"{profile}.log").open("a"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def run_snakemake(folder: Path, profile: str, cluster: SlurmCluster, *arguments: str, seconds: float = PATIENCE) -> str:
    running = start_snakemake(folder, profile, cluster, *arguments)
    try:
        running.wait(timeout=seconds)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    output = (folder / f"{profile}.log").read_text()
    slurm_logs = "".join(log.read_text()[-2000:] for log in folder.glob("logs/slurm/**/*.log"))
    assert running.returncode == 0, output[-6000:] + slurm_logs
    return output
