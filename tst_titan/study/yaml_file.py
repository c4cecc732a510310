"""Study files as plain data: YAML read strictly, `extends` merged, and where every value was written.

Beyond `yaml.safe_load`: a key written twice, an alias that repeats (or would explode), bytes that are not UTF-8,
a document that is no mapping and numbers that YAML 1.1 reads as others (`010` is 8 there, `1:30` is 90) are errors,
numbers such as `3e-4` are numbers (YAML 1.1 calls them text), and keys are text (`no` is an arm's name, not false).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tst_titan.bounds import YAML_BYTES, read_file
from tst_titan.errors import UserError
from tst_titan.files import digest_file

Path_ = tuple[str | int, ...]
MAX_NODES = 100_000
MAX_DIGITS = 100


class _StrictLoader(yaml.SafeLoader):
    """`SafeLoader` that refuses repeated keys and aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Aliases would be expanded by everything that walks the data: ten lines can stand for 10^9 values.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"the alias '*{event.anchor}' is not allowed: write the value out",
                event.start_mark,
            )
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_NODES} values", None)
        node = super().compose_node(parent, index)
        if node.tag.endswith(":int") and len(node.value) > MAX_DIGITS:
            # Python itself neither reads nor prints a number without end.
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value):,} digits: no setting has so many", node.start_mark
            )
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[Any, Any] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            # The text itself: `1` and `01` are two keys for the eye, and only text names anything here.
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key '{key_node.value}' is written twice (first in line {seen[key_node.value] + 1})",
                    key_node.start_mark,
                )
            seen[key_node.value] = key_node.start_mark.line
            if key_node.tag != "tag:yaml.org,2002:merge":
                key_node.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: Any) -> int | float:
        """A number as it looks: YAML 1.1 reads a leading zero as octal and colons as base 60."""
        number = self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)
        if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"'{node.value}' would be read as the number {number}: write the number that you mean without a "
                "leading zero or colon, or text in quotes",
                node.start_mark,
            )
        return number

    def construct_text(self, node: Any) -> str:
        """Text in which two escapes that stand for one character (JSON's emoji) are that character."""
        text = self.construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                "half of a surrogate pair (an escape \\ud800 to \\udfff) is no character",
                node.start_mark,
            ) from None


for _tag, _construct in (
    ("int", _StrictLoader.construct_number),
    ("float", _StrictLoader.construct_number),
    ("str", _StrictLoader.construct_text),
):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp",)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True)
class StudyFile:
    """A file that a study was read from. `name` is its path below the study's folder, or its bare name elsewhere."""

    name: str
    sha256: str


@dataclass(frozen=True)
class StudySource:
    """A study's merged plain data, the file that each of its values came from, and all files, in the order of
    merging."""

    file: Path
    data: dict[str, Any]
    origins: dict[Path_, Path]
    files: tuple[StudyFile, ...]

    def origin(self, path: Path_) -> Path:
        """The file where the value at ``path`` was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.file

    def complain(self, path: Path_, value: Any, message: str, show_value: bool = True) -> str:
        """``studies/a.yaml: arms.tst.bag_size = 0: must be at least 1``."""
        shown = " = " + shorten(repr(value), 60) if show_value else ""
        return one_line(f"{self.origin(path)}: {dotted(path) or 'the study'}{shown}: {message}")


def dotted(path: Path_) -> str:
    """``arms.tst.bag_size``, ``include[0].steps``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def one_line(text: str) -> str:
    """``text`` with whatever would break a line or a terminal (a key may hold it) as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_study_file(file: Path, keys: Collection[str]) -> StudySource:
    """Read ``file`` and whatever it extends (paths relative to the file that names them; later wins).

    ``keys``: those of a study. A file from elsewhere than the study's folder that has others is no study's, and nothing
    of what it holds is shown.
    """
    return _read(Path(file), (), Path(file).resolve().parent, keys)


def _read(file: Path, parents: tuple[Path, ...], folder: Path, keys: Collection[str]) -> StudySource:
    resolved = file.resolve()
    if resolved in parents:
        chain = " -> ".join(path.name for path in (*parents[parents.index(resolved) :], resolved))
        raise UserError(f"extends = {file.name!r}: goes round in a circle ({chain})", where=parents[-1])
    ours = resolved.is_relative_to(folder)
    data = read_yaml(file) if ours else _read_foreign(file, {*keys, "extends"})
    name = str(resolved.relative_to(folder)) if ours else file.name
    files = [StudyFile(name, digest_file(file))]
    named = data.pop("extends", [])
    bases = [named] if isinstance(named, str) else named
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"extends = {named!r}: must be a file's path or a list of paths", where=file)
    merged: dict[str, Any] = {}
    origins: dict[Path_, Path] = {}
    for base in bases:
        path = file.parent / base
        if not path.is_file():
            raise UserError(f"extends = {base!r}: no such file ({path})", where=file)
        source = _read(path, (*parents, resolved), folder, keys)
        files[-1:-1] = [one for one in source.files if one not in files]
        _merge(merged, source.data, origins, source.origins, ())
    _merge(merged, data, origins, _origins(data, file), ())
    return StudySource(file=file, data=merged, origins=origins, files=tuple(files))


def _read_foreign(file: Path, keys: Collection[str]) -> dict[str, Any]:
    try:
        data = read_yaml(file)
    except UserError:
        data = {}
    if not data or not set(data) <= set(keys):
        raise UserError(
            "is no study file (not YAML, or with keys that no study has): extends names files of studies",
            where=file,
        )
    return data


def read_yaml(file: Path, *, example: str = "steps: 1200") -> dict[str, Any]:
    """The mapping that ``file`` holds; anything else is a `UserError` that names file and line, and gives the
    ``example``."""
    try:
        text = read_file(file, YAML_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start}): save the file as UTF-8", where=file) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file) from error
    loader: _StrictLoader | None = None
    try:
        loader = _StrictLoader(text)
        data = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{file}{where}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", where=file) from error
    except RecursionError as error:
        raise UserError("nested too deeply", where=file) from error
    except ValueError as error:  # such as the date 2024-99-99 in a tag
        raise UserError(f"not YAML: {error}", where=file) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise UserError(f"must be a mapping of keys to values (such as '{example}'), but is {kind}", where=file)
    return data


def _merge(
    into: dict[str, Any], new: dict[str, Any], origins: dict[Path_, Path], news: dict[Path_, Path], at: Path_
) -> None:
    """Deep merge: mappings join, everything else is replaced; ``origins`` follow."""
    for key, value in new.items():
        path = (*at, key)
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, origins, news, path)
        else:
            for old in [old for old in origins if old[: len(path)] == path]:
                del origins[old]
            into[key] = value
            origins.update({new: file for new, file in news.items() if new[: len(path)] == path})


def _origins(value: Any, file: Path, at: Path_ = ()) -> dict[Path_, Path]:
    if isinstance(value, dict) and (value or not at):
        return {
            path: source for key, item in value.items() for path, source in _origins(item, file, (*at, key)).items()
        }
    return {at: file}
