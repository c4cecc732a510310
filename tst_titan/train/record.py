"""The sealed record of a finished segment: `done.json` with the digests of its small files and of itself.

Records of earlier versions have none and are taken as they are. Who can write the files can write the digests: they tell what
was edited, lost or mixed up.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tst_titan.files import digest_file
from tst_titan.results import DONE, METRICS, PROVENANCE, SETTINGS

SEALED_FILES = (SETTINGS, METRICS, PROVENANCE)


def sealed(done: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`done`, the content of `done.json`, with `files` (SHA-256 of each small file of the folder) and its own `digest`."""
    done = done | {"files": {name: digest_file(folder / name) for name in SEALED_FILES}}
    return done | {"digest": _digest(done)}


def changed_files(done: dict[str, Any], folder: Path, names: Collection[str] = SEALED_FILES) -> list[str]:
    """Which of `done.json` and the small files `names` are not as they were when the segment was finished; [] where all are."""
    changed = [] if done.get("digest") in (None, _digest(done)) else [DONE]
    recorded = done.get("files")
    files: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    for name in names:
        try:
            same = name not in files or digest_file(folder / name) == files[name]
        except OSError:
            same = False
        changed += [] if same else [name]
    return changed


def _digest(done: dict[str, Any]) -> str:
    text = json.dumps({key: value for key, value in done.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
