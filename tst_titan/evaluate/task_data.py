"""How large a task's own data files are once unpacked: the dataset library unpacks them and lm-eval holds all of it."""

import zipfile
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tst_titan.bounds import TASK_DATA_BYTES, too_much
from tst_titan.data.unpacking import DAMAGE, open_unpacked
from tst_titan.errors import UserError

# The dataset library goes by a file's first bytes, too, whatever its name.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
_PIECE = 2**20


def check_size(path: Path) -> None:
    """Raise `UserError` for a file of more bytes than the bound, or one that is damaged."""
    try:
        status = path.stat()
        _check_once(path, status.st_size, status.st_mtime_ns, TASK_DATA_BYTES.most())
    except (pa.ArrowException, zipfile.BadZipFile, OSError, *DAMAGE) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data of a task, cannot be read: {reason}", where=path) from error


@cache
def _check_once(path: Path, size: int, mtime_ns: int, most: int) -> None:
    if size > most or _unpacked(path, most) > most:
        raise too_much(path, TASK_DATA_BYTES)


def _unpacked(path: Path, most: int) -> int:
    """Bytes of a file's content, counted no further than beyond `most`."""
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        metadata = pq.read_metadata(path)
        return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    kind = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), "")
    if not kind:
        return 0
    size = 0
    with open_unpacked(path, kind) as file:
        while size <= most and (piece := file.read(_PIECE)):
            size += len(piece)
    return size
