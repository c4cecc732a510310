"""Whether a corpus's inputs are still those that it was made of: a corpus's id says where they lie, not what they hold.

What was compared is noted beside the corpus (`verified.json`), so that it is read again only where a file is another
one.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tst_titan.data import local_files, stdlib
from tst_titan.data.pool import say
from tst_titan.data.sources import Listing, list_source
from tst_titan.data.tokenizers import given_file
from tst_titan.errors import UserError
from tst_titan.files import digest_file, read_json, write_json
from tst_titan.plan.settings import CorpusSettings, SourceSettings
from tst_titan.results import CorpusFiles, Results

VERIFIED = "verified.json"
# Sources of at most so many bytes are compared by content (a second a gigabyte), larger ones by names and sizes.
_COMPARED_BY_CONTENT = 2**30
_IN_WORDS = {
    "names_and_sizes": "names or sizes differ",
    "content": "their content differs",
    "digest": "their content differs",
}
_MEND = (
    "bring them back; or give the source another name for a corpus of its own; or delete the corpus folder and build "
    "it again (runs on it then start anew)"
)


def recorded(kind: str, listing: Listing) -> dict[str, Any]:
    """What the manifest holds of a source's inputs, for a later comparison: a digest of names and sizes, of content."""
    if kind != "files":
        # The commit of a hub's dataset or the digest of the standard library stands there already.
        return listing.origin
    entries = sorted((entry.name, entry.size, entry.path) for group in listing.groups for entry in group)
    names = hashlib.sha256("".join(f"{name}\0{size}\n" for name, size, _ in entries).encode())
    content = ""
    if listing.num_bytes <= _COMPARED_BY_CONTENT:
        try:
            content = hashlib.sha256("".join(digest_file(Path(path)) for *_, path in entries).encode()).hexdigest()
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=error.filename) from error
    return {**listing.origin, "names_and_sizes": names.hexdigest(), "content": content}


def check_inputs(settings: CorpusSettings, out_dir: Path) -> None:
    """Raise `UserError`, one line for each, where sources or a given tokenizer are others than those of the whole
    corpus in `out_dir`.

    Sources that are not there any more, or that cannot be read, are told of: a corpus that is whole needs none. Those
    of the hub have a commit and are not asked for. Where no file moved since the last comparison, none is opened.
    """
    manifest = read_json(
        CorpusFiles(out_dir).manifest,
        mend="delete the corpus folder and build it again with `tst-titan data build`",
    )
    noted, seen, changed = _noted(out_dir, manifest), {}, []
    for source, there in zip(settings.sources, manifest["sources"], strict=True):
        if source.kind == "hub":
            continue
        try:
            # Before anything is read: what changes meanwhile has another state afterwards.
            state = _state(source)
            differing = [] if noted.get(source.name) == state else _differing(source, there["origin"])
        except UserError as error:
            say(f"{out_dir}: not compared with what the corpus was made of: {error}")
            continue
        if differing:
            changed.append(
                f"{out_dir}: the files of source {source.name} have changed since this corpus was made of them "
                f"({', '.join(differing)}): {_MEND}"
            )
        else:
            seen[source.name] = state
    given = given_file(settings.tokenizer)
    if given and given.is_file() and digest_file(given) != manifest["tokenizer"]["digest"]:
        changed.append(
            f"{out_dir}: {given} is another tokenizer than the one that made this corpus: bring that back (the corpus "
            f"has a copy, {CorpusFiles(out_dir).tokenizer}), or give the new one another path in the study"
        )
    if seen.items() - noted.items():
        # In a folder that is another user's it is compared each time.
        with suppress(UserError):
            write_json(out_dir / VERIFIED, {"corpus": manifest["digest"], "sources": noted | seen})
    if changed:
        raise UserError("\n".join(changed))


def changed_inputs(corpora: Iterable[CorpusSettings], results: Results) -> list[str]:
    """What `check_inputs` finds wrong in those of `corpora` that are there already."""
    wrong = []
    for corpus in corpora:
        files = results.corpus(corpus.id)
        if files.manifest.is_file():
            try:
                check_inputs(corpus, files.folder)
            except UserError as error:
                wrong.append(str(error))
    return wrong


def _differing(source: SourceSettings, before: Mapping[str, Any]) -> list[str]:
    """In words, what of a source's record is another one now."""
    now = recorded(source.kind, list_source(source))
    return [
        _IN_WORDS.get(key) or f"{key}: {before[key]} then, {now.get(key)} now"
        for key in before
        if before[key] != now.get(key)
    ]


def _state(source: SourceSettings) -> str:
    """A digest of what changes when a file of the source does: paths, sizes, times, inodes, and the interpreter's
    version."""
    if source.kind == "python-stdlib":
        digest, paths = hashlib.sha256(platform.python_version().encode()), stdlib.library_files()
    else:
        digest, paths = hashlib.sha256(), [Path(entry.path) for entry in local_files.list_inputs(source)[0]]
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=path) from error
        state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        digest.update(os.fsencode(path) + f"\0{state}\n".encode())
    return digest.hexdigest()


def _noted(out_dir: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """By source, the states in which this corpus's files were last compared; empty where that is not known."""
    try:
        value = json.loads((out_dir / VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(value, dict) and value.get("corpus") == manifest["digest"]
    return value["sources"] if known and isinstance(value.get("sources"), dict) else {}
