"""Run a corpus's groups on this machine's processes until enough of each source is tokenized."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from tst_titan.data.sources import Listing
from tst_titan.data.tokenize import GroupJob, GroupResult, tokenize_group
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings


@dataclass(frozen=True)
class SourceJobs:
    """One source's jobs in the order in which their tokens are read, and its share of the training tokens."""

    source: SourceSettings
    share: float
    listing: Listing
    jobs: tuple[GroupJob, ...]


@dataclass(frozen=True)
class Enough:
    """When to stop: tokens by source (None or a source without an entry: all groups) and held-out bytes."""

    tokens: Mapping[str, int] | None
    held_out_bytes: int


def run_groups(prepared: Sequence[SourceJobs], enough: Enough, num_workers: int) -> list[list[GroupResult]]:
    """The results of each source's first groups, up to the one with which there is enough."""
    num_jobs = sum(len(source_jobs.jobs) for source_jobs in prepared)
    if num_workers <= 1 or num_jobs <= 1:
        return [_results_of(source_jobs, map(tokenize_group, source_jobs.jobs), enough) for source_jobs in prepared]
    with ProcessPoolExecutor(min(num_workers, num_jobs), mp_context=get_context("spawn")) as pool:
        try:
            return [
                _results_of(source_jobs, _in_order(pool, source_jobs.jobs, num_workers), enough)
                for source_jobs in prepared
            ]
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


def _results_of(source_jobs: SourceJobs, results: Iterator[GroupResult], enough: Enough) -> list[GroupResult]:
    wanted = (enough.tokens or {}).get(source_jobs.source.name)
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
        done = f"{len(chosen) + len(errors)}/{len(source_jobs.jobs)} groups"
        say(f"{source_jobs.source.name}: {done}, {num_tokens:,} tokens, {rate:,.0f} tokens/s", last=False)
        held_out_bytes += result.held_out_bytes
        if wanted is not None and num_tokens >= wanted and held_out_bytes >= enough.held_out_bytes:
            break
    say(f"{source_jobs.source.name}: {num_tokens:,} tokens in {time.monotonic() - start:.1f} s")
    if errors:
        more = f" ({len(errors) - 1} more groups with such errors)" if len(errors) > 1 else ""
        raise UserError(errors[0] + more)
    return chosen


def say(text: str, *, last: bool = True) -> None:
    """Progress on stderr: a line that replaces itself on a terminal, only the last one in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(text, file=sys.stderr, flush=True)
