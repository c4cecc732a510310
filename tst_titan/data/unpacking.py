"""A file's content as a stream of bytes, unpacked where it is compressed, in bounded memory however small it was
packed.

An unpacker keeps a window of what it has unpacked, as large as the file asks for (`WINDOW_BYTES` bounds it; that of
gzip and bzip2 is below a megabyte by their formats).
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from tst_titan.bounds import WINDOW_BYTES
from tst_titan.errors import UserError

# What the unpackers raise for a file that is damaged; bzip2's is an OSError without a number of the system's.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
# A byte of zstandard data stands for at most 32 KiB (a block of 128 KiB takes four), so a piece for 16 MiB.
_ZSTD_PIECE = 512
_XZ_PIECE = 2**16
# What an xz decoder needs beside its window.
_XZ_OWN = 2**20


def open_unpacked(path: Path, compression: str) -> IO[bytes]:
    """Open a file of a compression (see `file_kinds.COMPRESSED`; "": of none).

    Reading raises one of `DAMAGE` or `OSError` where the file is damaged, `UserError` where it asks for more memory
    than the bound.
    """
    opened: dict[str, Callable[[Path], Any]]
    opened = {"gzip": gzip.open, "bzip2": bz2.open, "zstandard": _zstd, "xz": _xz}
    return opened[compression](path) if compression else path.open("rb")


def _zstd(path: Path) -> io.BufferedReader:
    return io.BufferedReader(_Unpacked(path, _zstd_parts))


def _xz(path: Path) -> io.BufferedReader:
    return io.BufferedReader(_Unpacked(path, _xz_parts))


class _Unpacked(io.RawIOBase):
    """The parts of `unpack`, a generator over an open file, as a stream."""

    def __init__(self, path: Path, unpack: Callable[[Path, IO[bytes]], Iterator[bytes]]) -> None:
        self._file = path.open("rb")
        self._parts = unpack(path, self._file)
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._pending = memoryview(part)
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _zstd_parts(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Frame after frame; an end in the middle of one is an `EOFError`."""
    new = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES.most()).decompressobj
    data = file.read(_ZSTD_PIECE)
    while data:
        frame = new()
        while not frame.eof:
            if not data:
                raise EOFError("the file ends before the end of its last frame")
            with _too_large_a_window(path, zstandard.ZstdError, "too much memory"):
                part = frame.decompress(data)
            yield part
            data = b"" if frame.eof else file.read(_ZSTD_PIECE)
        data = frame.unused_data or file.read(_ZSTD_PIECE)


def _xz_parts(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Stream after stream, padding between them left out."""
    data = file.read(_XZ_PIECE)
    while data:
        stream = lzma.LZMADecompressor(memlimit=WINDOW_BYTES.most() + _XZ_OWN)
        while not stream.eof:
            if stream.needs_input and not data:
                raise EOFError("the file ends before the end of its last stream")
            with _too_large_a_window(path, lzma.LZMAError, "Memory usage limit"):
                part = stream.decompress(data, _XZ_PIECE)
            yield part
            data = file.read(_XZ_PIECE) if stream.needs_input and not stream.eof else b""
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := file.read(_XZ_PIECE)):
            data = more.lstrip(b"\0")


@contextmanager
def _too_large_a_window(path: Path, kind: type[Exception], words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if words not in str(error):
            raise
        raise UserError(
            f"asks for a window of more than {WINDOW_BYTES.most():,} bytes of memory to be unpacked (such as `zstd "
            "--long=31` "
            f"makes); compress it again without that, or {WINDOW_BYTES.mend} (the format's most is 2147483648)",
            where=path,
        ) from error
