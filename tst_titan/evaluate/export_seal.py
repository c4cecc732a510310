"""What ties an export's files to the bytes that were written: their digests in its record, `tst_titan.json`.

The model card, README.md, is the user's to edit before it is published. Exports of earlier versions have no digests.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tst_titan.files import digest_file

RECORD, CARD = "tst_titan.json", "README.md"


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an export by name, but for its record."""
    return _digests(folder, [path.name for path in sorted(folder.iterdir()) if path.name != RECORD])


def changed_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """The files that are missing or not to the byte what was exported; [] where the record has no digests."""
    recorded: dict[str, str] = record.get("files", {})
    there = _digests(folder, [name for name in recorded if (folder / name).is_file()])
    return sorted(name for name, digest in recorded.items() if there.get(name) != digest)


def added_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """What lies in the folder that was not exported, and that transformers might read; hidden files aside."""
    if "files" not in record:
        return []
    known = {*record["files"], RECORD, CARD}
    return sorted(path.name for path in folder.iterdir() if path.name not in known and not path.name.startswith("."))


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: digest_file(folder / name), names), strict=True))
