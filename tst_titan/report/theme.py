"""How figures look: colours for light and dark, dashes, letters. Specifications name what they draw; this file says its
look.

The palette is that of Okabe and Ito without its yellow, darkened for white paper. Figures are drawn in the light
colours; a style sheet exchanges them one for one where the reader prefers dark, in the page and in the files.
"""

from typing import Any

FONT = "system-ui, Helvetica, Arial, sans-serif"

# (light, dark); series slot 0 is the baseline's neutral.
BACKGROUND = ("#ffffff", "#14181c")
TEXT = ("#1c2126", "#e6e9ec")
MUTED = ("#646d76", "#98a2ac")
GRID = ("#e4e7ea", "#2b3239")
SERIES = (
    ("#5b636b", "#a9b2bb"),
    ("#c44e00", "#f08a4b"),
    ("#0068a8", "#5fb0e8"),
    ("#00845f", "#3fc79a"),
    ("#a8447c", "#e08fbd"),
    ("#9a6a00", "#e0b040"),
    ("#2a8fc4", "#8fd0f5"),
)
HEAT = SERIES[2][0]
# Lines of the first round of colours, and of the further ones.
# The solid one is no dash of one and a gap of none: paper would get every pixel of it as a piece of its own.
DASHES = ((), (8, 3), (2, 3), (8, 3, 2, 3))
FIT_DASH = (5, 4)

# Thousands as k and so on from 10,000 on; d3's G is a billion's B.
_TICK = (
    "abs(datum.value) >= 1e4 ? replace(format(datum.value, '~s'), 'G', 'B') : "
    "abs(datum.value) >= 1e-3 || datum.value == 0 ? format(datum.value, '.12~g') : format(datum.value, '~e')"
)

_VARIABLES = {"bg": BACKGROUND, "fg": TEXT, "muted": MUTED, "grid": GRID} | {
    f"c{slot}": pair for slot, pair in enumerate(SERIES)
}


def color_index(slot: int) -> int:
    """The colour of a series' slot: 0 is the baseline's alone, the others come round."""
    return 0 if slot == 0 else 1 + (slot - 1) % (len(SERIES) - 1)


def dash_of(slot: int, fitted: bool) -> tuple[int, ...]:
    """The dash of a series: solid in the first round of colours, another in each further round; a fit has its own."""
    lap = 0 if slot == 0 else (slot - 1) // (len(SERIES) - 1) % len(DASHES)
    return FIT_DASH if fitted else DASHES[lap]


def variables() -> str:
    """The colours as CSS variables (`--bg`, `--fg`, `--muted`, `--grid`, `--c0` to `--c6`), for both preferences."""
    light, dark = (" ".join(f"--{name}: {pair[side]};" for name, pair in _VARIABLES.items()) for side in (0, 1))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def dark_figures() -> str:
    """A style sheet that exchanges the colours of a drawn SVG where the reader prefers dark."""
    rules = "".join(
        f"[{attribute}='{light}'] {{ {attribute}: {dark}; }}"
        for light, dark in _VARIABLES.values()
        for attribute in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme: dark) {{ {rules} }}"


def config() -> dict[str, Any]:
    """Vega-Lite's configuration. Styles (`switch`, `level`, `note`, ...) are what `declared` names."""
    letters = {"labelFontSize": 12, "titleFontSize": 12, "labelColor": MUTED[0], "titleColor": MUTED[0]}
    note = {"fontSize": 11, "color": MUTED[0]}
    return {
        # A figure has a name; thousands of points that each say theirs are of use to nobody.
        "aria": False,
        "background": BACKGROUND[0],
        "font": FONT,
        "view": {"stroke": None},
        "title": {"anchor": "start", "frame": "bounds", "fontSize": 14, "fontWeight": 600, "offset": 12}
        | {"color": TEXT[0]},
        "axis": letters
        | {"titleFontWeight": "normal", "titlePadding": 8, "gridColor": GRID[0], "domainColor": MUTED[0]}
        | {
            "tickColor": MUTED[0],
            "tickSize": 4,
            "labelOverlap": "greedy",
            "labelSeparation": 6,
            "labelLineHeight": 14,
        },
        "axisQuantitative": {"labelExpr": _TICK},
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "legend": {"orient": "top", "title": None, "labelFontSize": 12, "labelColor": MUTED[0]}
        | {"labelLimit": 0, "symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 2.2},
        "line": {"strokeJoin": "round", "strokeCap": "round"},
        "style": {
            "switch": {"color": MUTED[0], "strokeDash": [2, 3]},
            "level": {"color": MUTED[0], "strokeDash": [7, 3]},
            "note": note,
            "left": {"align": "left"},
            "right": {"align": "right"},
            "value": note | {"fontSize": 12},
            "heat": {"fill": HEAT, "stroke": BACKGROUND[0]},
            "cell-text": {"color": TEXT[0]},
            "best": {"color": TEXT[0], "strokeWidth": 2.4},
            "same": {"color": TEXT[0], "strokeWidth": 1.3, "strokeDash": [3, 2]},
            "ring": {"opacity": 1, "strokeWidth": 1.8, "size": 70},
            "dot": {"filled": True, "opacity": 1, "size": 40},
        },
    }
