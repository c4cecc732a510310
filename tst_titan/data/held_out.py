"""Which documents never enter training.

A document is held out where its hash lies below a threshold. For corpora that can grow the threshold is fixed, so that
growth never moves a held-out document into training; for the embedded corpus, which cannot grow, it is as high as
`validation_tokens` needs. The validation split comes from the first groups of each source that hold out enough, so that
it stays what it is when more groups are tokenized.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tst_titan.data.documents import document_hash
from tst_titan.data.sources import Listing, read_documents
from tst_titan.plan.settings import CorpusSettings

ONE_IN = 20
# More bytes than a token of ordinary text has with the usual tokenizers (3.6 at 4096 ids on Python sources).
_BYTES_PER_TOKEN = 6
# Groups that begin within so many bytes of input keep their held-out text: sixteen times what should be enough.
_LEAST_KEPT = 2**30
_KEPT_TIMES = 16 * ONE_IN


@dataclass(frozen=True)
class HeldOutRule:
    """Documents of a hash below `below` are held out; `text` says so for the manifest."""

    below: int
    text: str


def held_out_rule(settings: CorpusSettings, listings: Sequence[Listing]) -> HeldOutRule:
    """The rule of a corpus and its wording for the manifest."""
    order = "in the order of their hashes they make the validation split"
    if all(source.kind == "python-stdlib" for source in settings.sources):
        below = _embedded_threshold(settings, listings)
        return HeldOutRule(
            below,
            f"the documents of the smallest hashes, {below / 2**64:.1%} of all, are held out of training; {order}",
        )
    below = 2**64 // ONE_IN
    return HeldOutRule(
        below,
        f"one document in {ONE_IN}, by its hash, is held out of training; {order}",
    )


def wanted_bytes(settings: CorpusSettings) -> int:
    """Bytes of held-out text that surely hold `validation_tokens`."""
    return settings.validation_tokens * _BYTES_PER_TOKEN


def _embedded_threshold(settings: CorpusSettings, listings: Sequence[Listing]) -> int:
    sizes = {
        document_hash(document.text): len(document.text.encode())
        for source, listing in zip(settings.sources, listings, strict=True)
        for group in listing.groups
        for entry in group
        for document in read_documents(source, entry, Counter())
    }
    left = wanted_bytes(settings)
    for identity in sorted(sizes):
        left -= sizes[identity]
        if left <= 0:
            return identity + 1
    return 2**64 // 2


def groups_that_keep_text(settings: CorpusSettings, listing: Listing) -> int:
    """How many of a source's groups keep the text of their held-out documents; matters for terabytes only."""
    kept = max(_LEAST_KEPT, _KEPT_TIMES * wanted_bytes(settings))
    sizes = accumulate((sum(entry.size for entry in group) for group in listing.groups), initial=0)
    return sum(before < kept for before in sizes)
