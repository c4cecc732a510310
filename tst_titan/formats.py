"""Numbers as people read them: rounded, with a unit, an em dash where nothing is."""

import math
from typing import Any

import pandas as pd

from tst_titan import units

MISSING = "—"


def is_missing(value: Any) -> bool:
    """None, NA and NaN alike: there is no such number."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def whole(value: Any) -> str:
    return MISSING if is_missing(value) else f"{int(value)}"


def number(value: Any, digits: int) -> str:
    """At most `digits` significant digits after the point, trailing zeros kept for losses (4 digits)."""
    if is_missing(value):
        return MISSING
    text = f"{float(value):.{digits}f}"
    return text if digits >= 4 else text.rstrip("0").rstrip(".") or "0"


def with_error(value: Any, stderr: Any) -> str:
    """``0.2813 ± 0.0142``; the value alone where no standard error exists."""
    if is_missing(value):
        return MISSING
    return number(value, 4) if is_missing(stderr) else f"{number(value, 4)} ± {number(stderr, 4)}"


def short(value: Any) -> str:
    """``42.0B``."""
    return MISSING if is_missing(value) else units.short(float(value))


def scientific(value: Any) -> str:
    """``1.23e+15``."""
    return MISSING if is_missing(value) else f"{float(value):.3g}"


def duration(seconds: Any) -> str:
    """``4m 05s``."""
    return MISSING if is_missing(seconds) else units.duration(float(seconds))
