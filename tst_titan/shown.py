"""Text from files that others may have written, made fit for where it is shown: a terminal, Markdown, a spreadsheet,
what is published."""

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Of the machine that trained, in provenance and attempts; nobody needs it to use what is published.
_OF_THE_MACHINE = {"host", "system", "slurm_job_id", "slurm_job_ids", "slurm_restart"}
# The folders of an absolute path; not of https://host/path, nor of tokens/s.
_FOLDERS = re.compile(r"(?<![\w/.…])~?/(?:[^\s/'\"<>|:;,(){}\[\]]+/)+")


def printable(text: str) -> str:
    """`text` with everything that a terminal obeys instead of showing it (escape sequences, turned text) as an
    escape."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def markdown_text(text: str) -> str:
    """`text` as a cell or a phrase of Markdown: no HTML, link, image or new cell in it."""
    line = printable(" ".join(text.split()))
    return re.sub(r"[|\[\]]", r"\\\g<0>", html.escape(line, quote=False))


def csv_text(text: str) -> str:
    """`text` as a spreadsheet shows it: what would be run as a formula begins with an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _is_number(text) else text


def hide_paths(text: str, known: Mapping[str, str] | None = None) -> str:
    """`text` in which absolute paths have lost their folders (…/name); `known` folders, which may hold spaces, have a
    name instead."""
    for folder, name in (known or {}).items():
        text = re.sub(rf"(?<![\w/.]){re.escape(folder)}(?![\w.-])", name.replace("\\", r"\\"), text)
    return _FOLDERS.sub("…/", text)


def known_folders(folders: Iterable[Path]) -> dict[str, str]:
    """These folders as absolute paths, by their bare names."""
    return {str(folder): folder.name for folder in (path.absolute() for path in folders) if folder.name}


def publishable(value: Any) -> Any:
    """A record (of JSON's types) without the machine that it was made on: no host, kernel, job or folder."""
    if isinstance(value, dict):
        return {key: publishable(item) for key, item in value.items() if key not in _OF_THE_MACHINE}
    if isinstance(value, list | tuple):
        return [publishable(item) for item in value]
    return hide_paths(value) if isinstance(value, str) else value


def in_markdown(value: Any) -> Any:
    """A record (of JSON's types) all of whose text is `markdown_text`."""
    if isinstance(value, dict):
        return {markdown_text(str(key)): in_markdown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_markdown(item) for item in value]
    return markdown_text(value) if isinstance(value, str) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
