"""A document, the input that it comes from, and the rules that every source shares."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tst_titan.data.file_kinds import TextShare

# Bounds the memory of one document; a tokenizer needs about 100 bytes a token.
LONGEST_DOCUMENT = 4 * 2**20


@dataclass(frozen=True)
class Input:
    """One thing to read: `name` identifies it within its source, `path` says where it lies, `size` in bytes."""

    name: str
    path: str
    size: int
    version: str = ""


@dataclass(frozen=True)
class Document:
    """A text and its name. `continues`: a further piece of the document before it, cut for its length."""

    id: str
    text: str
    continues: bool = False


def document_hash(text: str) -> int:
    """The identity of a document: 64 bits of the BLAKE2b of its UTF-8 bytes."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def valid_text(text: str, tally: Counter[str]) -> str:
    """`text` with lone surrogates, which no UTF-8 can hold, replaced by U+FFFD and counted."""
    try:
        text.encode()
    except UnicodeEncodeError:
        tally["documents with invalid UTF-8, replaced by U+FFFD"] += 1
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def decoded(data: bytes, tally: Counter[str], share: TextShare) -> str:
    """`data` as UTF-8; what is not UTF-8 becomes U+FFFD, and the document is counted.

    Raises `UserError` where `share`, the file that it is of, turns out to be mostly no text.
    """
    try:
        text = data.decode("utf-8-sig")
        share.add(data, 0)
    except UnicodeDecodeError:
        tally["documents with invalid UTF-8, replaced by U+FFFD"] += 1
        text = data.decode("utf-8-sig", errors="replace")
        share.add(data, text.count("\ufffd") - data.count("\ufffd".encode()))
    return text


def cut_long(identity: str, text: str, tally: Counter[str]) -> Iterator[Document]:
    """The document itself, or its pieces of at most `LONGEST_DOCUMENT` characters, cut at line ends if any."""
    if len(text) <= LONGEST_DOCUMENT:
        yield Document(identity, text)
        return
    tally[f"documents longer than {LONGEST_DOCUMENT} characters, cut at line ends"] += 1
    start = 0
    while start < len(text):
        end = min(len(text), start + LONGEST_DOCUMENT)
        if end < len(text):
            line_end = text.rfind("\n", start, end)
            end = line_end + 1 if line_end > start else end
        yield Document(f"{identity}[{start}:{end}]", text[start:end], continues=start > 0)
        start = end
