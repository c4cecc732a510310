"""corpus.json as a later stage reads it: the shards of each split, checked against their headers when opened."""

import mmap
import resource
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tst_titan.data.shards import Shard, open_shard, verify_shard
from tst_titan.errors import UserError
from tst_titan.files import digest_file
from tst_titan.results import CorpusFiles
from tst_titan.seal import read_sealed

_OPEN_SHARDS = 4096
MEND = "bring it back, or delete the corpus folder and build it again with `tst-titan data build`"


@dataclass(frozen=True)
class Corpus:
    """A whole corpus on disk."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        return self.manifest["corpus_id"]

    @property
    def digest(self) -> str:
        """SHA-256 over the tokenizer and all shards: what a run's `done.json` cites."""
        return self.manifest["digest"]

    @property
    def eos_id(self) -> int:
        return self.manifest["tokenizer"]["eos_id"]

    @property
    def vocab_size(self) -> int:
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def num_train_tokens(self) -> int:
        return sum(source["num_tokens"] for source in self.manifest["sources"])

    @property
    def tokenizer_folder(self) -> Path:
        return CorpusFiles(self.folder).tokenizer

    @cached_property
    def training_runs(self) -> list["TokenRun"]:
        """One run of tokens a source."""
        return [
            TokenRun(self, source["name"], source["shards"], complete=source.get("complete", True))
            for source in self.manifest["sources"]
        ]

    @cached_property
    def validation_run(self) -> "TokenRun":
        return TokenRun(self, "validation", self.manifest["validation"]["shards"])


def read_manifest(path: Path) -> dict[str, Any]:
    """corpus.json, as it was written: its numbers stand in tables and model cards. Raises `UserError` where it is
    not."""
    return read_sealed(path, mend=MEND)


def open_corpus(folder: Path) -> Corpus:
    """Read corpus.json and check the tokenizer against it; costs no scan of the shards.

    Raises `UserError` where the corpus is missing, not whole, or its tokenizer is another than its shards'.
    """
    folder = Path(folder)
    path = CorpusFiles(folder).manifest
    if not path.is_file():
        raise UserError(
            "no whole corpus there (corpus.json is missing); build it with `tst-titan data build`",
            where=folder,
        )
    manifest = read_manifest(path)
    tokenizer = CorpusFiles(folder).tokenizer / "tokenizer.json"
    if not tokenizer.is_file():
        raise UserError(
            "missing; delete the corpus folder and build it again with `tst-titan data build`",
            where=tokenizer,
        )
    if digest_file(tokenizer) != manifest["tokenizer"]["digest"]:
        raise UserError(
            "another tokenizer than the one that made the shards; delete the corpus folder and build it again",
            where=tokenizer,
        )
    # Corpora of earlier versions have no digest of it.
    config, recorded = (
        tokenizer.with_name("tokenizer_config.json"),
        manifest["tokenizer"].get("config_digest"),
    )
    if recorded and not (config.is_file() and digest_file(config) == recorded):
        raise UserError(f"not as the corpus was made with; {MEND}", where=config)
    return Corpus(folder, manifest)


def verify_corpus(folder: Path, *, largest: int | None = None) -> int:
    """Read every shard of the corpus and check checksums and ids; returns the number of tokens read.

    With `largest`, corpora of more tokens are only opened, not read: then the result is 0, and shards that were
    cut short are still found.
    """
    corpus = open_corpus(folder)
    runs = [*corpus.training_runs, corpus.validation_run]
    num_tokens = sum(run.num_tokens for run in runs)
    read_all = largest is None or num_tokens <= largest
    for run in runs:
        for number in range(run.num_shards):
            shard = run.shard(number)
            if read_all:
                verify_shard(shard.path)
    return num_tokens if read_all else 0


class TokenRun:
    """The shards of one source or split as one flat run of token ids.

    `complete`: nothing can be added to it. Otherwise a later build may append what a longer run needs.
    """

    def __init__(self, corpus: Corpus, name: str, shards: Sequence[dict[str, Any]], *, complete: bool = True) -> None:
        self.name = name
        self.complete = complete
        self._corpus = corpus
        self._files = [shard["file"] for shard in shards]
        self._checksums = [shard["checksum"] for shard in shards]
        # A list: one bisection of it takes a tenth of numpy's time, and short rows are read one by one.
        self._ends = list(accumulate(shard["num_tokens"] for shard in shards))
        if not self._ends:
            raise UserError(f"{name} has no shards; {MEND}", where=CorpusFiles(corpus.folder).manifest)
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._most_open = _allow_open_files(min(len(self._files), _OPEN_SHARDS))

    @property
    def num_tokens(self) -> int:
        return self._ends[-1]

    @property
    def num_shards(self) -> int:
        return len(self._files)

    def shard(self, number: int) -> Shard:
        """Shard `number`, opened and checked when first asked for."""
        shard = self._open.get(number)
        if shard is None:
            shard = open_shard(self._corpus.folder / self._files[number], advice=mmap.MADV_RANDOM)
            self._check(number, shard)
            self._open[number] = shard
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)
        return shard

    def read_into(self, out: np.ndarray, start: int) -> None:
        """Fill the 1-D `out` with the ids from token `start` on; they may span shards."""
        number = bisect_right(self._ends, start)
        ids = self.shard(number).ids
        first = start - self._ends[number] + len(ids)
        part = ids[first : first + len(out)]
        out[: len(part)] = part
        filled = len(part)
        while filled < len(out):
            number += 1
            part = self.shard(number).ids[: len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)

    def will_need(self, start: int, count: int) -> None:
        """Have the system fetch `count` ids from token `start` on; does not wait for them."""
        number = bisect_right(self._ends, start)
        while count > 0 and number < self.num_shards:
            shard = self.shard(number)
            first = start - self._ends[number] + len(shard.ids)
            part = min(count, len(shard.ids) - first)
            shard.will_need(first, part)
            start, count, number = start + part, count - part, number + 1

    def _check(self, number: int, shard: Shard) -> None:
        header, manifest = shard.header, self._corpus.manifest
        expected = {
            "corpus_id": manifest["corpus_id"],
            "tokenizer_digest": manifest["tokenizer"]["digest"],
            "checksum": self._checksums[number],
            "num_tokens": self._ends[number] - (self._ends[number - 1] if number else 0),
        }
        for key, value in expected.items():
            if getattr(header, key) != value:
                raise UserError(
                    f"its {key} is {getattr(header, key)}, corpus.json says {value}; "
                    "delete the corpus folder and build it again with `tst-titan data build`",
                    where=shard.path,
                )


def _allow_open_files(wanted: int) -> int:
    """How many shards may stay open: raises the process's soft limit on open files where that is needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 1024
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(16, min(wanted, soft - 512))
