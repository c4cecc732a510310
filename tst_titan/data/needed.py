"""How much of each source the plans read: what has to be tokenized, in whole stretches (`order.stretch_ends`)."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_titan.data.order import quotas, stretch_ends
from tst_titan.errors import UserError
from tst_titan.files import read_json
from tst_titan.plan.settings import CorpusSettings
from tst_titan.results import CorpusFiles, Results

if TYPE_CHECKING:  # building a corpus needs no planner
    from tst_titan.plan import Plan, Segment


def tokens_needed(plans: "Iterable[Plan]", weights: Mapping[str, Sequence[float]]) -> dict[str, dict[str, int]]:
    """By corpus id and source: training tokens that hold the stream of the longest run, its lookahead included.

    `weights`: those of corpora's sources that are known. Of a mix by size whose files are not listed yet all count
    alike; the sum is then about right.
    """
    needed: dict[str, dict[str, int]] = {}
    shares: dict[str, tuple[int, dict[str, int]]] = {}
    for segment in (segment for plan in plans for segment in plan.segments.values()):
        corpus = segment.recipe.corpus
        if corpus.id not in shares:
            stated = [1.0 if s.weight == "proportional" else s.weight for s in corpus.sources]
            quota = quotas(weights.get(corpus.id, stated)).tolist()
            names = [source.name for source in corpus.sources]
            shares[corpus.id] = sum(quota), dict(zip(names, quota, strict=True))
        period, by_source = shares[corpus.id]
        num_periods = -(-_blocks(segment) // period)
        for name, count in by_source.items():
            num_blocks = num_periods * count
            of_corpus = needed.setdefault(corpus.id, {})
            if num_blocks * segment.recipe.block_tokens > of_corpus.get(name, -1):
                of_corpus[name] = _whole_stretches(num_blocks, segment.recipe.block_tokens)
    return needed


def recorded_weights(corpora: Iterable[str], results: Results) -> dict[str, list[float]]:
    """The weights of the sources of those of `corpora` (ids) that are there."""
    found = {}
    for identity in corpora:
        # Who opens a damaged one says so.
        with suppress(UserError, KeyError, TypeError):
            manifest = read_json(results.corpus(identity).manifest)
            found[identity] = [source["weight"] for source in manifest["sources"]]
    return found


def holds(manifest: Mapping[str, Any], needed: Mapping[str, int] | None) -> bool:
    """Whether a corpus has the tokens `needed` of each source (None: all that there are)."""
    return all(
        source.get("complete", True) or (needed is not None and source["num_tokens"] >= needed[source["name"]])
        for source in manifest["sources"]
    )


def corpus_shares(
    settings: CorpusSettings, files: CorpusFiles, needed: Mapping[str, int], tokens_per_job: int, most_jobs: int
) -> list[Path]:
    """The marks of a corpus's shares that jobs of their own tokenize; none where one job does it all."""
    if all(source.kind == "python-stdlib" for source in settings.sources):
        return []
    num_tokens = sum(min(tokens, settings.max_tokens or tokens) for tokens in needed.values())
    count = min(most_jobs, -(-num_tokens // tokens_per_job))
    return [files.part(number, count) for number in range(count)] if count > 1 else []


def corpus_or_growth(files: CorpusFiles, needed: Mapping[str, int]) -> Path:
    """What a segment's data come from: the manifest, or the mark that it has grown where it holds too little."""
    if files.manifest.exists() and not holds(read_json(files.manifest), needed):
        return files.grown(sum(needed.values()))
    return files.manifest


def _blocks(segment: "Segment") -> int:
    """Blocks of all lanes that a segment's last window touches or has behind it."""
    recipe = segment.recipe
    lane_tokens = -(-segment.data_tokens // recipe.sequences_per_step) + segment.window_length
    return recipe.sequences_per_step * -(-lane_tokens // recipe.block_tokens)


def _whole_stretches(num_blocks: int, block_tokens: int) -> int:
    """The first end of a stretch before which so many blocks lie."""
    ends = stretch_ends((num_blocks + 1) * block_tokens)
    return next(end for end in ends if end // block_tokens >= num_blocks)
