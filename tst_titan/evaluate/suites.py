"""Tasks by name: the suites `offline` and `paper`, lm-eval's own, and a user's in `studies/tasks`."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from tst_titan.errors import UserError
from tst_titan.files import digest_json
from tst_titan.names import RULE, is_name
from tst_titan.study.catalogue import OFFLINE_TASKS, PAPER_TASKS, TASK_GROUPS

# The metric that tables show of each task of the suites; all are kept. Those of the published suite are its authors'.
SUITE_METRICS = {
    "heldout_bits_per_byte": "bits_per_byte",
    **dict.fromkeys(
        ("heldout_cloze", "hellaswag", "arc_easy", "arc_challenge", "openbookqa", "piqa"), "acc_norm"
    ),
    **dict.fromkeys(("mmlu", "boolq", "winogrande"), "acc"),
}
# Where lm-eval defines them: reading these folders alone spares the index of all of its tasks (13 s).
_FOLDERS = {
    "hellaswag": "hellaswag",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "mmlu": "mmlu/default",
    "boolq": "super_glue/boolq",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "winogrande": "winogrande",
}
# What a definition calls itself; good enough to suggest names.
_NAME = re.compile(r"""^["']?(?:task|group|tag)["']?: ["']?([\w.-]+)""", re.MULTILINE)
_LOCAL_BUILDERS = ("json", "csv", "text", "parquet", "arrow", "pandas")


class MissingData(UserError):
    """The data of a task are not in the prepared cache."""


def tasks_of(group: str) -> tuple[str, ...]:
    """The tasks of a suite; any other name is a group of one task."""
    return TASK_GROUPS.get(group, (group,))


class Tasks:
    """Finds and loads the tasks of some names.

    Args:
        names: task names (not suites).
        corpus_tasks: folder of a corpus's offline tasks, where those are among the names.
        user_tasks: folder of the user's own task definitions (YAML), which come before lm-eval's.

    Raises `UserError` for a name that nobody defines, with the nearest there is.
    """

    def __init__(self, names: Sequence[str], *, corpus_tasks: Path | None, user_tasks: Path | None):
        for name in names:
            if not is_name(name):
                raise UserError(f"task {name!r}: {RULE}")
        builtin = Path(lm_eval.tasks.__file__).parent
        own = [folder for folder in (corpus_tasks, user_tasks) if folder is not None and folder.is_dir()]
        known = sorted({builtin / _FOLDERS[name] for name in names if name in _FOLDERS})
        self._user_tasks = user_tasks
        self._manager = TaskManager(include_path=[*known, *own], include_defaults=False)
        others = [name for name in names if name not in self._manager.task_index]
        if others:
            texts = [path.read_text(encoding="utf-8") for path in builtin.rglob("*.yaml")]
            for name in others:
                self._check_users(name)
                if not any(name in text for text in texts):
                    raise self._unknown(name, texts)
            self._manager = TaskManager(include_path=own, include_defaults=True)
            for name in others:
                if name not in self._manager.task_index:
                    raise self._unknown(name, texts)

    def version(self, name: str) -> str:
        """The version that the definition states, and a digest of a user's own definition, which often states none."""
        entry = self._manager.task_index[name]
        version = str((_settings(entry).get("metadata") or {}).get("version", "none"))
        if self._is_users(entry):
            version += f"+{digest_json(_plain(_settings(entry)))}"
        return version

    def load(self, name: str) -> Any:
        """lm-eval's `TaskDict` of one name: the leaf tasks with their data, and the groups over them.

        Raises `MissingData` where the data are not in the prepared cache, another `UserError` where the definition is wrong.
        """
        try:
            return self._manager.load([name])
        except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            datasets = self.datasets(name)
            if isinstance(error, ConnectionError) or "find cache" in reason or "Couldn't find" in reason:
                raise MissingData(
                    f"task {name}: its data ({', '.join(datasets[:3])}{', ...' if datasets[3:] else ''}) are not in the prepared "
                    f"cache {_cache_dir()}, and an evaluation downloads nothing; on a machine with network run "
                    f"`tst-titan fetch-eval-data --tasks {name}` with the same HF_HOME, or copy that folder here"
                ) from error
            entry = self._manager.task_index[name]
            where = f" ({entry.yaml_path})" if entry.yaml_path else ""
            raise UserError(f"task {name}{where}: cannot be loaded: {reason}") from error

    def datasets(self, name: str) -> list[str]:
        """The hub datasets that a task or group reads, as `path` or `path [configuration]`."""
        found = dict.fromkeys(
            f"{path} [{settings['dataset_name']}]" if settings.get("dataset_name") else path
            for settings in self._leaves(name)
            if (path := settings.get("dataset_path")) and path not in _LOCAL_BUILDERS
        )
        return list(found)

    def _leaves(self, name: str) -> Iterator[dict[str, Any]]:
        index = self._manager.task_index
        entry = index.get(name)
        if entry is None:
            return
        settings = _settings(entry)
        # A tag is written `tag: NAME` in the tasks that carry it, which are its tags here.
        children = (
            settings.get("task") if "group" in settings else sorted(entry.tags) if not settings else None
        )
        if children is None:
            yield settings
            return
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, dict):
                inherited = index.get(str(child.get("task")))
                yield {**(_settings(inherited) if inherited else {}), **child}
            elif child != name:
                yield from self._leaves(child)

    def _is_users(self, entry: Any) -> bool:
        return bool(self._user_tasks and entry.yaml_path and entry.yaml_path.is_relative_to(self._user_tasks))

    def _check_users(self, name: str) -> None:
        """Raise a `UserError` for a user's definition of `name` that lm-eval would skip without a word."""
        if self._user_tasks is None:
            return
        for path in sorted(self._user_tasks.rglob("*.yaml")):
            try:
                load_yaml(path, resolve_func=False)
            except Exception as error:  # whatever fails here fails there
                if name in path.read_text(encoding="utf-8", errors="replace"):
                    reason = " ".join(str(error).split())[:200]
                    raise UserError(f"{path}: task {name} cannot be read: {reason}") from error

    def _unknown(self, name: str, texts: Sequence[str]) -> UserError:
        known = {*TASK_GROUPS, *OFFLINE_TASKS, *self._manager.task_index}
        known |= {found for text in texts for found in _NAME.findall(text)}
        near = difflib.get_close_matches(name, known, n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else f"suites are {', '.join(TASK_GROUPS)}"
        return UserError(
            f"task {name}: neither lm-eval nor {self._user_tasks or 'studies/tasks'} defines it; {advice}"
        )


def default_metric(task: str, metrics: Sequence[str]) -> str:
    """The metric that tables show: a suite's choice, else the first that the task lists."""
    metric = SUITE_METRICS.get(task, metrics[0])
    return metric if metric in metrics else metrics[0]


def num_fewshot(task: str) -> int | None:
    """0 for the suites here; None: as the task says."""
    return 0 if task in PAPER_TASKS or task in OFFLINE_TASKS else None


def _settings(entry: Any) -> dict[str, Any]:
    return entry.cfg or {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _cache_dir() -> Path:
    import datasets.config

    return Path(datasets.config.HF_DATASETS_CACHE)
