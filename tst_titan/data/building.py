"""Who may write a corpus: one process makes its tokenizer and puts it together; shares of it are tokenized side by
side.

Two checkouts, users or commands may build one corpus in one results folder. `corpus_lock` lets one at a time list,
train a tokenizer or finish. A share is told of by a lock of its own, which conflicts with no other share's: shares
leave whole files whose bytes do not depend on who wrote them. Who finishes the corpus first waits for the shares that
run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from tst_titan.cluster.lock import FolderLock, beating, folder_lock
from tst_titan.results import CorpusFiles


@contextmanager
def corpus_lock(out_dir: Path) -> Iterator[FolderLock]:
    """Be the only one who changes the corpus in `out_dir`, waiting for whoever does; shares may run."""
    with folder_lock(Path(out_dir), doing="built") as lock, beating(lock):
        yield lock


@contextmanager
def running_share(out_dir: Path) -> Iterator[None]:
    """Let whoever finishes the corpus wait for this share's end. To be entered below `corpus_lock`, and kept after
    it."""
    with folder_lock(_shares(out_dir), name=token_hex(8), doing="tokenized") as lock, beating(lock):
        yield


def wait_for_shares(out_dir: Path) -> None:
    """Wait until no share of the corpus runs; below `corpus_lock`, where none can begin."""
    folder = _shares(out_dir)
    for share in sorted(folder.glob("*")):
        with folder_lock(folder, name=share.name, doing="tokenized"):
            pass
        share.unlink()


def _shares(out_dir: Path) -> Path:
    return CorpusFiles(out_dir).work / "shares"
