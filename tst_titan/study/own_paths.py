"""Relative paths in a study mean the folder of the file that states them, wherever a command runs.

The settings, and so the identities, hold a path as it is seen from the current folder, which is the checkout: relative
where it lies below, else absolute. Two checkouts with one results folder share a corpus by its text;
`tst_titan.data.inputs` tells whether it is the same one.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from glob import has_magic
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError
from tst_titan.study.yaml_file import Path_, StudySource


def with_own_paths(source: StudySource) -> dict[str, Any]:
    """A study's data, the paths of its texts and tokenizers as they are from the current folder.

    Raises `UserError`, one line for each, for paths that mean the current folder: nothing lies where they point, but
    there.
    """
    data = deepcopy(source.data)
    mistakes = []
    for at, entry, key in _places(data):
        value, kind = entry.get(key), entry.get("kind")
        texts: list[Any] = value if isinstance(value, list) else [value]
        if kind not in ("files", "file", "hub") or not all(isinstance(text, str) for text in texts):
            continue  # no path, or the definition says what is wrong with it
        folder = source.origin((*at, key)).parent
        meant = [_meant(text, folder, hub=kind == "hub") for text in texts]
        mistakes += [
            source.complain((*at, key), text, mistake)
            for text, (_, mistake) in zip(texts, meant, strict=True)
            if mistake
        ]
        own = [path for path, _ in meant]
        entry[key] = own if isinstance(value, list) else own[0]
    if mistakes:
        raise UserError("\n".join(mistakes))
    return data


def _meant(text: str, folder: Path, *, hub: bool) -> tuple[str, str]:
    """A text as it is from the current folder, and why it means another thing there, with the mend ("": it does
    not)."""
    if not text.strip() or text.startswith(("/", "~")):
        return text, ""
    mend = os.path.relpath(text, folder.resolve()) + "/" * text.endswith("/")
    if hub and not text.startswith("."):
        # A repository's name, unless the hub's libraries find a folder: they take it in silence.
        mend = mend if mend.startswith(".") else f"./{mend}"
        mistake = (
            f"names a repository of the hub, but there is a folder of that name here: write {mend!r} for the folder, "
            "or move it away for the repository"
        )
        return text, mistake if _there(Path(text)) else ""
    own = _seen_from_here(text, folder)
    mistake = (
        f"not found in {folder}, the folder of the file that says so, which a relative path means (not the folder in "
        f"which a command runs): write {mend!r}"
    )
    return own, mistake if _there(Path(text)) and not _there(Path(own)) else ""


def _seen_from_here(text: str, folder: Path) -> str:
    """A path relative to ``folder`` as it is from the current folder; what follows its leading dots stays as it is
    written."""
    base, rest = folder.resolve(), text
    while rest.startswith(("./", "../")) or rest in (".", ".."):
        first, _, rest = rest.partition("/")
        base = base.parent if first == ".." else base
    if base == Path.cwd() == folder.resolve():
        return text
    root = "" if base == Path("/") else str(base)
    return f"{root}/{rest}".removeprefix(f"{Path.cwd()}/") or "."


def _places(data: dict[str, Any]) -> Iterator[tuple[Path_, dict[str, Any], str]]:
    """Where paths may stand: the key's place, the mapping that holds it, the key."""
    models = data.get("models")
    models = models if isinstance(models, dict) else {}
    corpora: list[tuple[Path_, Any]] = [(("corpus",), data.get("corpus"))]
    corpora += [
        (("models", name, "corpus"), entry.get("corpus")) for name, entry in models.items() if isinstance(entry, dict)
    ]
    for at, corpus in corpora:
        if not isinstance(corpus, dict):
            continue
        sources = corpus.get("sources")
        for name, entry in sources.items() if isinstance(sources, dict) else ():
            if isinstance(entry, dict):
                yield (*at, "sources", name), entry, "path"
        if isinstance(corpus.get("tokenizer"), dict):
            yield (*at, "tokenizer"), corpus["tokenizer"], "name"


def _there(path: Path) -> bool:
    """Whether there is such a file or folder; of a pattern, the folder before its wildcards."""
    names = [number for number, name in enumerate(path.parts) if has_magic(name)]
    fixed = Path(*path.parts[: names[0]]) if names else path
    # Unlike Path.exists, False for what may not be looked at.
    return os.path.exists(path) or (names != [] and os.path.exists(fixed))  # noqa: PTH110
