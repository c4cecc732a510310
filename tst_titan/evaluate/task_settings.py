"""Settings of a user's task as lm-eval takes them, and the data that they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import datasets.config

from tst_titan.errors import UserError
from tst_titan.evaluate.task_files import Function, local_data, plain
from tst_titan.evaluate.upstream import import_function
from tst_titan.files import digest_json


def resolved(settings: Any, where: str) -> Any:
    """Settings with functions in place of their names, and a cache of its own for each content of local data files.

    The library tells the content of its cache by the files' times alone.
    """
    if isinstance(settings, Function):
        try:
            return import_function(settings.name, settings.folder)
        except Exception as error:  # a module's own code raises anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"!function {settings.name}: {reason}", where=where) from error
    if isinstance(settings, dict):
        made = {key: resolved(value, where) for key, value in settings.items()}
        if local_data(settings):
            given = made.get("dataset_kwargs") or {}
            cache = Path(given.get("cache_dir") or cache_dir()) / digest_json(plain(settings)["data"], length=16)
            made["dataset_kwargs"] = {**given, "cache_dir": str(cache)}
        return made
    return [resolved(entry, where) for entry in settings] if isinstance(settings, list) else settings


def load_data(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task's data by split, as lm-eval loads them."""
    return datasets.load_dataset(
        settings.get("dataset_path"), settings.get("dataset_name"), **(settings.get("dataset_kwargs") or {})
    )


def cache_dir() -> Path:
    """Where the library prepares data, unless a task says another place."""
    return Path(datasets.config.HF_DATASETS_CACHE)
