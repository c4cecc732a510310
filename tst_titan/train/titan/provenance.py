"""Where a segment's numbers come from: code, versions, machine (`provenance.json`)."""

import os
import platform
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tst_titan
from tst_titan import __version__
from tst_titan.data.content import content
from tst_titan.data.manifest import read_manifest
from tst_titan.files import digest_file
from tst_titan.results import CorpusFiles
from tst_titan.train.job import Job
from tst_titan.train.titan.device import DEVICE_TYPE, cpu_name

PACKAGES = ("torch", "torchtitan", "torchao", "triton", "numpy", "pyarrow", "tokenizers", "snakemake")
# Where the package lies in a checkout; in an installed one, site-packages.
CHECKOUT = Path(tst_titan.__file__).parent.parent


def provenance(job: Job) -> dict[str, Any]:
    """Commit and dirty flag of the code, package versions, host, device, what the corpus holds."""
    manifest = read_manifest(CorpusFiles(job.corpus_dir).manifest)
    return {
        "segment": job.segment.id,
        "studies": job.studies,
        "tst_titan": __version__,
        **_git(CHECKOUT),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device": _device(),
        "world_size": job.hardware.world_size,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "tokenizer_digest": manifest["tokenizer"]["digest"],
        "corpus_digest": digest_file(CorpusFiles(job.corpus_dir).manifest),
        "corpus": content(manifest),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _device() -> str:
    if DEVICE_TYPE == "cpu":
        return cpu_name()
    import torch

    return torch.cuda.get_device_name() if DEVICE_TYPE == "cuda" else DEVICE_TYPE


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(checkout: Path) -> dict[str, Any]:
    """Commit and dirty flag of a repository whose top is `checkout`; nothing of one that it only lies in, such as
    another project's.

    Nothing of the repository's own configuration is run.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*args: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *args],
                cwd=checkout, env=environment, capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    commit = git("rev-parse", "HEAD") if top and Path(top).resolve() == checkout.resolve() else None
    dirty = bool(git("status", "--porcelain", "--ignore-submodules=all")) if commit else None
    return {"git_commit": commit, "git_dirty": dirty}
