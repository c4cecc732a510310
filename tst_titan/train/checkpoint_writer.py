"""Writing a checkpoint (DCP) with its seals: digests are taken of the bytes on their way to the files, not read back
from them."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter

from tst_titan.results import INDEX
from tst_titan.train.seals import FileSeal, write_seal

# Pieces from this size on are digested beside their writing.
_BESIDE = 1 << 16


class SealingWriter(FileSystemWriter):
    """torch's writer of a checkpoint folder; each rank seals its files, the first one the index when that is written.

    An index without all seals so never counts as whole.
    """

    def __init__(self, checkpoint: Path, *, segment: str, step: int):
        super().__init__(checkpoint)
        self.segment, self.step = segment, step
        self.fs = self._files = _DigestingFiles()

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        written = super().write_data(*args, **kwargs)
        written.wait()
        self._seal(str(self.rank or 0), self._files.seals)
        return written

    def finish(self, *args: Any, **kwargs: Any) -> None:
        super().finish(*args, **kwargs)
        self._seal("index", {INDEX: self._files.seals[INDEX]})

    def _seal(self, part: str, files: dict[str, FileSeal]) -> None:
        write_seal(Path(self.path), part, self.segment, self.step, files)


class _DigestingFiles(FileSystem):
    """torch's file system; `seals` has the files that were written, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seals: dict[str, FileSeal] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with (
            ThreadPoolExecutor(1, thread_name_prefix="digest") as beside,
            super().create_stream(path, mode) as stream,
        ):
            digesting = _DigestingStream(stream, beside)
            yield digesting
        self.seals[Path(path).name] = FileSeal(digesting.size, digesting.digest.hexdigest())

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.seals[Path(new_path).name] = self.seals.pop(Path(path).name)


class _DigestingStream:
    """What torch needs of a file that is written from its beginning to its end; it cannot seek."""

    def __init__(self, stream: Any, beside: ThreadPoolExecutor):
        self._stream, self._beside = stream, beside
        self.digest = hashlib.sha256()
        self.size = 0
        self.tell, self.flush, self.fileno, self.close = (
            stream.tell,
            stream.flush,
            stream.fileno,
            stream.close,
        )

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if size < _BESIDE:
            self.digest.update(data)
            return self._stream.write(data)
        # The bytes are the writer's until this returns.
        digested = self._beside.submit(self.digest.update, data)
        written = self._stream.write(data)
        digested.result()
        return written
