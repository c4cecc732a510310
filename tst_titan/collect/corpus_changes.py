"""Whether the segments of a study read one corpus, and the one that is there now."""

from collections.abc import Iterable, Mapping
from typing import Any

from tst_titan.collect.notices import Notice, listed
from tst_titan.collect.segments import SegmentRecord
from tst_titan.data.content import agree, changes
from tst_titan.results import SegmentFiles


def corpus_changes(segments: Iterable[SegmentRecord], corpora: Mapping[str, Mapping[str, Any]]) -> list[Notice]:
    """A notice for each corpus that is another one now, and for each segment that read another one than those before
    it.

    `corpora`: manifests by id, with their `file`. Segments of earlier versions recorded nothing and are taken as they
    are.
    """
    notices = []
    first: dict[str, SegmentRecord] = {}
    differing: dict[tuple[str, str], list[str]] = {}
    for record in segments:
        before, corpus = record.provenance.get("corpus"), record.segment.recipe.corpus.id
        if before is None:
            continue
        try:
            other = first.setdefault(corpus, record)
            if not agree(other.provenance["corpus"], before):
                text = (
                    f"{record.segment.id} was trained on another corpus than {other.segment.id}: their losses do not "
                    "compare; train one of them again"
                )
                notices.append(Notice("damaged", str(SegmentFiles(record.folder).provenance), text))
            changed = changes(before, corpora[corpus]) if corpus in corpora else []
        except (KeyError, TypeError, AttributeError) as error:
            text = f"not a record of a corpus as documented ({error!r})"
            notices.append(Notice("damaged", str(SegmentFiles(record.folder).provenance), text))
            continue
        if changed:
            differing.setdefault((corpus, "; ".join(changed)), []).append(record.segment.id)
    for (corpus, words), ids in differing.items():
        text = (
            f"another corpus than the one that {len(ids)} segments were trained on ({words}): {listed(ids)}; restore "
            "it, or train them again"
        )
        notices.append(Notice("damaged", str(corpora[corpus]["file"]), text))
    return notices
