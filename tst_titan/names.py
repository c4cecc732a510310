"""The one rule for names that become paths: of studies, models, arms, sources, tasks, segments.

A name is one part of a path: no slash, nothing hidden, nothing above, no more than a file system takes.
"""

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
LONGEST = 100
RULE = (
    f"a name is up to {LONGEST} letters, digits, dots, pluses, dashes and underscores, and starts with a letter or "
    "digit"
)


def is_name(text: str) -> bool:
    """Whether `text` may name a thing that a user names."""
    return len(text) <= LONGEST and _NAME.fullmatch(text) is not None


def is_segment_id(text: str) -> bool:
    """Whether `text` has the form of a segment's id, FAMILY/SEGMENT, which is made of names."""
    parts = text.split("/")
    # 255 bytes are what file systems take.
    return len(parts) == 2 and all(len(part) <= 255 and _NAME.fullmatch(part) for part in parts)
