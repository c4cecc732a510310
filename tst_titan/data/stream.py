"""The token stream: what a run reads is a function of the seed and the stream position, and of nothing else.

Each source's training split is one flat run of tokens, cut into blocks of `block_tokens`; the rest at its end, shorter
than a block, is left out. An epoch of a source visits its blocks once each in a pseudo-random order of that epoch. The
global sequence of blocks g = 0, 1, 2, ... takes its sources from a fixed period, so that any window of one period holds
exactly the stated share of each. Lane i of B (one lane a sequence of the global batch) reads the blocks i, i + B, i +
2B, ... one after the other.

The position p, data tokens read so far by all lanes, is a multiple of B; every lane then stands at its offset p / B.
Ranks, micro-batches and phases only choose which lanes and how many tokens they ask for. Looking ahead is asking for
more
tokens: it does not move the position.

Shapes: B lanes, T tokens, K blocks.
"""

from pathlib import Path

import numpy as np

from tst_titan.data.manifest import TokenRun, open_corpus
from tst_titan.data.order import interleaved, permuted, quotas, stretch_ends
from tst_titan.errors import UserError

# Block places computed at once: their cost a block then no longer counts.
_BLOCKS_AHEAD = 4096


_GROW = "tokenize more of it with `tst-titan data build STUDY`"


class TokenStream:
    """Reads a corpus's training split at any position; holds no state that reading changes.

    `num_lanes` is the number of sequences of the global batch over all ranks, `seed` the study's. Opening costs the
    same for every corpus size, and so does every read.
    """

    def __init__(self, corpus_dir: Path, *, seed: int, num_lanes: int, block_tokens: int) -> None:
        if num_lanes < 1 or block_tokens < 1:
            raise UserError(
                f"token stream: {num_lanes} lanes of blocks of {block_tokens} tokens; both must be at least 1"
            )
        self.corpus = open_corpus(corpus_dir)
        self.num_lanes = num_lanes
        self.block_tokens = block_tokens
        self._seed = seed
        self._runs = self.corpus.training_runs
        self._stretches = [_stretches(run, block_tokens) for run in self._runs]
        self._num_blocks = [int(ends[-1]) for ends in self._stretches]
        self._quota = quotas([source["weight"] for source in self.corpus.manifest["sources"]])
        self._slot_source, self._slot_rank = interleaved(self._quota)
        for run, blocks, quota in zip(self._runs, self._num_blocks, self._quota, strict=True):
            if quota and not blocks:
                raise UserError(
                    f"source {run.name} holds {run.num_tokens:,} training tokens, fewer than one block of "
                    f"{block_tokens:,}; {'add documents or lower block_tokens' if run.complete else _GROW}",
                    where=corpus_dir,
                )
        self._ahead: tuple[tuple[int, ...], int, np.ndarray, np.ndarray] | None = None

    @property
    def num_blocks(self) -> int:
        """Blocks of all sources that one epoch of each reads."""
        return sum(self._num_blocks)

    def window(self, lane: int, offset: int, length: int) -> np.ndarray:
        """`length` tokens (int64) of one lane from its token `offset` on."""
        return self.windows(offset * self.num_lanes, length, slice(lane, lane + 1))[0]

    def windows(self, position: int, length: int, lanes: slice = slice(None)) -> np.ndarray:
        """The next `length` tokens of each of `lanes` at a stream position: int64 [num_lanes, length]."""
        if position % self.num_lanes:
            raise ValueError(f"position {position} is no multiple of the {self.num_lanes} lanes")
        offset = position // self.num_lanes
        numbers = range(*lanes.indices(self.num_lanes))
        tokens_BT = np.empty((len(numbers), length), dtype=np.int64)
        first, last = offset // self.block_tokens, -(-(offset + length) // self.block_tokens)
        source_KB, start_KB = self._places(numbers, first, last)
        if (start_KB < 0).any():
            name = self._runs[int(source_KB[start_KB < 0][0])].name
            raise UserError(f"source {name} is not tokenized that far; {_GROW}", where=self.corpus.folder)
        skipped = offset - first * self.block_tokens
        # Of a block begun earlier the rest was asked for then. All lanes' at once: the disk serves them together.
        begun = slice(1 if skipped else 0, None)
        for sources, starts in zip(source_KB[begun].tolist(), start_KB[begun].tolist(), strict=True):
            for source, start in zip(sources, starts, strict=True):
                self._runs[source].will_need(start, self.block_tokens)
        for row, sources, starts in zip(tokens_BT, source_KB.T.tolist(), start_KB.T.tolist(), strict=True):
            at = -skipped
            for source, start in zip(sources, starts, strict=True):
                begin, end = max(at, 0), min(at + self.block_tokens, length)
                self._runs[source].read_into(row[begin:end], start + begin - at)
                at += self.block_tokens
        return tokens_BT

    def block_places(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source and first token within it of each global block number (int64 arrays of the same shape).

        The first token is -1 where a source, of which more can be tokenized, does not reach so far yet.
        """
        flat = blocks.reshape(-1)
        period, slot = np.divmod(flat, len(self._slot_source))
        source = self._slot_source[slot]
        number = period * self._quota[source] + self._slot_rank[slot]
        start = np.empty_like(number)
        for index, num_blocks in enumerate(self._num_blocks):
            chosen = np.flatnonzero(source == index)
            if len(chosen):
                epoch, within = np.divmod(number[chosen], num_blocks)
                # Sources of one study must not share their permutations.
                seed = self._seed * 1_000_003 + index
                shuffled = _shuffled(within, epoch, self._stretches[index], seed)
                start[chosen] = shuffled * self.block_tokens
                if not self._runs[index].complete:
                    start[chosen[epoch > 0]] = -1
        return source.reshape(blocks.shape), start.reshape(blocks.shape)

    def num_epochs_at(self, position: int) -> dict[str, float]:
        """How often each source has been read when the stream stands at `position`, begun blocks counted whole."""
        blocks = -(-position // (self.num_lanes * self.block_tokens)) * self.num_lanes
        used = self._blocks_by_source(blocks)
        return {
            run.name: float(count / total) if total else 0.0
            for run, count, total in zip(self._runs, used, self._num_blocks, strict=True)
        }

    def check_enough(self, data_tokens: int, window_tokens: int) -> list[str]:
        """Whether the corpus serves a run that reads `data_tokens` in windows of `window_tokens` a lane.

        Raises `UserError` where one batch of windows would repeat a block. Returns warnings, one for each source
        that the run reads more than once.
        """
        blocks = self.num_lanes * -(-window_tokens // self.block_tokens)
        needed = self._blocks_by_source(blocks)
        for run, count, total in zip(self._runs, needed, self._num_blocks, strict=True):
            if count > total:
                raise UserError(
                    f"source {run.name} is too small: one batch needs {count * self.block_tokens:,} of its tokens "
                    f"({self.num_lanes} sequences of {window_tokens:,} tokens in blocks of {self.block_tokens:,}), "
                    f"there are {run.num_tokens:,}; add documents, or lower sequences_per_step, bag_size, seq_len or "
                    "block_tokens",
                    where=self.corpus.folder,
                )
        position = -(-data_tokens // self.num_lanes) * self.num_lanes
        for name, epochs in self.num_epochs_at(position + self.num_lanes * window_tokens).items():
            if epochs > 1 and not next(run for run in self._runs if run.name == name).complete:
                raise UserError(
                    f"the run needs {data_tokens:,} data tokens, and source {name} is not tokenized that far; {_GROW}",
                    where=self.corpus.folder,
                )
        return [
            f"source {name} is read {epochs:.1f} times: the run needs {data_tokens:,} data tokens, the corpus has "
            f"{self.corpus.num_train_tokens:,}"
            for name, epochs in self.num_epochs_at(position).items()
            if epochs > 1
        ]

    def _blocks_by_source(self, blocks: int) -> np.ndarray:
        """How many of the first `blocks` global blocks each source has."""
        period, rest = divmod(blocks, len(self._slot_source))
        return period * self._quota + np.bincount(self._slot_source[:rest], minlength=len(self._quota))

    def _places(self, lanes: range, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the blocks `first`..`last` of each lane, [K, B]; computed for many batches ahead."""
        key = (lanes.start, lanes.stop, lanes.step)
        if (
            self._ahead is None
            or self._ahead[0] != key
            or not (self._ahead[1] <= first and last <= self._ahead[1] + len(self._ahead[2]))
        ):
            rows = max(last - first, _BLOCKS_AHEAD // max(1, len(lanes)))
            blocks_KB = (
                np.arange(first, first + rows)[:, None] * self.num_lanes + np.asarray(lanes, dtype=np.int64)[None, :]
            )
            self._ahead = (key, first, *self.block_places(blocks_KB))
        _, start, source_KB, start_KB = self._ahead
        return source_KB[first - start : last - start], start_KB[first - start : last - start]


def _stretches(run: TokenRun, block_tokens: int) -> np.ndarray:
    """Ends of a source's stretches in blocks; the last one is cut where a complete source ends."""
    num_blocks = run.num_tokens // block_tokens
    ends = [end // block_tokens for end in stretch_ends(run.num_tokens)]
    whole = [end for end in ends if end <= num_blocks]
    if run.complete and (not whole or whole[-1] < num_blocks):
        whole.append(num_blocks)
    return np.array(whole or [0])


def _shuffled(within: np.ndarray, epoch: np.ndarray, ends: np.ndarray, seed: int) -> np.ndarray:
    """The block that comes at each place `within` an epoch: each stretch is permuted on its own."""
    stretch = ends.searchsorted(within, side="right")
    shuffled = np.empty_like(within)
    for number in np.unique(stretch).tolist():
        inside = np.flatnonzero(stretch == number)
        first = int(ends[number - 1]) if number else 0
        key = epoch[inside] + (number << 40)
        size = int(ends[number]) - first
        shuffled[inside] = first + permuted(within[inside] - first, key, size, seed)
    return shuffled
