"""Load a study: strict YAML, the pydantic definition, and every mistake as one readable line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tst_titan.errors import UserError
from tst_titan.names import RULE, is_name
from tst_titan.study.definition import Study
from tst_titan.study.expand import expand
from tst_titan.study.fields import choices
from tst_titan.study.own_paths import with_own_paths
from tst_titan.study.runs import RunDefinition
from tst_titan.study.yaml_file import StudySource, read_study_file

# What `studies/` holds besides studies' outputs: a study of that name would build over it.
RESERVED_NAMES = ("tasks", "defaults")


@dataclass(frozen=True)
class LoadedStudy:
    """A valid study: its name (the file's), where it was read from and as what, and the runs that it means.

    `source` holds what the file and those that it extends say together.
    """

    name: str
    file: Path
    source: StudySource
    definition: Study
    runs: tuple[RunDefinition, ...]


def load_study(file: Path) -> LoadedStudy:
    """Read and check the study in ``file``.

    Raises `UserError` with one line for each mistake: file, path of the key, value, what is allowed.
    """
    file = Path(file)
    if not file.is_file():
        other = file.parent / f"{file.stem}.yml"
        raise UserError(
            f"no such study file{f' (there is {other.name}: rename it)' if other.is_file() else ''}",
            where=file,
        )
    if file.suffix != ".yaml":
        raise UserError(f"a study file's name ends in .yaml: rename it to {file.stem}.yaml", where=file)
    if not is_name(file.stem):
        raise UserError(
            f"{str(file)!r}: a study has the name of its file, and cannot have this one; {RULE}; rename the file"
        )
    if file.stem in RESERVED_NAMES:
        raise UserError(f"a study cannot be named {file.stem!r}: rename the file", where=file)
    source = read_study_file(file, Study.model_fields)
    try:
        definition = Study.model_validate(with_own_paths(source))
    except ValidationError as error:
        raise UserError("\n".join(_describe(source, item) for item in error.errors())) from None
    runs = expand(source, definition)
    return LoadedStudy(name=file.stem, file=file, source=source, definition=definition, runs=runs)


def _describe(source: StudySource, item: Any) -> str:
    path, value = _locate(source.data, item["loc"])
    kind, limits = item["type"], item.get("ctx", {})
    if kind == "unknown_key":
        path, value = (*path, limits["key"]), value.get(limits["key"]) if isinstance(value, dict) else value
    text = {
        "missing": "is missing",
        "model_type": "must be a mapping of keys to values",
        "model_attributes_type": "must be a mapping of keys to values",
        "dict_type": "must be a mapping of names to values",
        "list_type": "must be a list",
        "string_type": "must be text",
        "bool_type": "must be true or false",
        "int_type": "must be a whole number",
        "too_short": "must name at least one",
        "string_too_short": "must not be empty",
        "greater_than_equal": "must be at least {ge}",
        "greater_than": "must be greater than {gt}",
        "less_than_equal": "must be at most {le}",
        "less_than": "must be less than {lt}",
        "finite_number": "must be a finite number",
        "unknown_key": "{message}",
    }.get(kind)
    if kind == "literal_error":
        expected = [word.strip(" '") for word in str(limits["expected"]).replace(" or ", ",").split(",")]
        message = f"must be one of these; {choices(value, expected)}"
    elif kind == "value_error":
        message = str(limits["error"])
    elif text is None:
        message = str(item["msg"])
    else:
        message = text.format(**limits) + _quotes(kind, value)
    return source.complain(path, value, message, show_value=kind != "missing")


def _quotes(kind: str, value: Any) -> str:
    """What to do about a word that YAML takes for something else."""
    if kind == "string_type" and isinstance(value, bool):
        return "; YAML reads yes, no, on, off, true and false as truth values: put the word in quotes"
    if kind in ("string_type", "dict_type") and isinstance(value, int | float):
        return "; a name that looks like a number stands in quotes"
    return ""


def _locate(data: Any, loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Any]:
    """The part of pydantic's location that the file has (a lone value of a grid has no index), and its value."""
    path: list[str | int] = []
    value = data
    for part in loc:
        if isinstance(value, dict):
            if part == "[key]" or (isinstance(part, int) and part not in value):
                break
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path), value
