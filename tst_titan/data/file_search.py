"""The files that a path, a folder or a pattern means: one rule for links, hidden names and wildcards.

Symbolic links to files and folders are followed, with and without a pattern; a link to a folder that it lies in is left
out. A name that begins with a dot is hidden and matches no wildcard. Nothing is left out without a word:
`Found.left_out` holds every name by its reason.
"""

import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath

from tst_titan.errors import UserError

EVERYTHING = "**"


@dataclass
class Found:
    """The files that match, in no order, and by reason the paths that would match but are left out."""

    files: set[Path] = field(default_factory=set)
    left_out: dict[str, set[Path]] = field(default_factory=lambda: defaultdict(set))


def find_files(root: Path, pattern: str) -> Found:
    """The files below `root` that match `pattern`: *, ? and [...] within a name, ** for folders of any depth.

    Raises `UserError` for a pattern that is absolute or holds ** beside other characters.
    """
    found = Found()
    # A folder, what is left of the pattern there, and the folders that the way to it came through.
    pending: list[tuple[Path, tuple[str, ...], tuple[tuple[int, int], ...]]] = [(root, _checked(pattern), ())]
    while pending:
        folder, (name, *rest), above = pending.pop()
        try:
            status = folder.stat()
        except OSError as error:
            found.left_out[_unreadable(error)].add(folder)
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            found.left_out["links to a folder that they lie in"].add(folder)
        elif name == EVERYTHING:
            pending.append((folder, tuple(rest), above))
            pending += [
                (entry, (name, *rest), (*above, here))
                for entry in _visible(folder, "*", found)
                if stat.S_ISDIR(_mode(entry, found))
            ]
        elif rest:
            pending += [
                (entry, tuple(rest), (*above, here))
                for entry in _matching(folder, name, found)
                if stat.S_ISDIR(_mode(entry, found))
            ]
        else:
            for entry in _matching(folder, name, found):
                mode = _mode(entry, found)
                if stat.S_ISREG(mode):
                    found.files.add(entry)
                elif mode and not stat.S_ISDIR(mode):
                    found.left_out["neither files nor folders"].add(entry)
    return found


def split_pattern(path: Path) -> tuple[Path, str]:
    """`path` as its leading part without wildcards and a pattern below it, "" where there is none.

    A name that exists is that name, even if it holds a wildcard's characters (`text[v1]`).
    """
    root = Path(path.anchor)
    names = path.parts[1:] if path.anchor else path.parts
    for number, name in enumerate(names):
        if has_magic(name) and not (root / name).exists():
            return root, "/".join(names[number:])
        root /= name
    return root, ""


def printable(name: str) -> str:
    """`name` for a terminal or a note: what would end its line or steer the terminal is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _checked(pattern: str) -> tuple[str, ...]:
    parts = PurePosixPath(pattern).parts
    if pattern.startswith("/"):
        raise UserError(f"{pattern!r}: is absolute; write it relative to the folder, which is `path`")
    if not parts:
        raise UserError(f"{pattern!r}: names no file; leave it out for all files of the folder")
    for part in parts:
        if "**" in part and part != "**":
            mend = f"*{part.replace('**', '')}"
            raise UserError(
                f"{pattern!r}: ** stands for folders and must be alone between slashes; write '**/{mend}' for files at "
                f"any depth or {mend!r} for those of one folder"
            )
    return (*parts, "*") if parts[-1] == "**" else parts


def _matching(folder: Path, name: str, found: Found) -> list[Path]:
    return _visible(folder, name, found) if has_magic(name) else [folder / name]


def _visible(folder: Path, name: str, found: Found) -> list[Path]:
    """What in `folder` matches the wildcards of `name`; hidden names only where `name` begins with a dot, too."""
    try:
        matching = [folder / entry for entry in os.listdir(folder) if fnmatchcase(entry, name)]  # noqa: PTH208 (half the time)
    except OSError as error:
        found.left_out[_unreadable(error)].add(folder)
        return []
    if name.startswith("."):
        return matching
    hidden = {entry for entry in matching if entry.name.startswith(".")}
    found.left_out["hidden"] |= hidden
    return [entry for entry in matching if entry not in hidden]


def _mode(entry: Path, found: Found) -> int:
    """The mode of the file or folder, that of its target for a link; 0 where there is none."""
    try:
        return entry.stat().st_mode
    except FileNotFoundError:
        if entry.is_symlink():
            found.left_out["links that lead nowhere"].add(entry)
    except OSError as error:
        found.left_out[_unreadable(error)].add(entry)
    return 0


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"
