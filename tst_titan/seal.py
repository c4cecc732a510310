"""JSON records that hold a digest of all else in them, so that an edit or damage shows wherever one is read.

Records of earlier versions have none and are taken as they are. Who can write a record can write its digest.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError
from tst_titan.files import read_json

SEAL = "seal"


def with_seal(record: dict[str, Any], key: str = SEAL) -> dict[str, Any]:
    """`record` with the digest of all else in it under `key`."""
    return record | {key: _digest(record, key)}


def was_edited(record: dict[str, Any], key: str = SEAL) -> bool:
    """Whether a record is another one than its digest was made of; False where it has none."""
    return record.get(key) not in (None, _digest(record, key))


def read_sealed(path: Path, *, mend: str) -> dict[str, Any]:
    """Read a JSON record; a missing, damaged or edited one is a `UserError` that names it and `mend`."""
    record = read_json(path, mend=mend)
    if not isinstance(record, dict):
        raise UserError(f"holds no record; {mend}", where=path)
    if was_edited(record):
        raise UserError(f"not as it was written (its own digest differs); {mend}", where=path)
    return record


def _digest(record: dict[str, Any], key: str) -> str:
    text = json.dumps({name: value for name, value in record.items() if name != key}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
