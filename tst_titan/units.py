"""Large numbers and times as people write and read them: thousands to trillions by a letter, seconds to days."""

import math
import re

UNITS = {"T": 10**12, "B": 10**9, "M": 10**6, "k": 10**3}
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMBT]?)")


def parse_count(text: str) -> int:
    """``200000``, ``200k``, ``10M``, ``1.5B``, ``2T`` (`K` is `k`), exactly; `ValueError` for anything else."""
    match = _COUNT.fullmatch(text.strip())
    if match:
        whole, _, fraction = match[1].partition(".")
        factor = UNITS[match[2].replace("K", "k")] if match[2] else 1
        number, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
        if not rest:
            return number
    raise ValueError("must be a whole number such as 200000, 200k, 10M or 1.5B")


def short(number: float) -> str:
    """``42.0B``: three significant digits with the unit of `UNITS`; below a thousand the whole number."""
    for unit, factor in UNITS.items():
        if abs(number) >= factor:
            scaled = number / factor
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled))))}f}{unit}"
    return f"{number:.0f}"


def short_bytes(number: float) -> str:
    """``3.05 GB``: decimal units."""
    text = short(number)
    unit = text[-1] if text[-1] in UNITS else ""
    return f"{text.removesuffix(unit)} {'G' if unit == 'B' else unit}B"


def duration(seconds: float) -> str:
    """``4m 05s``, ``3h 20m``, ``2d 4h``."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m {total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h {total % 3600 // 60:02d}m"
    return f"{total // 86400}d {total % 86400 // 3600}h"
