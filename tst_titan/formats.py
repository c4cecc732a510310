"""Numbers as people read them: rounded, with a unit, an em dash where nothing is."""

import math
from typing import Any

import pandas as pd

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
    """``42.0B``: three significant digits with a unit of thousands, millions, billions or trillions."""
    if is_missing(value):
        return MISSING
    value = float(value)
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            scaled = value / factor
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f}{unit}"
    return f"{value:.0f}"


def scientific(value: Any) -> str:
    """``1.23e+15``."""
    return MISSING if is_missing(value) else f"{float(value):.3g}"


def duration(seconds: Any) -> str:
    """``4m 05s``, ``3h 20m``, ``2d 4h``."""
    if is_missing(seconds):
        return MISSING
    total = round(float(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m {total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h {total % 3600 // 60:02d}m"
    return f"{total // 86400}d {total % 86400 // 3600}h"
