"""The sealed record of a finished segment: `done.json` with the digests of its small files and of itself.

Records of earlier versions have none and are taken as they are. Who can write the files can write the digests: they
tell what was edited, lost or mixed up.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tst_titan.files import digest_file
from tst_titan.results import DONE, METRICS, PROVENANCE, SETTINGS
from tst_titan.seal import was_edited, with_seal

SEALED_FILES = (SETTINGS, METRICS, PROVENANCE)
_KEY = "digest"


def sealed(done: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`done`, the content of `done.json`, with `files` (SHA-256 of each small file of the folder) and its own
    `digest`."""
    done = done | {"files": {name: digest_file(folder / name) for name in SEALED_FILES}}
    return with_seal(done, _KEY)


def changed_files(done: dict[str, Any], folder: Path, names: Collection[str] = SEALED_FILES) -> list[str]:
    """Which of `done.json` and the small files `names` are not as they were when the segment was finished; [] where all
    are."""
    # One with digests of files, and none of itself, has lost it.
    lost = "files" in done and _KEY not in done
    changed = [DONE] if lost or was_edited(done, _KEY) else []
    recorded = done.get("files")
    files: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    for name in names:
        try:
            same = name not in files or digest_file(folder / name) == files[name]
        except OSError:
            same = False
        changed += [] if same else [name]
    return changed
