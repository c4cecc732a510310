"""The mark that a build leaves in a study's folder: which of its files it made, so that nothing else is ever
deleted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tst_titan.files import read_json, write_json

MARK = ".built-by-tst-titan"


@contextmanager
def built_folder(folder: Path) -> Iterator[None]:
    """Mark what the block makes in `folder`, beside what builds made there before; files of the user's there stay the
    user's."""
    before = _seen(folder)
    earlier = {path.name for path in built_files(folder)}
    try:
        yield
    finally:
        # A file that was replaced is another one.
        after = _seen(folder)
        made = {name for name, file in after.items() if before.get(name) != file or name in earlier}
        if made:
            write_json(folder / MARK, {"files": sorted(made)})


def built_files(folder: Path) -> list[Path]:
    """The files of `folder` that builds made, by its mark; none where it has none."""
    if not (folder / MARK).is_file():
        return []
    marked = read_json(folder / MARK)
    names = marked.get("files", []) if isinstance(marked, dict) else []
    # Of this folder alone, whoever wrote the mark.
    own = [folder / name for name in names if isinstance(name, str) and name == Path(name).name]
    return [path for path in own if path.is_file() or path.is_symlink()]


def _seen(folder: Path) -> dict[str, tuple[int, int]]:
    if not folder.is_dir():
        return {}
    found = {path.name: path.lstat() for path in folder.iterdir() if path.is_file() and path.name != MARK}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}
