"""What share of the training tokens each source of a corpus has: as its settings state, or as its files' bytes are.

Shares by size are computed where the files are listed, and recorded in the manifest (`weight`), which keeps them for
good.
"""

from collections.abc import Sequence
from pathlib import Path

from tst_titan.data.file_kinds import compression_of, format_of
from tst_titan.data.sources import Listing
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings


def shares_of(sources: Sequence[SourceSettings], listings: Sequence[Listing]) -> list[float]:
    """The sources' weights; those of a mix by size are its files' bytes, as a share of all.

    Raises `UserError` where such files are compressed in different ways, so that their bytes do not compare.
    """
    stated = [source.weight for source in sources if source.weight != "proportional"]
    if len(stated) == len(sources):
        return stated
    packed = {source.name: _packed(one) for source, one in zip(sources, listings, strict=True)}
    if len({kind for kinds in packed.values() for kind in kinds}) > 1:
        each = ", ".join(f"{name}: {' and '.join(sorted(kinds))}" for name, kinds in packed.items())
        stated_mix = ", ".join(f"{source.name}: ..." for source in sources)
        raise UserError(
            f"corpus.mix = proportional: the sources' files are packed in different ways ({each}), so that their bytes "
            f"do not compare; state weights: mix: {{{stated_mix}}}"
        )
    total = sum(listing.num_bytes for listing in listings)
    return [listing.num_bytes / total for listing in listings]


def _packed(listing: Listing) -> set[str]:
    """How the bytes of a source's files stand for text."""
    names = [Path(entry.name) for group in listing.groups for entry in group]
    return {compression_of(name) or ("Parquet" if format_of(name) == "parquet" else "plain") for name in names}
