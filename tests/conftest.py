"""What tests of several stages share: a small real corpus, tiny segments, and ways to train them."""

import errno
import importlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path

import hypothesis
import pytest
from training import TINY_CORPUS

# The same examples in every run: what CI finds, anyone can repeat.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


# What an evaluation sets for the Hugging Face libraries of its process.
HUGGING_FACE = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "TQDM_")


@contextmanager
def hugging_face_kept() -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith(HUGGING_FACE)}
    yield
    for name in [name for name in os.environ if name.startswith(HUGGING_FACE)]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def hugging_face_as_it_was() -> Iterator[None]:
    """An evaluation forbids its process the network, and so all that the process starts: for its own test alone."""
    with hugging_face_kept():
        yield


@pytest.fixture(autouse=True, scope="module")
def hugging_face_as_it_was_before_the_module() -> Iterator[None]:
    """What a module's own fixtures evaluate forbids the network to its tests alone."""
    with hugging_face_kept():
        yield


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text, tokenized: the standard library's top-level modules under 40 kB, vocabulary 512."""
    from tst_titan.data.build import build_corpus

    texts = tmp_path_factory.mktemp("texts")
    for module in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if module.stat().st_size < 40_000:
            (texts / module.with_suffix(".txt").name).write_bytes(module.read_bytes())
    settings = TINY_CORPUS(str(texts))
    folder = tmp_path_factory.mktemp("data") / settings.id
    build_corpus(settings, folder, num_workers=1)
    return folder


@pytest.fixture(scope="session")
def process_group() -> None:
    """The environment of a single rank, for trainers that run inside the test process."""
    import torch

    # One thread a process, as the workflow sets it: losses are bit-equal at equal thread counts only.
    torch.set_num_threads(1)
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )  # 0: any free port


class _TorchtitanForThisMachine(MetaPathFinder):
    """Imports `tst_titan.train.titan` before the first module of torchtitan, whichever test or library asks for one
    first.

    torchtitan's modules bind what they find of the machine when they are loaded: without it they take a machine without
    a GPU for one with CUDA, for all tests that come later in this process ("no NCCL built in").
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith("torchtitan."):
            sys.meta_path.remove(self)
            importlib.import_module("tst_titan.train.titan")


sys.meta_path.insert(0, _TorchtitanForThisMachine())


# What a process on Lustre mounted `noflock`, or on NFS without lockd, is told.
NO_FLOCK = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("NO_FLOCK_ERRNO")); return -1; }
"""


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def without_flock(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are started now live on a file system that carries no locks."""
    folder = tmp_path_factory.mktemp("no-flock")
    (folder / "flock.c").write_text(NO_FLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "flock.so", "flock.c"], cwd=folder, check=True, capture_output=True)
    monkeypatch.setenv("LD_PRELOAD", str(folder / "flock.so"))
    monkeypatch.setenv("NO_FLOCK_ERRNO", str(request.param))
