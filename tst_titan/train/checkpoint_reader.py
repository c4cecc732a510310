"""Reading a checkpoint (DCP) that a colleague may have written: what it says, never code that it brings.

A DCP index, `.metadata`, is a pickle, and so is each of its items that is no tensor (steps, learning rates). torch
unpickles both as they are, and a pickle may name any function of this machine to be called. Here an index may name the
classes of an index alone, and an item the plain values and tensors that `weights_only=True` admits. `check_checkpoint`
comes first: it compares the checkpoint with its seals (`tst_titan.train.seals`).
"""

import pickle
import re
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.serialization import _get_layout

from tst_titan.errors import UserError
from tst_titan.results import INDEX, checkpoint_index
from tst_titan.train.seals import Seals, Sharing, check_files, check_recorded, not_covered, read_seals

# What reading meets where a file of a checkpoint is cut short or gone.
CUT_SHORT = (EOFError, pickle.UnpicklingError, FileNotFoundError)
# Everything that the index of a checkpoint names, as torch writes it: found by a test that reads real ones.
_INDEX_CLASSES: dict[tuple[str, str], Any] = {
    **{
        (kind.__module__, kind.__qualname__): kind
        for kind in (
            dcp_metadata.Metadata,
            dcp_metadata.MetadataIndex,
            dcp_metadata.StorageMeta,
            dcp_metadata.TensorStorageMetadata,
            dcp_metadata.BytesStorageMetadata,
            dcp_metadata.ChunkStorageMetadata,
            dcp_metadata.TensorProperties,
            dcp_metadata._MEM_FORMAT_ENCODING,
            _StorageInfo,
        )
    },
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    # Where the checkpoint was written; Python 3.13 keeps the class in another module.
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
}


def check_checkpoint(checkpoint: Path, segment: str, step: int, sharing: Sharing) -> Seals | None:
    """Compare a checkpoint with its seals before anything of it is loaded: all ranks that load it call this.

    Returns None where it has none. Raises `UserError` where it is another segment's or of another step, or where any of
    its files is not to the byte what was saved; any other error where the index of one without seals is damaged.
    """
    seals = read_seals(checkpoint)
    if seals is not None:
        seals.check_owner(segment, step)
        check_files(seals, sharing)
    check_recorded(checkpoint, seals)
    names = files_of(read_index(checkpoint)).keys() | {INDEX}
    if seals is not None and (missing := names - seals.files.keys()):
        raise not_covered(seals, missing)
    return seals


def files_of(index: Metadata) -> dict[str, int]:
    """The data files that an index names, and how many bytes each must have at least."""
    needed: dict[str, int] = {}
    for place in index.storage_data.values():
        needed[place.relative_path] = max(needed.get(place.relative_path, 0), place.offset + place.length)
    return needed


def read_index(checkpoint: Path) -> Metadata:
    """The index of a checkpoint: names, shapes and places of its items.

    Raises `UserError` where it names anything else than an index needs, and any other error where it is damaged.
    """
    return CheckpointReader(checkpoint).read_metadata()


def load_into(state: dict[str, Any], checkpoint: Path, *, no_dist: bool = False) -> None:
    """Fill `state` from a checkpoint as `dcp.load` does: tensors in place, on every rank its own part.

    Raises the first error of any rank: `UserError` for what would have run code.
    """
    try:
        dcp.load(
            state,
            storage_reader=CheckpointReader(checkpoint),
            planner=_PlainValues(checkpoint),
            no_dist=no_dist,
        )
    except CheckpointException as error:
        raise first_failure(error) from error


def first_failure(error: CheckpointException) -> Exception:
    """What a rank met: torch hands it on inside of an exception that no `except Exception` catches."""
    failures = [failure for failure, _ in error.failures.values() if isinstance(failure, Exception)]
    refused = [failure for failure in failures if isinstance(failure, UserError)]
    return [*refused, *failures, RuntimeError(str(error))][0]


class CheckpointReader(FileSystemReader):
    """torch's reader of a checkpoint folder, with an index that can name the classes of an index alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = checkpoint_index(Path(self.path))
        with path.open("rb") as file:
            index = _IndexUnpickler(file, path).load()
        if not isinstance(index, Metadata):
            raise _refusal(path, f"it holds a {type(index).__name__}, no index")
        for name in files_of(index):
            if name != PurePosixPath(name).name:
                raise _refusal(path, f"it names the file {name} of another folder")
        index.storage_meta = index.storage_meta or StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


class _IndexUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _INDEX_CLASSES:
            raise _refusal(self.path, f"it names {module}.{name}")
        return _INDEX_CLASSES[module, name]


class _PlainValues(dcp.DefaultLoadPlanner):
    """torch's planner, but an item that is no tensor is unpickled with `weights_only=True`."""

    def __init__(self, checkpoint: Path):
        super().__init__()
        self.checkpoint = checkpoint

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        name = read_item.dest_index.fqn
        try:
            item = torch.load(value, weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"names {named[1]}" if named else "cannot be read as plain values"
            raise _refusal(self.checkpoint, f"its item {name} {reason}") from error
        set_element(self.original_state_dict, self.mappings[name], item)


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(
        f"not read: {reason}, which no checkpoint of tst-titan has, and reading it could run code of whoever wrote "
        "it; delete the checkpoint (and done.json, if its segment's folder has one) and train the segment again",
        where=path,
    )


def check_shapes(found: dict[str, torch.Size | None], wanted: dict[str, torch.Size], checkpoint: Path) -> None:
    """Whether a checkpoint holds this model's parameters, each in its shape."""
    missing = [name for name in wanted if name not in found]
    other = [
        f"{name} is {_sizes(found[name])} there, {list(shape)} here"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if missing:
        other.append(f"{len(missing)} parameters are not there, {missing[0]} for one")
    if other:
        raise UserError(
            f"{checkpoint}: a checkpoint of another model: {'; '.join(other[:3])}"
            + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
        )


def _sizes(size: torch.Size | None) -> list[int] | str:
    return "no tensor" if size is None else list(size)
