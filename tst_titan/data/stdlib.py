"""The embedded corpus: sources and documentation text of the running interpreter's standard library.

Taken are .py, .txt, .rst, .md and .html files of the modules that `sys.stdlib_module_names` lists. Left out are tests
(distributions differ in whether they ship them), site-packages and the like, the codec modules of `encodings`, which
are tables or copies of one another, and files that mostly repeat one other file.
"""

import ast
import hashlib
import os
import platform
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_titan.data import local_files
from tst_titan.data.documents import Input
from tst_titan.plan.settings import SourceSettings

_SUFFIXES = {".py", ".txt", ".rst", ".md", ".html"}
_FOREIGN_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "_bundled"}
_TEST_FOLDERS = {"test", "tests", "idle_test"}
_TABLES = {"stringprep.py", "html/entities.py"}
_TOPICS = "pydoc_data/topics.py"
_REPEATED_LINES = 0.6
_LONG_LINE = 16


def list_inputs(source: SourceSettings) -> tuple[list[Input], dict[str, Any], list[str]]:
    """The files in sorted order, the interpreter with a digest of all that was taken, and what was left out."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out: Counter[str] = Counter()
    texts: dict[str, bytes] = {}
    for name in _library_files(root):
        reason = _reason_to_leave_out(name)
        if reason:
            left_out[reason] += 1
        else:
            texts[name] = (root / name).read_bytes()
    for name in _repeating(texts):
        left_out["files that repeat most lines of another one"] += 1
        del texts[name]
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\0{hashlib.sha256(text).hexdigest()}\n".encode())
    origin = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "digest": digest.hexdigest(),
    }
    notes = [f"{source.name}: {count} {reason} left out" for reason, count in sorted(left_out.items())]
    return [Input(name, str(root / name), len(text)) for name, text in texts.items()], origin, notes


def read(source: SourceSettings, entry: Input, tally: Counter[str]) -> Iterator[tuple[str, str]]:
    """Iterate (id, text): one document a file, but one a topic of the language reference that pydoc carries."""
    for identity, text in local_files.read(source, entry, tally):
        if identity != _TOPICS:
            yield identity, text
            continue
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign):
                for topic, content in ast.literal_eval(statement.value).items():
                    yield f"{identity}:{topic}", content


def library_files() -> list[Path]:
    """All files that `list_inputs` looks at."""
    root = Path(sysconfig.get_path("stdlib"))
    return [root / name for name in _library_files(root)]


def _library_files(root: Path) -> list[str]:
    """Names below `root`, sorted, of the text files that belong to the library; foreign folders are never entered."""
    found = []
    for folder, folders, files in os.walk(root):
        place = Path(folder).relative_to(root)
        folders[:] = [
            name
            for name in folders
            if name not in _FOREIGN_FOLDERS and (place.parts or name in sys.stdlib_module_names)
        ]
        for name in files:
            path = place / name
            if path.suffix in _SUFFIXES and path.parts[0].removesuffix(".py") in sys.stdlib_module_names:
                found.append(path.as_posix())
    return sorted(found)


def _reason_to_leave_out(name: str) -> str:
    if _TEST_FOLDERS.intersection(name.split("/")):
        return "test files"
    if name in _TABLES or (name.startswith("encodings/") and name != "encodings/__init__.py"):
        return "tables and codecs"
    return ""


def _repeating(texts: dict[str, bytes]) -> list[str]:
    """The files of which most long lines stand in one single earlier file that is kept."""
    files_with: dict[bytes, list[str]] = defaultdict(list)
    repeating = []
    for name, text in texts.items():
        lines = {line for line in map(bytes.strip, text.splitlines()) if len(line) >= _LONG_LINE}
        shared = Counter(earlier for line in lines for earlier in files_with.get(line, ()))
        if shared and max(shared.values()) > _REPEATED_LINES * len(lines):
            repeating.append(name)
            continue
        for line in lines:
            files_with[line].append(name)
    return repeating
