"""A shard: one Arrow IPC file with a flat run of token ids, written whole and read in place.

The file holds ONE record batch of one row with four list columns, so that each column's values are one contiguous
buffer in the memory-mapped file: `ids` (uint16 or uint32, N), `document_offsets` (int64, D + 1: where each document
starts, then N), `document_hashes` (uint64, D) and `document_bytes` (int64, D). The schema's metadata hold the header.
Opening reads the header and the footer only; the checksum is read in a pass of its own.

How the system reads a mapped file is up to `madvise`. Left alone, it reads up to megabytes around every page that is
missing: good for a pass, waste for blocks in random order.
"""

import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tst_titan.errors import UserError
from tst_titan.files import whole_file

_KEY = b"tst_titan.shard"
_FORMAT = 1
# The kernel fetches no more than its readahead size at one request, 128 KiB where nobody set it.
_REQUEST_BYTES = 128 * 1024
_MEND = "delete the corpus folder and build it again with `tst-titan data build`"


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """What a shard says of itself. `checksum`: SHA-256 of its four columns. `num_bytes`: UTF-8 bytes of the texts."""

    corpus_id: str
    source: str
    split: str
    tokenizer_digest: str
    vocab_size: int
    num_tokens: int
    num_documents: int
    num_bytes: int
    checksum: str


@dataclass(frozen=True)
class Shard:
    """An open shard: read-only views into the mapped file. `ids_start`: the byte at which its ids begin."""

    path: Path
    header: ShardHeader
    mapped: mmap.mmap
    ids_start: int
    ids: np.ndarray
    document_offsets: np.ndarray
    document_hashes: np.ndarray
    document_bytes: np.ndarray

    def will_need(self, first: int, count: int) -> None:
        """Have the system fetch the pages of `count` ids from `first` on, and no others; does not wait for them."""
        start = self.ids_start + first * self.ids.itemsize
        end = start + count * self.ids.itemsize
        for at in range(start - start % mmap.PAGESIZE, end, _REQUEST_BYTES):
            self.mapped.madvise(mmap.MADV_WILLNEED, at, min(_REQUEST_BYTES, end - at))


@dataclass(frozen=True)
class Columns:
    """A shard's content in memory or mapped; the meaning is the file's."""

    ids: np.ndarray
    document_offsets: np.ndarray
    document_hashes: np.ndarray
    document_bytes: np.ndarray

    def as_tuple(self) -> tuple[np.ndarray, ...]:
        return (self.ids, self.document_offsets, self.document_hashes, self.document_bytes)


def id_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def write_shard(
    path: Path,
    columns: Columns,
    *,
    corpus_id: str,
    source: str,
    split: str,
    tokenizer_digest: str,
    vocab_size: int,
) -> ShardHeader:
    """Write a shard, whole or not at all, and return its header. Equal content gives equal bytes."""
    header = ShardHeader(
        corpus_id=corpus_id,
        source=source,
        split=split,
        tokenizer_digest=tokenizer_digest,
        vocab_size=vocab_size,
        num_tokens=len(columns.ids),
        num_documents=len(columns.document_hashes),
        num_bytes=int(columns.document_bytes.sum()),
        checksum=_checksum(columns),
    )
    names = ("ids", "document_offsets", "document_hashes", "document_bytes")
    lists = [_one_row(column) for column in columns.as_tuple()]
    metadata = {_KEY: json.dumps({"format": _FORMAT, **asdict(header)}, sort_keys=True).encode()}
    schema = pa.schema([pa.field(n, a.type) for n, a in zip(names, lists, strict=True)], metadata=metadata)
    batch = pa.RecordBatch.from_arrays(lists, schema=schema)
    with whole_file(path) as partial, partial.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)
    return header


def open_shard(path: Path, *, advice: int = mmap.MADV_NORMAL) -> Shard:
    """Map a shard and check its header against its columns; a file that was cut short is a `UserError`.

    Costs the same for every size: no id is read. `advice`: how the system shall read the file (`mmap.MADV_RANDOM`:
    only the pages that are asked for).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(advice)
        whole = pa.py_buffer(mapped)
        reader = pa.ipc.open_file(whole)
        stored = json.loads((reader.schema.metadata or {})[_KEY])
        batch = reader.get_batch(0)
        columns = [_in_place(batch.column(i).values) for i in range(batch.num_columns)]
    except FileNotFoundError:
        raise UserError(f"no such shard; {_MEND}", where=path) from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = "no shard header" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"not a whole shard, cut short or damaged ({reason}); {_MEND}", where=path) from error
    if stored.pop("format") != _FORMAT:
        raise UserError(f"a shard of another format than {_FORMAT}; {_MEND}", where=path)
    ids_start = columns[0].ctypes.data - whole.address
    shard = Shard(path, ShardHeader(**stored), mapped, ids_start, *columns)
    header, offsets = shard.header, shard.document_offsets
    lengths = (len(shard.ids), len(offsets) - 1, len(shard.document_hashes), len(shard.document_bytes))
    if lengths != (header.num_tokens, *[header.num_documents] * 3) or offsets[-1] != header.num_tokens:
        raise UserError(f"its header says {header.num_tokens} tokens, its columns do not; {_MEND}", where=path)
    return shard


def verify_shard(path: Path) -> ShardHeader:
    """Read a whole shard: its checksum must be the header's and every id below the vocabulary's size."""
    shard = open_shard(path, advice=mmap.MADV_SEQUENTIAL)
    columns = Columns(shard.ids, shard.document_offsets, shard.document_hashes, shard.document_bytes)
    if _checksum(columns) != shard.header.checksum:
        raise UserError(f"wrong checksum, its content was changed after it was written; {_MEND}", where=path)
    if len(shard.ids) and int(shard.ids.max()) >= shard.header.vocab_size:
        raise UserError(
            f"holds id {int(shard.ids.max())}, beyond the vocabulary of {shard.header.vocab_size} ids; {_MEND}",
            where=path,
        )
    return shard.header


def select_documents(shards: Sequence[Shard], keep: Sequence[np.ndarray]) -> Columns:
    """The documents of `shards` where `keep` (one boolean array a shard) is true, joined in order."""
    ids, lengths, hashes, sizes = [], [], [], []
    for shard, mask in zip(shards, keep, strict=True):
        length = np.diff(shard.document_offsets)
        ids.append(shard.ids[np.repeat(mask, length)])
        lengths.append(length[mask])
        hashes.append(shard.document_hashes[mask])
        sizes.append(shard.document_bytes[mask])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Columns(np.concatenate(ids), offsets, np.concatenate(hashes), np.concatenate(sizes))


def _one_row(column: np.ndarray) -> pa.LargeListArray:
    """One list that holds the whole column. From its buffer: `pa.array` would import pandas first, in every worker."""
    values = pa.Array.from_buffers(
        pa.from_numpy_dtype(column.dtype), len(column), [None, pa.py_buffer(np.ascontiguousarray(column))]
    )
    offsets = pa.py_buffer(np.array([0, len(column)], dtype=np.int64))
    return pa.LargeListArray.from_buffers(pa.large_list(values.type), 1, [None, offsets], children=[values])


def _in_place(values: pa.Array) -> np.ndarray:
    """A view of a column's values; `Array.to_numpy` would import pandas first, too."""
    dtype = np.dtype(values.type.to_pandas_dtype())
    return np.frombuffer(values.buffers()[1], dtype, count=len(values), offset=values.offset * dtype.itemsize)


def _checksum(columns: Columns) -> str:
    digest = hashlib.sha256()
    for column in columns.as_tuple():
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    return digest.hexdigest()
