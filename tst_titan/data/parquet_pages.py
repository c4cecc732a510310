"""How large the pages of a Parquet column are, read from their headers alone, before anything is unpacked.

A page is what a reader unpacks at once; a value lies in one page, whatever its encoding. Nothing else in a file tells
how long its values may be. Page headers are Thrift in its compact protocol
(https://parquet.apache.org/docs/file-format/data-pages/).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from tst_titan.bounds import DOCUMENT_BYTES, too_much
from tst_titan.errors import UserError

# Writers look at a page's size after each thousand values: pages of books have hundreds of megabytes.
_DOCUMENTS_A_PAGE = 16
# Its length and levels.
_VALUES_OWN = 64
# Of a page's header and of the header of its kind; kinds other than these have no values.
_UNPACKED_SIZE, _PACKED_SIZE, _NUM_VALUES = 2, 3, 1
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_MOST_FIELDS, _MOST_LEVELS = 1000, 8
_MOST_BYTES = 2**31


@dataclass(frozen=True)
class Page:
    """Sizes in bytes; `unpacked` and `num_values` are what the header says. A dictionary's values are not the column's
    own."""

    unpacked: int
    packed: int
    num_values: int
    is_dictionary: bool


def largest_page(path: Path, metadata: pq.FileMetaData, column: str) -> int:
    """Bytes of the largest page of a column, unpacked. No value is longer.

    Raises `UserError` where a value or page must be more than the bounds allow, `EOFError` for headers that are none.
    """
    most, largest = DOCUMENT_BYTES.most(), 0
    for page in pages_of(path, metadata, column):
        if page.num_values == 1 and page.unpacked > most + _VALUES_OWN:
            raise too_much(f"{path}, column {column!r}", DOCUMENT_BYTES)
        if page.unpacked > _DOCUMENTS_A_PAGE * most:
            raise UserError(
                f"column {column!r} has a page of {page.unpacked:,} bytes, unpacked, more than {_DOCUMENTS_A_PAGE} "
                f"times the {most:,} that one document may have; write it again with fewer rows a page, or, to read "
                f"it, {DOCUMENT_BYTES.mend}",
                where=path,
            )
        largest = max(largest, page.unpacked)
    return largest


def pages_of(path: Path, metadata: pq.FileMetaData, column: str) -> Iterator[Page]:
    """The pages of a column, in the order of the file. Raises `EOFError` for headers that are none."""
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            chunks = metadata.row_group(group)
            for number in range(chunks.num_columns):
                chunk = chunks.column(number)
                if chunk.path_in_schema != column:
                    continue
                starts = (chunk.data_page_offset, chunk.dictionary_page_offset)
                file.seek(min((start for start in starts if start), default=0))
                end = file.tell() + chunk.total_compressed_size
                left = chunk.num_values
                # Of both ends the first, as other readers do: some writers count the bytes otherwise.
                while left > 0 and file.tell() < end:
                    page = _page(file)
                    yield page
                    file.seek(page.packed, 1)
                    left -= 0 if page.is_dictionary else page.num_values


def _page(file: IO[bytes]) -> Page:
    header = _struct(file)
    kind: dict[int, Any]
    kinds = (_DATA, _DICTIONARY, _DATA_V2)
    kind = next((header[key] for key in kinds if isinstance(header.get(key), dict)), {})
    unpacked, packed, num_values = (
        header.get(_UNPACKED_SIZE),
        header.get(_PACKED_SIZE),
        kind.get(_NUM_VALUES, 0),
    )
    if not (isinstance(unpacked, int) and isinstance(packed, int) and isinstance(num_values, int)) or packed < 0:
        raise EOFError("a page without a whole header")
    return Page(unpacked, packed, num_values, _DICTIONARY in header)


def _struct(file: IO[bytes], level: int = 0) -> dict[int, Any]:
    """The whole numbers and structs of a struct by their field's number; other values are passed over."""
    found: dict[int, Any] = {}
    number = 0
    for _ in range(_MOST_FIELDS):
        head = _byte(file)
        if head == 0:
            return found
        number = number + (head >> 4) if head >> 4 else _whole(file)
        found[number] = _value(file, head & 15, level)
    raise EOFError("a page's header without an end")


def _value(file: IO[bytes], kind: int, level: int) -> Any:
    if kind in (1, 2):  # true, false
        return None
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _whole(file)
    if kind == 8:  # bytes: a statistic
        file.seek(min(_varint(file), _MOST_BYTES), 1)
        return None
    if kind == 12 and level < _MOST_LEVELS:
        return _struct(file, level + 1)
    raise EOFError("a page's header with a field of an unknown kind")


def _whole(file: IO[bytes]) -> int:
    """A zigzag number: 0, -1, 1, -2, ..."""
    number = _varint(file)
    return (number >> 1) ^ -(number & 1)


def _varint(file: IO[bytes]) -> int:
    number = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
    raise EOFError("a page's header with a number without an end")


def _byte(file: IO[bytes]) -> int:
    data = file.read(1)
    if not data:
        raise EOFError("the file ends in a page's header")
    return data[0]
