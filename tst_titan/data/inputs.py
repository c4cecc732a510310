"""Whether a corpus's inputs are still those that it was made of: a corpus's id says where they lie, not what they hold."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tst_titan.data.corpora import Listing
from tst_titan.data.tokenizers import given_file
from tst_titan.errors import UserError
from tst_titan.files import digest_file
from tst_titan.plan.settings import CorpusSettings
from tst_titan.results import CorpusFiles

# Sources of at most so many bytes are compared by content (a second a gigabyte), larger ones by names and sizes.
_COMPARED_BY_CONTENT = 2**30
_IN_WORDS = {
    "names_and_sizes": "names or sizes differ",
    "content": "their content differs",
    "digest": "their content differs",
}
_MEND = (
    "bring them back; or give the source another name for a corpus of its own; or delete the corpus folder and build it "
    "again (runs on it then start anew)"
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
            content = hashlib.sha256(
                "".join(digest_file(Path(path)) for *_, path in entries).encode()
            ).hexdigest()
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return {**listing.origin, "names_and_sizes": names.hexdigest(), "content": content}


def check_inputs(
    settings: CorpusSettings, out_dir: Path, manifest: Mapping[str, Any], listings: Sequence[Listing | None]
) -> None:
    """Raise `UserError` where the sources or a given tokenizer are others than those of the corpus in `out_dir`.

    `listings`: None for a source that is not there any more, which is no matter for a corpus that is whole.
    """
    for source, listing, there in zip(settings.sources, listings, manifest["sources"], strict=True):
        if listing is None or source.kind == "hub":
            continue
        before, now = there["origin"], recorded(source.kind, listing)
        changed = [key for key in before if before[key] != now.get(key)]
        if changed:
            what = ", ".join(
                _IN_WORDS.get(key) or f"{key}: {before[key]} then, {now.get(key)} now" for key in changed
            )
            raise UserError(
                f"{out_dir}: the files of source {source.name} have changed since this corpus was made of them ({what}): {_MEND}"
            )
    given = given_file(settings.tokenizer)
    if given and given.is_file() and digest_file(given) != manifest["tokenizer"]["digest"]:
        raise UserError(
            f"{out_dir}: {given} is another tokenizer than the one that made this corpus: bring that back (the corpus has a "
            f"copy, {CorpusFiles(out_dir).tokenizer}), or give the new one another path in the study"
        )
