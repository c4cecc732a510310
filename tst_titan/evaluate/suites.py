"""Tasks by name: the suites `offline` and `paper`, lm-eval's own, and a user's in `studies/tasks`."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from tst_titan.errors import UserError
from tst_titan.evaluate.sandbox import sandbox_templates
from tst_titan.evaluate.task_checks import (
    check_data,
    check_documents,
    check_metrics,
    check_settings,
    check_shots,
)
from tst_titan.evaluate.task_data import check_size
from tst_titan.evaluate.task_files import (
    FORMATS,
    Definition,
    code_in,
    local_data,
    plain,
    read_definitions,
    references,
)
from tst_titan.evaluate.task_settings import cache_dir, load_data, resolved
from tst_titan.evaluate.upstream import GROUP_FIELD_NAMES, Entry, Kind, TaskIndex
from tst_titan.files import digest_json
from tst_titan.names import RULE, is_name
from tst_titan.study.catalogue import OFFLINE_TASKS, PAPER_TASKS, TASK_GROUPS

# The metric that tables show of each task of the suites; all are kept. Those of the published suite are its authors'.
SUITE_METRICS = {
    "heldout_bits_per_byte": "bits_per_byte",
    **dict.fromkeys(("heldout_cloze", "hellaswag", "arc_easy", "arc_challenge", "openbookqa", "piqa"), "acc_norm"),
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


class MissingData(UserError):
    """The data of a task are not in the prepared cache."""


def tasks_of(group: str) -> tuple[str, ...]:
    """The tasks of a suite; any other name is a group of one task."""
    return TASK_GROUPS.get(group, (group,))


class Tasks:
    """Finds and loads the tasks of some names.

    Args:
        names: task names (not suites).
        corpus_tasks: a corpus's offline tasks by name, where those are among the names.
        user_tasks: folder of the user's own task definitions (YAML), which come before lm-eval's.
        trusted: whether those may bring code of their own. Their templates are rendered in a sandbox either way.

    Raises `UserError` for a name that nobody defines, with the nearest there is, and for a definition with code that is
    not trusted.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        corpus_tasks: Mapping[str, dict[str, Any]] | None,
        user_tasks: Path | None,
        trusted: bool = False,
    ):
        for name in names:
            if not is_name(name):
                raise UserError(f"task {name!r}: {RULE}")
        sandbox_templates()
        self._user_tasks = user_tasks
        self._own = read_definitions(user_tasks)
        self._corpus_tasks = corpus_tasks or {}
        for name in self._find(names):
            self._own.check(name)
            if definition := self._own.by_name.get(name):
                self._take(definition, trusted)

    def _find(self, names: Sequence[str]) -> list[str]:
        """Index the definitions of `names` and of their members, of as few of lm-eval's folders as will do; returns all
        names."""
        builtin = Path(lm_eval.tasks.__file__).parent
        folders: set[Path] = set()
        while True:
            self._index(TaskManager(include_path=sorted(folders), include_defaults=False))
            reached, missing = self._reached(names)
            wanted = {builtin / _FOLDERS[name] for name in missing if name in _FOLDERS} - folders
            if not wanted:
                break
            folders |= wanted
        if missing:
            texts = [path.read_text(encoding="utf-8") for path in builtin.rglob("*.yaml")]
            for name, owner in missing.items():
                self._own.check(name)
                if not any(name in text for text in texts):
                    raise self._unknown(name, owner, texts)
            self._index(TaskManager(include_defaults=True))
            reached, missing = self._reached(names)
            for name, owner in missing.items():
                if not owner or owner in self._own.by_name:
                    raise self._unknown(name, owner, texts)
        return reached

    def _index(self, manager: TaskManager) -> None:
        """lm-eval's index with the user's definitions over its own, and a corpus's tasks over both."""
        own: dict[str, Entry] = {}
        for definition in self._own.by_name.values():
            TaskIndex.process_cfg(definition.settings, definition.path, own)
        for entry in own.values():
            # Without a path, lm-eval does not read the file, and runs nothing that it names.
            entry.yaml_path = None
        manager.task_index.update(own)
        for name, settings in self._corpus_tasks.items():
            manager.task_index[name] = Entry(name, Kind.TASK, None, settings)
        self._manager = manager
        self._entries = manager.task_index

    def _reached(self, names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
        """`names` and what is in the groups and tags among them; and those of them that are not defined, each with its
        group."""
        reached: list[str] = []
        missing: dict[str, str] = {}
        waiting = [(name, True, "") for name in names]
        while waiting:
            name, required, owner = waiting.pop(0)
            if name in reached or name in missing:
                continue
            entry = self._entries.get(name)
            if entry is None:
                if required:
                    missing[name] = owner
                continue
            reached.append(name)
            members = sorted(entry.tags) if entry.kind is Kind.TAG else _settings(entry).get("task")
            if entry.kind in (Kind.TAG, Kind.GROUP) and isinstance(members, list):
                waiting += [(member, required, name) for member, required in references(members)]
        return reached, missing

    def _take(self, definition: Definition, trusted: bool) -> None:
        """Give lm-eval what a user's definition holds, if there is nothing in it that should not run."""
        where = _where(definition)
        if definition.name in OFFLINE_TASKS:
            raise UserError("is the name of a task that is made of held-out text; choose another", where=where)
        if not trusted and (code := next(code_in(definition.settings), None)):
            raise UserError(
                f"{code}: is code, and whoever may write this file would run it as you; leave it out, or trust these "
                "files: --trust-tasks, in a workflow's configuration `evaluation: {trust_tasks: true}`",
                where=where,
            )
        if definition.is_group and not definition.members:
            raise UserError(f"task: {definition.settings.get('task')!r}; list the group's members", where=where)
        self._entries[definition.name].cfg = resolved(definition.settings, where)

    def version(self, name: str) -> str:
        """The version that the definition states, and a digest of all that a user's own definitions put into the task.

        A user's definition often states no version; one of lm-eval is settled by lm-eval's.
        """
        digest = self.digests(name).get(name)
        version = str((_settings(self._entries[name]).get("metadata") or {}).get("version", "none"))
        return f"{version}+{digest}" if digest else version

    def digests(self, name: str) -> dict[str, str]:
        """Of a task, group or tag and everything in it: a digest of its settings, members, code and local data.

        What is all lm-eval's or a corpus's is left out.
        """
        found = {leaf.name: digest for leaf in self._leaves(name) if (digest := self._digest(leaf))}
        for group in self._reached([name])[0]:
            if group in found or self._entries[group].kind not in (Kind.GROUP, Kind.TAG):
                continue
            own = self._own.by_name.get(group)
            inside = {leaf.name: digest for leaf in self._leaves(group) if (digest := self._digest(leaf))}
            if own or inside:
                found[group] = digest_json([plain(own.settings) if own else {}, inside])
        return found

    def _digest(self, leaf: "_Leaf") -> str:
        if leaf.name in self._own.by_name:
            return digest_json(plain(leaf.settings))
        return digest_json([leaf.name, plain(leaf.changes)]) if leaf.changes else ""

    def load(self, name: str) -> Any:
        """lm-eval's `TaskDict` of one name: the leaf tasks with their data, and the groups over them.

        Raises `MissingData` where the data are not in the prepared cache, another `UserError` where the definition is
        wrong.
        """
        leaves = {leaf.name: leaf for leaf in self._leaves(name)}
        for leaf in leaves.values():
            for paths in local_data(leaf.settings).values():
                for path in paths:
                    check_size(path)
            check_shots(self._where(leaf.name), leaf.settings, _shots(name, leaf))
            if self._is_own(leaf):
                check_settings(self._where(leaf.name), leaf.settings)
            elif leaf.changes:
                check_metrics(self._where(leaf.name), leaf.settings)
        try:
            for leaf in leaves.values():
                if self._is_own(leaf) and "custom_dataset" not in leaf.settings:
                    where = self._where(leaf.name)
                    check_data(where, leaf.settings, load_data(resolved(leaf.settings, where)))
            loaded = self._manager.load([name])
        except UserError:
            raise
        except Exception as error:  # a definition is a user's, and lm-eval raises anything
            reason = " ".join(str(error).split())[:300]
            hub = self.datasets(name)
            if isinstance(error, ConnectionError) or "find cache" in reason or "Couldn't find" in reason:
                raise MissingData(
                    f"task {name}: its data ({', '.join(hub[:3])}{', ...' if hub[3:] else ''}) are not in the prepared "
                    f"cache {cache_dir()}, and an evaluation downloads nothing; on a machine with network run "
                    f"`tst-titan fetch-eval-data --tasks {name}` with the same HF_HOME, or copy that folder here"
                ) from error
            raise UserError(f"cannot be loaded: {type(error).__name__}: {reason}", where=self._where(name)) from error
        for leaf in leaves.values():
            if self._is_own(leaf):
                check_documents(self._where(leaf.name), loaded["tasks"][leaf.name], _shots(name, leaf))
        return loaded

    def datasets(self, name: str) -> list[str]:
        """The hub datasets that a task or group reads, as `path` or `path [configuration]`."""
        found = dict.fromkeys(
            f"{path} [{settings['dataset_name']}]" if settings.get("dataset_name") else path
            for _, settings, _ in self._leaves(name)
            if (path := settings.get("dataset_path")) and path not in FORMATS
        )
        return list(found)

    def _leaves(self, name: str, overrides: Mapping[str, Any] | None = None, own: bool = False) -> Iterator["_Leaf"]:
        """The tasks of a name, with the settings of the groups around them merged in as lm-eval does.

        `overrides`: of those groups; `own`: one of them is the user's.
        """
        entry, definition = self._entries[name], self._own.by_name.get(name)
        settings = _settings(entry) if definition is None else definition.settings
        if entry.kind is Kind.TAG:
            for member in sorted(entry.tags):
                yield from self._leaves(member, overrides, own)
        elif entry.kind is Kind.GROUP:
            yield from self._members(settings, name, overrides or {}, own or definition is not None)
        else:
            yield _Leaf(name, {**settings, **(overrides or {})}, dict(overrides or {}) if own else {})

    def _members(
        self, group: Mapping[str, Any], name: str, overrides: Mapping[str, Any], own: bool
    ) -> Iterator["_Leaf"]:
        shared = {key: value for key, value in group.items() if key not in GROUP_FIELD_NAMES} | {**overrides}
        members = group.get("task")
        for member in members if isinstance(members, list) else ():
            if not isinstance(member, dict):
                yield from self._leaves(str(member), shared, own)
                continue
            inner = str(member.get("group", member.get("task")))
            changes = shared | {key: value for key, value in member.items() if key not in ("group", "task")}
            if inner in self._entries:
                yield from self._leaves(inner, changes, own)
            elif "group" in member:
                yield from self._members(member, f"{name}::{inner}", shared, own)
            else:
                yield _Leaf(f"{name}::{inner}", changes, changes if own else {})

    def _is_own(self, leaf: "_Leaf") -> bool:
        """Whether the user wrote all of a task, not only changes to one of lm-eval's."""
        return leaf.name in self._own.by_name or (bool(leaf.changes) and leaf.name not in self._entries)

    def _where(self, name: str) -> str:
        own = self._own.by_name.get(name)
        return f"task {name}" if own is None else _where(own)

    def _unknown(self, name: str, owner: str, texts: Sequence[str]) -> UserError:
        known = {*TASK_GROUPS, *OFFLINE_TASKS, *self._entries}
        known |= {found for text in texts for found in _NAME.findall(text)}
        near = difflib.get_close_matches(name, known, n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else f"suites are {', '.join(TASK_GROUPS)}"
        where = f"{self._where(owner)}: member {name}" if owner else f"task {name}"
        return UserError(f"neither lm-eval nor {self._user_tasks or 'studies/tasks'} defines it; {advice}", where=where)


class _Leaf(NamedTuple):
    """A task as it is evaluated, and what of its settings a user's groups changed."""

    name: str
    settings: dict[str, Any]
    changes: dict[str, Any]


def default_metric(task: str, metrics: Sequence[str]) -> str:
    """The metric that tables show: a suite's choice, else the first that the task lists."""
    metric = SUITE_METRICS.get(task, metrics[0])
    return metric if metric in metrics else metrics[0]


def num_fewshot(task: str) -> int | None:
    """0 for the suites here; None: as the task says."""
    return 0 if task in PAPER_TASKS or task in OFFLINE_TASKS else None


def _settings(entry: Entry) -> dict[str, Any]:
    return entry.cfg or {}


def _shots(name: str, leaf: _Leaf) -> int:
    """Examples before each question of a task that is evaluated as, or as a part of, `name`."""
    chosen = num_fewshot(name)
    return int(leaf.settings.get("num_fewshot") or 0) if chosen is None else chosen


def _where(definition: Definition) -> str:
    return f"task {definition.name} ({definition.path})"
