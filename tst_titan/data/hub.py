"""Hugging Face datasets, file by file: nothing but the files that are needed is downloaded, each one verified.

`path` is a repository's name or a local dataset folder. Which files make a subset and split is what `datasets` says.
They are listed once, at the commit that the revision names then, with size and hash; all jobs read that commit. A file
is downloaded to the temporary folder (`TMPDIR`), compared with its hash, read, and deleted. The hub's client brings the
user's token (`HF_TOKEN`, or what `hf auth login` left) to the hub alone.
"""

import errno
import hashlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tst_titan.data import local_files
from tst_titan.data.documents import Input
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings

_PREFIX = "hf://datasets/"
_PATHS_AT_ONCE = 1000
# The hub's client retries a few seconds on its own; this outlasts a restart of the hub and an hour's rate limit.
_ATTEMPTS = 8
_FIRST_PAUSE_S = 2.0
_Result = TypeVar("_Result")


def list_inputs(source: SourceSettings) -> tuple[list[Input], dict[str, Any], list[str]]:
    """The files of the dataset's subset and split, with their sizes and hashes."""
    commit = _commit(source)
    urls = _files(source, commit)
    inputs = _remote(source, urls, commit) if urls[0].startswith(_PREFIX) else _on_disk(source, urls)
    for entry in inputs:
        if not local_files.format_of(Path(entry.name)):
            raise UserError(
                f"corpus source {source.name}: dataset {source.path}: {entry.name} is of a kind that is not read "
                f"(known: {local_files.KINDS}); set `file_pattern`, or read the hub's Parquet copy with `revision: "
                "refs/convert/parquet`"
            )
    num_bytes = sum(entry.size for entry in inputs)
    origin = {
        "dataset": source.path,
        "revision": commit,
        "num_files": len(inputs),
        "num_bytes": num_bytes,
    }
    return inputs, origin, []


def read(source: SourceSettings, entry: Input, tally: Counter[str]) -> Iterator[tuple[str, str]]:
    """Iterate (id, text) of one file of the dataset."""
    if not entry.path.startswith(_PREFIX):
        yield from local_files.read(source, entry, tally)
        return
    with tempfile.TemporaryDirectory(prefix="tst-titan-") as folder:
        path = _downloaded(source, entry, Path(folder))
        try:
            yield from local_files.read(source, replace(entry, path=str(path)), tally)
        except UserError as error:
            own, remote = str(path), entry.path
            raise UserError(error.what.replace(own, remote), where=error.where.replace(own, remote)) from error


def _commit(source: SourceSettings) -> str:
    """The commit that the revision names now; a local folder has none."""
    if Path(source.path).exists():
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = _patiently(lambda: HfApi().dataset_info(source.path, revision=source.revision or None))
        return info.sha or source.revision
    except RevisionNotFoundError as error:
        raise UserError(
            f"corpus source {source.name}: dataset {source.path} has no revision {source.revision!r}; correct "
            "`revision`"
        ) from error
    except RepositoryNotFoundError as error:
        if _needs_login(error):
            raise _login(source) from error
        raise UserError(
            f"corpus source {source.name}: there is no dataset {source.path!r} here or on the hub; correct `path` (a "
            "private one needs HF_TOKEN or `hf auth login`)"
        ) from error
    except Exception as error:
        raise _refused(source, error, "cannot be listed") from error


def _files(source: SourceSettings, commit: str) -> list[str]:
    """Where the files of the subset and split lie, as `datasets` resolves them: hf:// addresses or local paths."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    try:
        builder = _patiently(
            lambda: load_dataset_builder(
                source.path,
                name=source.subset or None,
                revision=commit or None,
                data_files=source.file_pattern or None,
            )
        )
    except (DatasetNotFoundError, FileNotFoundError) as error:
        if _needs_login(error):
            raise _login(source) from error
        raise UserError(
            f"corpus source {source.name}: dataset {source.path!r}"
            f"{f' with file_pattern {source.file_pattern!r}' if source.file_pattern else ''}: there is none here or on "
            "the hub, or it has no data files; correct `path` or `file_pattern`"
        ) from error
    except Exception as error:  # of the HTTP library, the file system and the dataset library alike
        raise _refused(source, error, "cannot be opened") from error
    splits = builder.config.data_files or {}
    if source.split not in splits:
        raise UserError(
            f"corpus source {source.name}: dataset {source.path} has no split {source.split!r} of files "
            f"(there: {', '.join(map(str, splits)) or 'none'}); correct `split`"
        )
    return [str(file) for file in splits[source.split]]


def _on_disk(source: SourceSettings, paths: list[str]) -> list[Input]:
    inputs = []
    for path in map(Path, paths):
        status = path.stat()
        name = os.path.relpath(path, source.path)
        inputs.append(Input(name, str(path), status.st_size, str(status.st_mtime_ns)))
    return inputs


def _remote(source: SourceSettings, urls: list[str], commit: str) -> list[Input]:
    """Files of the hub; `version` is the hash that git or its large file storage has of the content."""
    from huggingface_hub import HfApi

    prefix = f"{_PREFIX}{source.path}@{commit}/"
    names = [url.removeprefix(prefix) for url in urls]
    sizes: dict[str, tuple[int, str]] = {}
    try:
        for first in range(0, len(names), _PATHS_AT_ONCE):
            some = names[first : first + _PATHS_AT_ONCE]
            for file in _patiently(
                lambda some=some: HfApi().get_paths_info(  # type: ignore[misc]
                    source.path, some, repo_type="dataset", revision=commit
                )
            ):
                sizes[file.path] = (
                    file.size,  # type: ignore[union-attr]
                    f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}",  # type: ignore[union-attr]
                )
        return [Input(name, prefix + name, *sizes[name]) for name in names]
    except Exception as error:
        raise _refused(source, error, "cannot be listed") from error


def _downloaded(source: SourceSettings, entry: Input, folder: Path) -> Path:
    """The file in `folder`, whole and as listed. A download that broke off is resumed."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    repository, _, place = entry.path.removeprefix(_PREFIX).partition("@")
    commit, _, name = place.partition("/")

    def whole() -> Path:
        path = Path(hf_hub_download(repository, name, repo_type="dataset", revision=commit, local_dir=folder))
        if path.stat().st_size != entry.size or _hash_of(path, entry.version) != entry.version:
            path.unlink()
            raise _Different("its content is not what was listed (size or hash differ)")
        return path

    try:
        return _patiently(whole)
    except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError) as error:
        if _passing(error):  # the client says "not found here" of what it could not reach
            raise _refused(source, error, f"{name} cannot be downloaded (tried {_ATTEMPTS} times)") from error
        if _needs_login(error):
            raise _login(source) from error
        raise UserError(
            f"corpus source {source.name}: {entry.path} is gone: the revision was removed after it was listed; "
            "delete the corpus folder, set `revision` to a commit that exists and build again"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"no space for the download of {entry.path} ({entry.size:,} bytes); set TMPDIR to a larger folder",
                where=folder.parent,
            ) from error
        raise _refused(source, error, f"{name} cannot be downloaded (tried {_ATTEMPTS} times)") from error


class _Different(Exception):
    """A file whose bytes are not the listed ones."""


def _patiently(call: Callable[[], _Result]) -> _Result:
    """The result of `call`, which is tried again after passing faults, with pauses that double."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if _told_to_stay_offline(error) or not _passing(error):
                raise
        time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
    return call()


def _passing(error: BaseException | None) -> bool:
    """Whether a fault may be gone soon: an overloaded or restarting hub, a broken connection, a damaged download."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            return status in (408, 429) or status >= 500
        broken = isinstance(error, (_Different, httpx.TransportError, ConnectionError, TimeoutError))
        # The client's own check of a file's size raises an OSError without a number.
        if broken or (type(error) is OSError and error.errno is None):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told_to_stay_offline(error: Exception) -> bool:
    """Whether it is the environment that forbids the network, which asking again does not change."""
    # `datasets` names the cause in its text alone.
    return "OfflineModeIsEnabled" in f"{type(error).__name__}: {error}"


def _needs_login(error: Exception) -> bool:
    """Whether the hub has the dataset and shows it only to those who accepted its terms."""
    from huggingface_hub.errors import GatedRepoError

    # `datasets` raises an error of its own, without the cause.
    return isinstance(error, GatedRepoError) or "is a gated dataset" in str(error)


def _login(source: SourceSettings) -> UserError:
    return UserError(
        f"corpus source {source.name}: dataset {source.path}: needs a login: accept its terms on the hub, then set "
        "HF_TOKEN or run `hf auth login`"
    )


def _hash_of(path: Path, version: str) -> str:
    """The content's hash in the form of `version`: of the bytes, or git's of a blob."""
    kind = version.partition(":")[0]
    with path.open("rb") as file:
        if kind == "sha256":
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while data := file.read(2**20):
            digest.update(data)
    return f"git:{digest.hexdigest()}"


def _refused(source: SourceSettings, error: Exception, what: str) -> UserError:
    if _told_to_stay_offline(error):
        names = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if os.environ.get(name, "0") != "0"]
        return UserError(
            f"corpus source {source.name}: dataset {source.path}: {what}: the environment forbids the network "
            f"({', '.join(names)}); unset that where corpora are built, or name a dataset that lies on disk"
        )
    reason = " ".join(str(error).split())[:300]
    return UserError(f"corpus source {source.name}: dataset {source.path}: {what}: {type(error).__name__}: {reason}")
