"""Axes of charts: their place in the drawing, scales, ticks and labels."""

import math
from collections.abc import Callable, Sequence

import numpy as np

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 34, 46


def extent(values: list[np.ndarray], log: bool, margin: float) -> tuple[float, float]:
    """Range of all finite values (positive ones on a logarithmic axis), widened by the share `margin` on both sides."""
    joined = np.concatenate([np.asarray(array, dtype=float) for array in values] or [np.empty(0)])
    joined = joined[np.isfinite(joined) & ((joined > 0) if log else True)]
    if not len(joined):
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(joined.min()), float(joined.max())
    if log:
        factor = (high / low) ** margin if high > low else 2.0
        return low / factor, high * factor
    pad = (high - low) * margin if high > low else max(abs(high) * 0.1, 0.5)
    return low - pad, high + pad


def scale(low: float, high: float, start: float, end: float, log: bool) -> Callable[[np.ndarray], np.ndarray]:
    """The function from values in `low` to `high` to coordinates from `start` to `end`."""
    if log:
        span = math.log(high / low)
        return lambda values: start + (end - start) * np.log(values / low) / span
    return lambda values: start + (end - start) * (values - low) / (high - low)


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Round numbers inside of the range: about six, or 1, 2 and 5 times powers of ten on a logarithmic axis."""
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 300 else (1,)
        return [
            step * 10.0**power for power in exponents for step in steps if low <= step * 10.0**power <= high
        ]
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def tick_text(value: float, neighbours: Sequence[float]) -> str:
    """A tick's label with as many digits as tell it from its neighbours; thousands as k and so on."""
    if abs(value) >= 1e4:
        factor, unit = next(item for item in _UNITS if abs(value) >= item[0])
        return f"{value / factor:g}{unit}"
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    gaps = np.diff(neighbours)
    text = (
        f"{value:.6g}"
        if not len(gaps) or gaps.min() >= 1
        else f"{value:.{math.ceil(-math.log10(gaps.min())) + 1}f}"
    )
    return text.rstrip("0").rstrip(".") if "." in text else text


def squeeze(text: str, width: float, letter: float = 5.8) -> str:
    """Attributes of a `<text>` that keep it inside of `width`, letters being `letter` wide; empty where it fits."""
    return (
        f' textLength="{width - 3:.1f}" lengthAdjust="spacingAndGlyphs"'
        if letter * len(text) > width - 3
        else ""
    )
