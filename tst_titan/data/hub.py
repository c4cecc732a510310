"""Hugging Face datasets, read in streaming mode: nothing but the parts that are needed is downloaded.

`path` is a repository name or a local dataset folder. The revision is resolved to a commit once, when the source is
listed, so that all jobs read the same data.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tst_titan.data.documents import Input, valid_text
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings


def list_inputs(source: SourceSettings) -> tuple[list[Input], dict[str, Any], list[str]]:
    """The dataset's parts (its files), each one input of unknown size."""
    commit = _commit(source)
    dataset = _opened(source, commit)
    num_parts = dataset.num_shards
    inputs = [
        Input(name=f"part {part} of {num_parts}", path=f"{part}/{num_parts}", size=0, version=commit)
        for part in range(num_parts)
    ]
    return inputs, {"dataset": source.path, "revision": commit, "num_parts": num_parts}, []


def read(source: SourceSettings, entry: Input, tally: Counter[str]) -> Iterator[tuple[str, str]]:
    """Iterate (id, text) of one part of the dataset."""
    part, num_parts = map(int, entry.path.split("/"))
    dataset = _opened(source, entry.version)
    if dataset.num_shards != num_parts:
        raise UserError(
            f"corpus source {source.name}: dataset {source.path} has {dataset.num_shards} parts now and had {num_parts}: "
            "its files changed while it was read; set `revision` to a commit and build again"
        )
    column = source.text_column
    for number, row in enumerate(_rows(source, entry, dataset.shard(num_shards=num_parts, index=part))):
        text = row.get(column, "") or ""
        if column not in row or not isinstance(text, str):
            raise UserError(
                f"corpus source {source.name}: dataset {source.path}, {entry.name}, row {number}: "
                f"no text column {column!r} (there: {', '.join(row)}); set `text_column`"
            )
        yield f"{source.path}/{part}:{number}", valid_text(text, tally)


def _rows(source: SourceSettings, entry: Input, part: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a part. Passing faults of the network are retried by the hub's client; what is left is final."""
    try:
        yield from part
    except (
        Exception
    ) as error:  # errors of the HTTP library, of the file format and of the dataset library alike
        raise _refused(source, error, f"{entry.name} cannot be read") from error


def _commit(source: SourceSettings) -> str:
    """The commit that the revision names now; a local folder has none."""
    if Path(source.path).exists():
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return HfApi().dataset_info(source.path, revision=source.revision or None).sha or source.revision
    except RevisionNotFoundError as error:
        raise UserError(
            f"corpus source {source.name}: dataset {source.path} has no revision {source.revision!r}; correct `revision`"
        ) from error
    except Exception as error:
        raise _refused(source, error, "cannot be listed") from error


def _opened(source: SourceSettings, commit: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(
            source.path,
            name=source.subset or None,
            split=source.split,
            revision=commit or None,
            data_files=source.file_pattern or None,
            streaming=True,
        )
    except DatasetNotFoundError as error:
        raise UserError(
            f"corpus source {source.name}: there is no dataset {source.path!r} here or on the hub; correct `path`"
        ) from error
    except Exception as error:
        raise _refused(source, error, "cannot be opened") from error


def _refused(source: SourceSettings, error: Exception, what: str) -> UserError:
    reason = " ".join(str(error).split())[:300]
    return UserError(
        f"corpus source {source.name}: dataset {source.path}: {what}: {type(error).__name__}: {reason}"
    )
