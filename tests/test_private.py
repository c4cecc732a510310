"""What another user of the machine puts into shared temporary and results folders is neither run nor written
through."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from training import chain, constant, make_job, recipe

from tst_titan.cluster.devices import lock_folder
from tst_titan.cluster.lock import folder_lock
from tst_titan.errors import UserError
from tst_titan.files import open_own
from tst_titan.private import cache_folder, private_folder, processor_kind
from tst_titan.train.launch import run_segment
from tst_titan.train.node import environment

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


@pytest.fixture
def shared_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder like /tmp: everybody may write there, and remove what is theirs."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # torch sets the last two itself in a process that has compiled, such as this one by another test.
    for name in ("SLURM_JOB_ID", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


def of_another_user(folder: Path) -> Path:
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


def test_gpus_are_held_in_the_temporary_folder_that_tmpdir_names(shared_tmp: Path) -> None:
    assert lock_folder() == shared_tmp / f"tst-titan-gpus-{os.getuid()}"
    assert stat.S_IMODE(lock_folder().stat().st_mode) == 0o700


@as_root
def test_another_users_folder_of_gpu_locks_stops_no_training(shared_tmp: Path) -> None:
    """It was told to remove it, which the sticky bit forbids."""
    of_another_user(shared_tmp / f"tst-titan-gpus-{os.getuid()}")
    found = lock_folder()
    assert found.is_relative_to(shared_tmp.parent / "cache" / "tst-titan")
    assert found == lock_folder()


def test_a_link_in_place_of_the_folder_of_gpu_locks_is_not_followed(shared_tmp: Path) -> None:
    (shared_tmp / f"tst-titan-gpus-{os.getuid()}").symlink_to(shared_tmp.parent)
    assert lock_folder().is_relative_to(shared_tmp.parent / "cache" / "tst-titan")


def test_what_ranks_compile_lies_in_the_users_own_cache(shared_tmp: Path, corpus_dir: Path) -> None:
    """It was run from /tmp/torchinductor_USER, which another user can make first and fill."""
    (segment,) = chain(constant(1), recipe=recipe())
    job = make_job(segment, shared_tmp.parent, corpus_dir)
    compiled = replace(job, hardware=replace(job.hardware, compile=True))
    cache = shared_tmp.parent / "cache" / "tst-titan" / "compiled" / processor_kind()
    assert environment(compiled)["TORCHINDUCTOR_CACHE_DIR"] == str(cache)
    assert environment(compiled)["TRITON_CACHE_DIR"] == str(cache / "triton")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    # torch, asked by itself, puts it there.
    asked = "from torch._inductor.runtime.cache_dir_utils import cache_dir; print(cache_dir())"
    told = subprocess.run(
        [sys.executable, "-c", asked], env=environment(compiled), capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == str(cache)
    assert "TORCHINDUCTOR_CACHE_DIR" not in environment(job)
    cache.chmod(0o770)
    with pytest.raises(UserError, match="others may write there; delete it, or set XDG_CACHE_HOME"):
        environment(compiled)


def test_a_cache_that_the_user_names_is_kept(
    shared_tmp: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/scratch/mine")
    (segment,) = chain(constant(1), recipe=recipe())
    job = make_job(segment, shared_tmp.parent, corpus_dir)
    compiled = replace(job, hardware=replace(job.hardware, compile=True))
    assert environment(compiled)["TORCHINDUCTOR_CACHE_DIR"] == "/scratch/mine"


@as_root
def test_another_users_cache_is_refused(shared_tmp: Path) -> None:
    of_another_user(shared_tmp.parent / "cache")
    of_another_user(shared_tmp.parent / "cache" / "tst-titan")
    with pytest.raises(UserError, match="is another user's, or no folder; set XDG_CACHE_HOME"):
        cache_folder("compiled")


def test_a_private_folder_where_a_file_lies_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be made: File exists; choose another"):
        private_folder(tmp_path / "file", "choose another")


@pytest.mark.parametrize("name", ["train.log", "lock"])
def test_a_link_planted_in_a_segments_folder_is_not_written_through(
    name: str, tmp_path: Path, corpus_dir: Path
) -> None:
    """The trainer's log went into the file of ours that it pointed to, and the lock over its first bytes."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (segment,) = chain(constant(1), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir)
    job.folder.mkdir(parents=True)
    (job.folder / name).symlink_to(mine)
    with pytest.raises(UserError, match=rf"{name}: is a symbolic link, .* remove it"):
        run_segment(job)
    assert mine.read_text() == "precious"


def test_a_link_planted_in_a_corpus_is_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "lock").symlink_to(mine)
    with (
        pytest.raises(UserError, match="lock: is a symbolic link"),
        folder_lock(tmp_path / "corpus", doing="built"),
    ):
        pass  # pragma: no cover
    with pytest.raises(UserError, match="is a symbolic link"):
        open_own(tmp_path / "corpus" / "lock", "a")
    assert mine.read_text() == "precious"
