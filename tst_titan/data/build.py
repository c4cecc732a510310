"""Build a corpus: list, tokenizer, groups in parallel, then the manifest.

    prepare          lists the sources, makes the tokenizer, returns the groups' jobs
    tokenize_group   one job each, in any order and anywhere (`tst_titan.data.tokenize`)
    finish           drops repeated documents, holds out the validation split, writes corpus.json (`finish.py`)

`build_corpus` runs all three on this machine, one process at a time (`building.py`). The bytes of a corpus depend on
its settings and its inputs, never on the number of workers. A build that was killed goes on with the groups that it had
finished.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tst_titan.cluster.lock import FolderLock
from tst_titan.data.building import corpus_lock, running_share, wait_for_shares
from tst_titan.data.documents import Input, document_hash
from tst_titan.data.finish import finish
from tst_titan.data.held_out import HeldOutRule, groups_that_keep_text, held_out_rule, wanted_bytes
from tst_titan.data.inputs import check_inputs
from tst_titan.data.manifest import open_corpus, read_manifest, verify_corpus
from tst_titan.data.needed import holds
from tst_titan.data.pool import Enough, SourceJobs, run_groups, say
from tst_titan.data.shares import shares_of
from tst_titan.data.sources import Listing, list_source, read_documents
from tst_titan.data.tokenize import GroupJob
from tst_titan.data.tokenizers import check_vocabulary, copy_tokenizer, load_tokenizer, train_bpe, use_threads
from tst_titan.errors import UserError
from tst_titan.files import digest_json, read_json, write_json
from tst_titan.plan.settings import CorpusSettings, SourceSettings
from tst_titan.results import CorpusFiles

# Text that a BPE is trained on, shared evenly by the sources.
_BPE_CHARACTERS = 128 * 2**20


def build_corpus(
    settings: CorpusSettings, out_dir: Path, *, num_workers: int, needed: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Build the corpus in `out_dir` (``results/data/CORPUS_ID``) and return its manifest, the content of corpus.json.

    With `needed` (training tokens by source, see `needed.py`) only so many of the groups are tokenized. A corpus that
    is there and holds enough is returned as it is, one that holds too little grows: tokens are appended, nothing that
    was there changes. In both cases its inputs are compared with those that it was made of. Raises `UserError` for
    inputs that cannot be read (after all readable groups are done), too little text, and what cannot be written.
    """
    out_dir = Path(out_dir)
    manifest = _enough(settings, out_dir, needed)
    if manifest is None or (holds(manifest, None) and CorpusFiles(out_dir).work.exists()):
        with corpus_lock(out_dir) as lock:
            wait_for_shares(out_dir)
            # Another may have finished it meanwhile.
            manifest = _enough(settings, out_dir, needed) or _build(settings, out_dir, num_workers, needed, lock)
            if holds(manifest, None):
                shutil.rmtree(CorpusFiles(out_dir).work, ignore_errors=True)
    return manifest


def _enough(settings: CorpusSettings, out_dir: Path, needed: Mapping[str, int] | None) -> dict[str, Any] | None:
    """The manifest of a corpus that is there, is whole and holds enough, compared with its inputs; else None."""
    manifest = _whole(settings, out_dir)
    if manifest is None or not holds(manifest, needed):
        return None
    verify_corpus(out_dir, largest=0)
    check_inputs(settings, out_dir)
    return manifest


def _build(
    settings: CorpusSettings,
    out_dir: Path,
    num_workers: int,
    needed: Mapping[str, int] | None,
    lock: FolderLock,
) -> dict[str, Any]:
    """Build the corpus, or let it grow, until it holds enough."""
    manifest = _whole(settings, out_dir)
    aim = _limited(settings, needed)
    while manifest is None or not holds(manifest, needed):
        prepared = prepare(settings, out_dir, num_workers=num_workers)
        results = run_groups(prepared, Enough(aim, wanted_bytes(settings)), num_workers)
        lock.check()
        manifest = finish(settings, out_dir, prepared, results, manifest)
        if aim is not None and needed is not None:
            # Documents that were dropped as duplicates have to be made up for.
            missing = {s["name"]: max(0, needed[s["name"]] - s["num_tokens"]) for s in manifest["sources"]}
            aim = {name: tokens + 2 * missing[name] for name, tokens in aim.items()}
    return manifest


def tokenize_share(
    settings: CorpusSettings,
    out_dir: Path,
    share: tuple[int, int],
    *,
    num_workers: int,
    needed: Mapping[str, int] | None = None,
) -> None:
    """Tokenize the k-th of n shares of the groups (`share` is (k, n)) and leave the rest to other calls.

    One call a cluster job: the calls need no order among them, and `build_corpus` afterwards takes over what they
    left and does what is missing. A share stops when it has its n-th of the tokens that are wanted.
    """
    k, n = share
    aim = _limited(settings, needed)
    enough = Enough(
        None if aim is None else {name: -(-tokens // n) for name, tokens in aim.items()},
        -(-wanted_bytes(settings) // n),
    )

    def done() -> bool:
        manifest = _whole(settings, Path(out_dir))
        return manifest is not None and holds(manifest, needed)

    if done():
        return
    with ExitStack() as running:
        with corpus_lock(out_dir):
            if done():
                return
            prepared = prepare(settings, out_dir, num_workers=num_workers)
            running.enter_context(running_share(out_dir))
        run_groups([dataclasses.replace(one, jobs=one.jobs[k::n]) for one in prepared], enough, num_workers)


def _whole(settings: CorpusSettings, out_dir: Path) -> dict[str, Any] | None:
    path = CorpusFiles(out_dir).manifest
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    if manifest["corpus_id"] != settings.id:
        raise UserError(f"is corpus {manifest['corpus_id']}, not {settings.id}; use another folder", where=path)
    return manifest


def _limited(settings: CorpusSettings, needed: Mapping[str, int] | None) -> dict[str, int] | None:
    """Tokens wanted of each source: what is needed, at most `max_tokens`; None for all."""
    if needed is None and not settings.max_tokens:
        return None
    limit = settings.max_tokens or max((needed or {}).values())
    return {s.name: min(limit, needed[s.name]) if needed is not None else limit for s in settings.sources}


def prepare(settings: CorpusSettings, out_dir: Path, *, num_workers: int) -> tuple[SourceJobs, ...]:
    """List the sources, train or bring the tokenizer, and say which groups there are to tokenize."""
    names = [source.name for source in settings.sources]
    if not names or len(set(names)) < len(names):
        raise UserError(f"corpus {settings.id}: needs sources with names of their own, has {names}")
    listings = [_listed(source, Path(out_dir)) for source in settings.sources]
    for listing in listings:
        for note in listing.notes:
            say(note)
    tokenizer_folder = CorpusFiles(out_dir).tokenizer
    manifest = _whole(settings, Path(out_dir))
    shares = _recorded_shares(manifest) if manifest else shares_of(settings.sources, listings)
    rule = held_out_rule(settings, listings)
    if manifest is None:
        _make_tokenizer(settings, listings, rule, tokenizer_folder, CorpusFiles(out_dir).work, num_workers)
    else:
        # A corpus that grows keeps its tokenizer, and nothing of it changes before the larger one is whole.
        check_inputs(settings, Path(out_dir))
        open_corpus(Path(out_dir))
    tokenizer = load_tokenizer(tokenizer_folder)
    check_vocabulary(tokenizer, settings.tokenizer)
    return tuple(
        SourceJobs(
            source,
            share,
            listing,
            tuple(
                GroupJob(
                    settings=settings,
                    source=source,
                    number=number,
                    inputs=inputs,
                    folder=CorpusFiles(out_dir).work,
                    tokenizer_folder=tokenizer_folder,
                    tokenizer_digest=tokenizer.digest,
                    held_out=rule,
                    keeps_held_out=number < keeping,
                )
                for number, inputs in enumerate(listing.groups)
            ),
        )
        for source, share, listing in zip(settings.sources, shares, listings, strict=True)
        for keeping in [groups_that_keep_text(settings, listing)]
    )


def source_shares(settings: CorpusSettings, out_dir: Path) -> list[float]:
    """Each source's share of the training tokens: as the corpus in `out_dir` has it, else as stated, else as its files
    are now."""
    manifest = _whole(settings, Path(out_dir))
    if manifest:
        return _recorded_shares(manifest)
    if all(source.weight != "proportional" for source in settings.sources):
        return shares_of(settings.sources, [])
    with corpus_lock(out_dir):
        return shares_of(settings.sources, [_listed(source, Path(out_dir)) for source in settings.sources])


def _recorded_shares(manifest: Mapping[str, Any]) -> list[float]:
    return [source["weight"] for source in manifest["sources"]]


def _listed(source: SourceSettings, out_dir: Path) -> Listing:
    """The source's listing. A hub dataset is listed once, so that all jobs read the same commit."""
    if source.kind != "hub":
        return list_source(source)
    record = CorpusFiles(out_dir).work / f"listing-{source.name}.json"
    if record.is_file():
        stored = read_json(record)
        if stored["source"] == asdict(source):
            groups = tuple(tuple(Input(**entry) for entry in group) for group in stored["listing"].pop("groups"))
            return Listing(groups=groups, notes=tuple(stored["listing"].pop("notes")), **stored["listing"])
    manifest = CorpusFiles(out_dir).manifest
    revision = source.revision
    if manifest.is_file():
        # A corpus that grows goes on with the commit that it began with.
        (origin,) = (s["origin"] for s in read_manifest(manifest)["sources"] if s["name"] == source.name)
        revision = origin["revision"]
    listing = list_source(dataclasses.replace(source, revision=revision))
    write_json(record, {"source": asdict(source), "listing": asdict(listing)})
    return listing


def _make_tokenizer(
    settings: CorpusSettings,
    listings: Sequence[Listing],
    rule: HeldOutRule,
    folder: Path,
    work: Path,
    num_workers: int,
) -> None:
    key = digest_json(
        {
            "tokenizer": asdict(settings.tokenizer),
            "held_out": rule.below,
            "inputs": [[asdict(e) for g in one.groups for e in g] for one in listings],
        },
        length=32,
    )
    record = work / "tokenizer.json"
    if record.is_file() and read_json(record) == key:
        return
    if settings.tokenizer.kind == "bpe":
        say(f"training a byte-level BPE of {settings.tokenizer.vocab_size} ids")
        use_threads(num_workers > 1)
        train_bpe(folder, _training_texts(settings, listings, rule), settings.tokenizer.vocab_size)
    else:
        copy_tokenizer(folder, settings.tokenizer)
    write_json(record, key)


def _training_texts(settings: CorpusSettings, listings: Sequence[Listing], rule: HeldOutRule) -> Iterator[str]:
    """Documents of the training split, each once, an even share of `_BPE_CHARACTERS` from each source."""
    seen: set[int] = set()
    for source, listing in zip(settings.sources, listings, strict=True):
        left = _BPE_CHARACTERS // len(listings)
        for entry in (entry for group in listing.groups for entry in group):
            held_out = False
            for document in read_documents(source, entry, Counter()):
                identity = document_hash(document.text)
                held_out = held_out if document.continues else identity < rule.below
                if held_out or identity in seen:
                    continue
                seen.add(identity)
                left -= len(document.text)
                yield document.text
                if left <= 0:
                    break
            if left <= 0:
                break
