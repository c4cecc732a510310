"""Field types of the definition: grids, token counts, names that are checked against what exists."""

import difflib
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tst_titan.names import RULE, is_name
from tst_titan.study.defaults import ARM_DEFAULTS, TRAINING_DEFAULTS, spelled
from tst_titan.units import parse_count

T = TypeVar("T")


class Strict(BaseModel):
    """A mapping with known keys only; a key left empty (`baseline:`) stands for an empty mapping."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "{message}",
                        {"key": key, "message": f"unknown key; {choices(key, cls.model_fields)}"},
                    )
        return value


def choices(value: Any, allowed: Iterable[str]) -> str:
    """``allowed: a, b, c; did you mean 'a'?``"""
    names = list(allowed)
    text = f"allowed: {', '.join(names)}"
    suggestion = nearest(value, names)
    return f"{text}; did you mean {suggestion!r}?" if suggestion else text


def nearest(value: Any, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that ``value`` was probably meant to be, letter case and dashes aside."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "_").replace(" ", "_")

    by_plain = {plain(name): name for name in names}
    found = difflib.get_close_matches(plain(str(value)), by_plain, n=1, cutoff=cutoff)
    return by_plain[found[0]] if found else None


def parse_tokens(value: Any) -> Any:
    """A number of tokens: ``200000``, ``200k``, ``10M``, ``1.5B``, ``2T``."""
    if isinstance(value, str):
        return parse_count(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _grid(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return (value,)
    if not value:
        raise ValueError("must be a value or a list of at least one value, but the list is empty")
    seen: set[tuple[type, Any]] = set()
    for item in value:
        # By type and text: 1 and true are two values, and the list may be long.
        key = (type(item), repr(item) if isinstance(item, list | dict) else item)
        if key in seen:
            raise ValueError(f"must be a list of different values, but {item!r} is given twice")
        seen.add(key)
    return tuple(value)


class _OneOrMore:
    """Editors are told what is read: one value or a list."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> Any:
        schema = handler(core_schema)
        items = schema["items"]
        return {"anyOf": [items, {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}]}


def defaulted(name: str, meaning: str) -> Any:
    """The field ``name``, which may be left out: its description is ``meaning`` and the default that then holds."""
    default = (TRAINING_DEFAULTS | ARM_DEFAULTS)[name]
    return Field(default=None, description=f"{meaning} Default {spelled(default)}.")


# One value or a list of different values: a tuple once it is read.
Grid = Annotated[tuple[T, ...], BeforeValidator(_grid), _OneOrMore()]


def number(value: Any) -> Any:
    """No text where a number is meant, and no truth value (YAML's `yes`)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return float(value)


def whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def named(kind: str, allowed: Iterable[str]) -> Callable[[Any], Any]:
    """A validator for one of the names ``allowed``."""
    names = tuple(allowed)

    def check(value: Any) -> Any:
        if value not in names:
            raise ValueError(f"no such {kind}; {choices(value, names)}")
        return value

    return check


# The bounds keep sums of slips (a budget of 10^30 steps) from hanging whatever walks over them.
Positive = Annotated[int, Field(ge=1, le=10**9), BeforeValidator(whole)]
NotNegative = Annotated[int, Field(ge=0, le=2**63 - 1), BeforeValidator(whole)]
Tokens = Annotated[int, Field(ge=0, le=10**18), BeforeValidator(parse_tokens, json_schema_input_type=int | str)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(number)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(number)]
NotNegativeNumber = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(number)]


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(RULE)
    return value


Name = Annotated[str, AfterValidator(_name)]
