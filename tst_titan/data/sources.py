"""What a source holds: its inputs, listed once, and the documents of one input.

A source is listed into inputs (files, here or on the hub) and the inputs into groups, the unit of
parallel work. An input's group depends on its name alone as long as the number of groups stays, so that mending,
adding or removing a file touches one group. The order of groups is a fixed pseudo-random order of the inputs.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tst_titan.data import hub, local_files, stdlib
from tst_titan.data.documents import Document, Input, cut_long
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings

_LARGEST_GROUP = 256 * 2**20
_SMALLEST_GROUP = 2 * 2**20


@dataclass(frozen=True)
class Listing:
    """A source's inputs in groups. `origin` identifies what was listed (versions, hashes, sizes)."""

    groups: tuple[tuple[Input, ...], ...]
    num_bytes: int
    origin: dict[str, Any]
    notes: tuple[str, ...]


def list_source(source: SourceSettings) -> Listing:
    """List a source's inputs. Raises `UserError` where it is missing, empty or cannot be listed."""
    inputs, origin, notes = {
        "python-stdlib": stdlib.list_inputs,
        "files": local_files.list_inputs,
        "hub": hub.list_inputs,
    }[source.kind](source)
    if not inputs:
        raise UserError(f"corpus source {source.name}: {source.path or source.kind} holds no text; {'; '.join(notes)}")
    num_bytes = sum(entry.size for entry in inputs)
    return Listing(groups=_grouped(inputs, num_bytes), num_bytes=num_bytes, origin=origin, notes=tuple(notes))


def read_documents(source: SourceSettings, entry: Input, tally: Counter[str]) -> Iterator[Document]:
    """Iterate the documents of one input in their order.

    Empty texts are skipped and very long ones cut into pieces; `tally` counts these and texts that were not valid
    UTF-8. Raises `UserError` naming file, line or row and column where something cannot be read.
    """
    read = {"python-stdlib": stdlib.read, "files": local_files.read, "hub": hub.read}[source.kind]
    for identity, text in read(source, entry, tally):
        if not text.strip():
            tally["empty documents skipped"] += 1
            continue
        yield from cut_long(identity, text, tally)


def _grouped(inputs: list[Input], num_bytes: int) -> tuple[tuple[Input, ...], ...]:
    """Spread inputs over a power of two of groups by the hash of their names; empty groups are dropped.

    About 64 groups, larger or fewer ones where a group would leave the bounds above.
    """
    ordered = sorted(inputs, key=lambda entry: (_name_hash(entry.name), entry.name))
    target = min(_LARGEST_GROUP, max(_SMALLEST_GROUP, num_bytes // 64))
    num_groups = 1 << max(0, -(-num_bytes // target) - 1).bit_length()
    groups: list[list[Input]] = [[] for _ in range(num_groups)]
    for entry in ordered:
        groups[_name_hash(entry.name) % num_groups].append(entry)
    return tuple(tuple(group) for group in groups if group)


def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
