"""A user's own task definitions as files, read without lm-eval: what a name is made of, and the code in it.

A definition is YAML in lm-eval's format. lm-eval never reads these files itself: it is given what is read, and checked,
here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tst_titan.bounds import YAML_BYTES, read_file
from tst_titan.errors import UserError
from tst_titan.files import digest_file, digest_json
from tst_titan.study.catalogue import OFFLINE_TASKS, PAPER_TASKS, TASK_GROUPS
from tst_titan.study.yaml_file import MAX_NODES

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# lm-eval passes these folders over, too.
_PASSED_OVER = {"__pycache__", ".ipynb_checkpoints"}
_DATA_KEYS = ("data_files", "data_dir")
# What `dataset_path` names where the data are files of one's own.
FORMATS = ("json", "csv", "text", "parquet", "arrow", "pandas", "xml", "webdataset")
# Of lm-eval's and ours: no groups, whatever the user's tasks are called.
_SINGLE_TASKS = {*OFFLINE_TASKS, *PAPER_TASKS} - {"mmlu"}


@dataclass(frozen=True)
class Function:
    """`!function MODULE.NAME` of a definition: Python beside the file that says so, or an importable module."""

    name: str
    folder: Path

    @property
    def module(self) -> Path:
        return self.folder / f"{self.name.rpartition('.')[0].replace('.', '/')}.py"

    @property
    def is_lm_evals(self) -> bool:
        """Whether lm-eval's own file says so, which a user's may include."""
        return self.folder.is_relative_to(lm_eval_tasks())


@dataclass(frozen=True)
class Definition:
    """One task or group of the user's: its settings with those of the files that it includes."""

    name: str
    path: Path
    settings: dict[str, Any]

    @property
    def tags(self) -> tuple[str, ...]:
        tags = self.settings.get("tag") or ()
        return (tags,) if isinstance(tags, str) else tuple(map(str, tags))

    @property
    def members(self) -> tuple[Any, ...]:
        """Of a group: names, or settings with the key `task` or `group`."""
        members = self.settings.get("task") if "group" in self.settings else None
        return tuple(members) if isinstance(members, list) else ()

    @property
    def is_group(self) -> bool:
        return "group" in self.settings


@dataclass(frozen=True)
class Definitions:
    """All definitions of one folder, by name; of two with one name the first, as in lm-eval."""

    folder: Path | None
    by_name: Mapping[str, Definition] = field(default_factory=dict)
    others: tuple[tuple[str, Path], ...] = ()
    """Names that a second file defines again."""
    broken: tuple[tuple[Path, str], ...] = ()
    """Files that cannot be read, and why."""

    def check(self, name: str) -> None:
        """Raise `UserError` where the user's definition of `name` cannot be read, or there are two."""
        says = re.compile(
            rf"""["']?(?:task|group)["']?\s*:\s*["']?{re.escape(name)}["']?\s*(?:[,}}#]|$)""", re.MULTILINE
        )
        for path, reason in self.broken:
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(YAML_BYTES.most())
            if says.search(text):
                raise UserError(f"task {name} cannot be read: {reason}", where=path)
        for again, path in self.others:
            if again == name:
                raise UserError(
                    f"task {name} is defined in {self.by_name[name].path} already; rename or delete one",
                    where=path,
                )

    def reached(self, names: Iterable[str]) -> dict[str, Definition]:
        """The user's definitions that `names` are made of: themselves, members of groups, tasks with such a tag.

        What lm-eval's own groups hold is known to lm-eval alone; their members begin with their name, as a rule.
        """
        found: dict[str, Definition] = {}
        waiting = list(names)
        seen = set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            definition = self.by_name.get(name)
            if definition is not None:
                found[name] = definition
                waiting += [member for member, _ in references(definition.members)]
            elif name not in _SINGLE_TASKS:
                waiting += [other for other in self.by_name if other.startswith(f"{name}_")]
            waiting += [other.name for other in self.by_name.values() if name in other.tags]
        return found


@cache
def lm_eval_tasks() -> Path:
    """The folder of lm-eval's own definitions, without importing it."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent / "tasks"


def references(members: Iterable[Any]) -> Iterator[tuple[str, bool]]:
    """The names in a group's list of members, and whether each must be defined elsewhere: else the list may define it
    itself."""
    for member in members:
        if not isinstance(member, dict):
            yield str(member), True
        elif "group" in member:
            inner = member.get("task")
            yield str(member["group"]), not isinstance(inner, list)
            yield from references(inner if isinstance(inner, list) else ())
        else:
            yield str(member.get("task")), "dataset_path" not in member and "custom_dataset" not in member


def read_definitions(folder: Path | None) -> Definitions:
    """Read every `*.yaml` below `folder`; no file's mistake stands in the way of another's task."""
    if folder is None or not folder.is_dir():
        return Definitions(folder)
    by_name: dict[str, Definition] = {}
    others, broken = [], []
    for path in sorted(folder.glob("**/*.yaml"), key=Path.as_posix):
        if _PASSED_OVER.intersection(path.parts):
            continue
        try:
            settings = _read(path, ())
        except UserError as error:
            broken.append((path, str(error)))
            continue
        name = settings.get("group", settings.get("task"))
        if not isinstance(name, str):
            continue  # what others include
        if name in by_name:
            others.append((name, path))
        else:
            by_name[name] = Definition(name, path, settings)
    return Definitions(folder, by_name, tuple(others), tuple(broken))


def _read(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    path = path.expanduser()
    real = path.resolve()
    if real in including:
        raise UserError(f"{path} includes itself")

    class Loader(_Loader):  # type: ignore[misc, valid-type]
        """With `!function`, of this file's folder."""

    Loader.add_constructor("!function", lambda loader, node: Function(str(loader.construct_scalar(node)), real.parent))
    try:
        content = read_file(path, YAML_BYTES)
        settings = yaml.load(content, Loader=Loader)  # noqa: S506, it is built on the safe loader
        if _num_values(settings, {}) > MAX_NODES:
            raise UserError(f"{path if including else 'it'} holds more than {MAX_NODES} values, aliases written out")
    except yaml.MarkedYAMLError as error:
        # Not the text at fault: an included file may be anybody's.
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise UserError(f"no valid YAML ({error.problem}{line}{'' if not including else f' of {path}'})") from error
    except UserError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"no valid YAML ({type(error).__name__})") from error
    except OSError as error:
        raise UserError(f"{error.strerror}", where=path) from error
    if not isinstance(settings, dict):
        raise UserError(f"{path if including else 'it'} holds no settings")
    includes = settings.pop("include", ())
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list | tuple) else [includes]:
        merged |= _read(real.parent / str(include), (*including, real))
    merged.pop("task_list", None)
    return merged | settings


def _num_values(value: Any, known: dict[int, int]) -> int:
    """How many values a definition has for whoever walks it: ten lines of aliases can stand for 10^9."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_num_values(one, known) for one in inside)
    return known[id(value)]


def code_in(settings: Any, key: str = "") -> Iterator[str]:
    """What in a definition is code or would run some, each as `KEY: WHAT`."""
    if isinstance(settings, Function):
        if not settings.is_lm_evals:
            yield f"{key}: !function {settings.name}"
    elif isinstance(settings, list):
        for entry in settings:
            yield from code_in(entry, key)
    elif isinstance(settings, dict):
        for name, value in settings.items():
            where = f"{key}.{name}" if key else str(name)
            if (
                (name in ("class", "use_prompt") and value and not isinstance(value, Function))
                or (name in ("hf_evaluate", "trust_remote_code", "unsafe_code") and value)
                # Pickled tables, and scripts.
                or (name == "dataset_path" and (value == "pandas" or str(value).endswith(".py")))
            ):
                yield f"{where}: {value}"
            yield from code_in(value, where)


def local_data(settings: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The files on this machine that a task's settings read, by split ("" where they name none)."""
    given = settings.get("dataset_kwargs")
    given = given if isinstance(given, dict) else {}
    source = str(settings.get("dataset_path") or "")
    # A folder is a data set by itself; a format's name reads files from the working directory.
    base = Path(source) if source and source not in FORMATS and Path(source).is_dir() else Path()
    base = base / str(given.get("data_dir") or "")
    files = given.get("data_files")
    by_split = files if isinstance(files, dict) else {"": files}
    found: dict[str, list[Path]] = {}
    for split, patterns in by_split.items():
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if pattern is None:
                matched = list(base.rglob("*")) if base != Path() else []
            else:
                matched = [] if "://" in str(pattern) else _matching(base / str(pattern))
            paths = sorted(path for path in matched if path.is_file())
            if paths:
                found.setdefault(str(split), []).extend(paths)
    return found


def _matching(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    root = Path(path.anchor)
    try:
        return list(root.glob(str(path.relative_to(root))))
    except (ValueError, OSError, NotImplementedError):
        return []


def plain(settings: Any, *, stat_only: bool = False) -> Any:
    """Settings as JSON, with the content of what they name on this machine in place of its path.

    `stat_only`: data files by size and times alone, which costs nothing.
    """
    if isinstance(settings, Function):
        code = digest_file(settings.module) if settings.module.is_file() and not settings.is_lm_evals else ""
        return {"function": settings.name, "code": code}
    if isinstance(settings, dict):
        made = {str(key): plain(value, stat_only=stat_only) for key, value in settings.items()}
        if data := local_data(settings):
            made["dataset_kwargs"] = {
                key: value
                for key, value in (made.get("dataset_kwargs") or {}).items()
                if key not in (*_DATA_KEYS, "cache_dir")
            }
            made["data"] = {
                split: [_stat(path) if stat_only else _digest(path, *_stat(path)) for path in paths]
                for split, paths in data.items()
            }
        return made
    if isinstance(settings, list):
        return [plain(entry, stat_only=stat_only) for entry in settings]
    return settings if isinstance(settings, str | int | bool | None) else str(settings)


def _stat(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written: its size and times, one of which nobody can set."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@cache
def _digest(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        raise UserError(f"data of a task, cannot be read: {error.strerror}", where=path) from error


@cache
def _definitions_once(folder: Path) -> Definitions:
    return read_definitions(folder)


def definitions_state(group: str, folder: Path) -> str:
    """A digest that changes with the user's definitions, code and data that `group` is made of; "" for none of these.

    Comments change nothing. For a workflow, which asks for every evaluation: the folder is read once, data files are
    not.
    """
    reached = _definitions_once(folder).reached(TASK_GROUPS.get(group, (group,)))
    if not reached:
        return ""
    return digest_json({name: plain(one.settings, stat_only=True) for name, one in reached.items()}, length=16)
