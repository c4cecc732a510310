"""Checkouts for tests, as git has them: the one that the tests lie in may hold results, studies and site files of its
user."""

import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def published_studies() -> list[Path]:
    """The study files that git tracks; where there is no git, all."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", "studies/*.yaml"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )  # fmt: skip
    tracked = [REPOSITORY / name for name in listed.stdout.split("\0") if name] if not listed.returncode else []
    files = tracked or (REPOSITORY / "studies").glob("*.yaml")
    return sorted(file for file in files if file.parent.name == "studies" and file.exists())


def copy_workflow(folder: Path) -> Path:
    """A checkout without studies: the workflow and its profiles."""
    folder.mkdir(exist_ok=True)
    for name in ("workflow", "local", "slurm"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    (folder / "studies").mkdir()
    return folder


def copy_checkout(folder: Path) -> Path:
    """A fresh clone: the workflow with the published studies, of which nothing is built."""
    copy_workflow(folder)
    for file in published_studies():
        shutil.copy(file, folder / "studies")
    return folder


def copy_library(folder: Path) -> Path:
    """Texts of a small corpus: the standard library's top-level modules of middling size."""
    folder.mkdir()
    for module in sorted(Path(os.__file__).parent.glob("*.py")):
        if 3_000 < module.stat().st_size < 40_000:
            shutil.copy(module, (folder / module.name).with_suffix(".txt"))
    return folder
