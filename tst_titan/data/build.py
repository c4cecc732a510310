"""Build a corpus: list, tokenizer, groups in parallel, then the manifest.

    prepare          lists the sources, makes the tokenizer, returns the groups' jobs
    tokenize_group   one job each, in any order and anywhere (`tst_titan.data.groups`)
    finish           drops repeated documents, holds out the validation split, writes corpus.json (`finish.py`)

`build_corpus` runs all three on this machine. The bytes of a corpus depend on its settings and its inputs, never on
the number of workers. A build that was killed goes on with the groups that it had finished.
"""

import dataclasses
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tst_titan.data.corpora import Listing, list_source, read_documents
from tst_titan.data.documents import Input, document_hash
from tst_titan.data.groups import GroupJob, GroupResult, tokenize_group
from tst_titan.data.held_out import HeldOutRule, held_out_rule, wanted_bytes
from tst_titan.data.tokenizers import check_vocabulary, copy_tokenizer, load_tokenizer, train_bpe, use_threads
from tst_titan.errors import UserError
from tst_titan.files import digest_json, read_json, write_json
from tst_titan.plan.settings import CorpusSettings, SourceSettings

# Text that a BPE is trained on, shared evenly by the sources.
_BPE_CHARACTERS = 128 * 2**20


@dataclass(frozen=True)
class SourceJobs:
    """One source's jobs in the order in which their tokens are read."""

    source: SourceSettings
    listing: Listing
    jobs: tuple[GroupJob, ...]


def build_corpus(settings: CorpusSettings, out_dir: Path, *, num_workers: int) -> dict[str, Any]:
    """Build the corpus in `out_dir` (``results/data/CORPUS_ID``) and return its manifest, the content of corpus.json.

    A whole corpus that is there already is returned as it is. Raises `UserError` for inputs that cannot be read
    (after all readable groups are done), too little text, and what cannot be written.
    """
    from tst_titan.data.finish import finish

    out_dir = Path(out_dir)
    manifest_path = out_dir / "corpus.json"
    if manifest_path.is_file():
        manifest = read_json(manifest_path)
        if manifest["corpus_id"] != settings.id:
            raise UserError(
                f"{manifest_path}: is corpus {manifest['corpus_id']}, not {settings.id}; use another folder"
            )
        return manifest
    prepared = prepare(settings, out_dir, num_workers=num_workers)
    results = _run_groups(settings, prepared, num_workers)
    manifest = finish(settings, out_dir, prepared, results)
    shutil.rmtree(work_folder(out_dir), ignore_errors=True)
    return manifest


def tokenize_part(
    settings: CorpusSettings, out_dir: Path, part: tuple[int, int], *, num_workers: int
) -> None:
    """Tokenize the k-th of n shares of the groups (`part` is (k, n)) and leave the rest to other calls.

    One call a cluster job: the calls need no order among them, and `build_corpus` afterwards takes over what they
    left and does what is missing. With `max_tokens` a share stops when it has its n-th of them.
    """
    if (Path(out_dir) / "corpus.json").is_file():
        return
    k, n = part
    prepared = prepare(settings, out_dir, num_workers=num_workers)
    share = dataclasses.replace(
        settings,
        max_tokens=-(-settings.max_tokens // n),
        validation_tokens=-(-settings.validation_tokens // n),
    )
    _run_groups(share, [dataclasses.replace(one, jobs=one.jobs[k::n]) for one in prepared], num_workers)


def work_folder(out_dir: Path) -> Path:
    """Where a build keeps what is not yet part of the corpus."""
    return Path(out_dir) / ".work"


def prepare(settings: CorpusSettings, out_dir: Path, *, num_workers: int) -> tuple[SourceJobs, ...]:
    """List the sources, train or bring the tokenizer, and say which groups there are to tokenize."""
    names = [source.name for source in settings.sources]
    if not names or len(set(names)) < len(names):
        raise UserError(f"corpus {settings.id}: needs sources with names of their own, has {names}")
    listings = [_listed(source, work_folder(out_dir)) for source in settings.sources]
    tokenizer_folder = Path(out_dir) / "tokenizer"
    rule = held_out_rule(settings, listings)
    _make_tokenizer(settings, listings, rule, tokenizer_folder, work_folder(out_dir), num_workers)
    tokenizer = load_tokenizer(tokenizer_folder)
    check_vocabulary(tokenizer, settings.tokenizer)
    return tuple(
        SourceJobs(
            source,
            listing,
            tuple(
                GroupJob(
                    settings=settings,
                    source=source,
                    number=number,
                    inputs=inputs,
                    folder=work_folder(out_dir),
                    tokenizer_folder=tokenizer_folder,
                    tokenizer_digest=tokenizer.digest,
                    held_out=rule,
                )
                for number, inputs in enumerate(listing.groups)
            ),
        )
        for source, listing in zip(settings.sources, listings, strict=True)
    )


def _listed(source: SourceSettings, work: Path) -> Listing:
    """The source's listing. A hub dataset's is kept until the build is done: all jobs read the same commit."""
    if source.kind != "hub":
        return list_source(source)
    record = work / f"listing-{source.name}.json"
    if record.is_file():
        stored = read_json(record)
        if stored["source"] == asdict(source):
            groups = tuple(
                tuple(Input(**entry) for entry in group) for group in stored["listing"].pop("groups")
            )
            return Listing(groups=groups, notes=tuple(stored["listing"].pop("notes")), **stored["listing"])
    listing = list_source(source)
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
        _say(f"training a byte-level BPE of {settings.tokenizer.vocab_size} ids")
        use_threads(num_workers > 1)
        train_bpe(folder, _training_texts(settings, listings, rule), settings.tokenizer.vocab_size)
    else:
        copy_tokenizer(folder, settings.tokenizer)
    write_json(record, key)


def _training_texts(
    settings: CorpusSettings, listings: Sequence[Listing], rule: HeldOutRule
) -> Iterator[str]:
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


def _run_groups(
    settings: CorpusSettings, prepared: Sequence[SourceJobs], num_workers: int
) -> list[list[GroupResult]]:
    """The results of each source's groups: all of them, or the first ones that reach `max_tokens` and hold out enough."""
    num_jobs = sum(len(part.jobs) for part in prepared)
    if num_workers <= 1 or num_jobs == 1:
        return [_results_of(settings, part, map(tokenize_group, part.jobs)) for part in prepared]
    with ProcessPoolExecutor(min(num_workers, num_jobs), mp_context=get_context("spawn")) as pool:
        try:
            return [_results_of(settings, part, _in_order(pool, part.jobs, num_workers)) for part in prepared]
        except BrokenProcessPool as error:
            raise UserError(
                "a worker of the corpus build was killed, probably for want of memory: run again with fewer workers; "
                "finished groups are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, jobs: Sequence[GroupJob], num_workers: int) -> Iterator[GroupResult]:
    """Results in the order of the jobs, with a few jobs more under way than there are workers."""
    waiting: dict[int, Future[GroupResult]] = {}
    submitted = 0
    for number in range(len(jobs)):
        while submitted < len(jobs) and submitted - number < 4 * num_workers:
            waiting[submitted] = pool.submit(tokenize_group, jobs[submitted])
            submitted += 1
        # An error of a later group must not wait for this one.
        while not waiting[number].done():
            for future in wait(waiting.values(), return_when=FIRST_COMPLETED).done:
                future.result()
            if not waiting[number].done():
                wait([waiting[number]], timeout=0.2)
        yield waiting.pop(number).result()


def _results_of(
    settings: CorpusSettings, part: SourceJobs, results: Iterator[GroupResult]
) -> list[GroupResult]:
    chosen: list[GroupResult] = []
    errors: list[str] = []
    num_tokens, held_out_bytes, start = 0, 0, time.monotonic()
    for result in results:
        if result.error:
            errors.append(result.error)
            continue
        chosen.append(result)
        num_tokens += result.num_tokens
        rate = num_tokens / (time.monotonic() - start + 1e-9)
        done = f"{len(chosen) + len(errors)}/{len(part.jobs)} groups"
        _say(f"{part.source.name}: {done}, {num_tokens:,} tokens, {rate:,.0f} tokens/s", last=False)
        held_out_bytes += result.held_out_bytes
        if (
            settings.max_tokens
            and num_tokens >= settings.max_tokens
            and held_out_bytes >= wanted_bytes(settings)
        ):
            break
    _say(f"{part.source.name}: {num_tokens:,} tokens in {time.monotonic() - start:.1f} s")
    if errors:
        more = f" ({len(errors) - 1} more groups with such errors)" if len(errors) > 1 else ""
        raise UserError(errors[0] + more)
    return chosen


def _say(text: str, *, last: bool = True) -> None:
    """Progress on stderr: a line that replaces itself on a terminal, only the last one in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(text, file=sys.stderr, flush=True)
