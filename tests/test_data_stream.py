"""The token stream is a function of seed and position alone, and never loses or repeats a token."""

import json
import time
from collections import Counter
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pytest
from data_fixtures import numbered_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_titan.data import order as block_order
from tst_titan.data.order import interleaved, permuted, quotas
from tst_titan.data.shards import Columns, write_shard
from tst_titan.data.stream import TokenStream
from tst_titan.data.validation import validation_windows
from tst_titan.errors import UserError


@pytest.fixture(scope="module")
def one_source(tmp_path_factory):
    return numbered_corpus(tmp_path_factory.mktemp("one"), {"a": 10_007})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return numbered_corpus(
        tmp_path_factory.mktemp("mixed"),
        {"a": 30_000, "b": 20_000, "c": 9_000},
        {"a": 0.5, "b": 0.3, "c": 0.2},
    )


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**70), epoch=st.integers(0, 2**40))
@settings(max_examples=100, deadline=None)
def test_permutation_visits_every_index_once(size, seed, epoch):
    order = permuted(np.arange(size), np.full(size, epoch), size, seed)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_permutation_looks_random_and_differs_by_epoch_and_seed():
    size = 100_003
    index = np.arange(size)
    orders = [permuted(index, np.full(size, epoch), size, seed) for epoch, seed in [(0, 0), (1, 0), (0, 1), (7, 12345)]]
    for order in orders:
        # Mean distance of successive elements of a random permutation: a third of the size, +- 0.24 / sqrt(size).
        assert abs(np.abs(np.diff(order)).mean() / size - 1 / 3) < 0.005
        # No trend, neither over the whole nor at short lags.
        assert abs(np.corrcoef(index, order)[0, 1]) < 0.015
        for lag in (1, 2, 16, 1024):
            assert abs(np.corrcoef(order[lag:], order[:-lag])[0, 1]) < 0.015
        # Every hundredth of the stream sees every hundredth of the corpus about equally often (chi-square, 99^2
        # degrees).
        table, *_ = np.histogram2d(index, order, bins=100)
        assert 9000 < ((table - size / 1e4) ** 2 / (size / 1e4)).sum() < 10_600
    for other in orders[1:]:
        assert (orders[0] == other).sum() < 12


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6),
    start=st.integers(0, 10**6),
)
@settings(max_examples=50, deadline=None)
def test_mixture_is_exact_over_every_window_of_one_period(weights, start):
    quota = quotas(weights)
    source, rank = interleaved(quota)
    period = len(source)
    window = np.take(source, np.arange(start, start + period), mode="wrap")
    assert np.array_equal(np.bincount(window, minlength=len(quota)), quota)
    for index in range(len(quota)):
        assert np.array_equal(rank[source == index], np.arange(quota[index]))
    share = np.array(weights) / np.sum(weights)
    assert np.abs(quota / period - share).max() < 1 / 4096


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.2, 0.1), (1, 2, 4), (0.123456, 0.5, 0.376544)])
def test_mixture_error_is_below_a_thousandth_over_ten_million_tokens(weights):
    source, _ = interleaved(quotas(weights))
    num_blocks = 10_000_000 // 2048
    for start in (0, 1, 1234, 99_999):
        counts = np.bincount(np.take(source, np.arange(start, start + num_blocks), mode="wrap"), minlength=len(weights))
        assert np.abs(counts / num_blocks - np.array(weights) / sum(weights)).max() < 1e-3


def test_weights_that_say_nothing_are_refused():
    with pytest.raises(UserError, match="zero or more"):
        quotas([0.0, 0.0])
    with pytest.raises(UserError, match="1/4096"):
        quotas([1.0, 1e-6])


@pytest.mark.parametrize(("lanes", "block"), [(1, 64), (4, 64), (7, 50), (16, 100)])
def test_an_epoch_reads_every_block_exactly_once(one_source, lanes, block):
    stream = TokenStream(one_source, seed=3, num_lanes=lanes, block_tokens=block)
    num_blocks = 10_007 // block
    rounds = -(-num_blocks // lanes) + 1
    by_lane = stream.windows(0, rounds * block).reshape(lanes, rounds, block)
    blocks = by_lane.transpose(1, 0, 2).reshape(-1, block)
    assert (np.diff(blocks, axis=1) == 1).all()
    starts = blocks[:, 0] // block
    assert np.array_equal(np.sort(starts[:num_blocks]), np.arange(num_blocks))
    # The next epoch begins at once, in another order.
    assert not np.array_equal(starts[num_blocks:], starts[: len(starts) - num_blocks])


@pytest.mark.parametrize(("first", "lanes", "block"), [(700, 4, 64), (64, 3, 64), (2048, 16, 100)])
def test_an_epoch_of_many_stretches_has_the_hashes_of_all_blocks_once_and_stays_in_order_of_stretches(
    one_source, monkeypatch, first, lanes, block
):
    monkeypatch.setattr(block_order, "_FIRST_STRETCH", first)
    stream = TokenStream(one_source, seed=3, num_lanes=lanes, block_tokens=block)
    num_blocks = 10_007 // block
    rounds = -(-num_blocks // lanes)
    read = stream.windows(0, rounds * block).reshape(lanes, rounds, block).transpose(1, 0, 2).reshape(-1, block)
    flat = np.arange(num_blocks * block).reshape(-1, block)

    def hashes(blocks):
        return Counter(blake2b(one.tobytes(), digest_size=16).digest() for one in blocks)

    assert hashes(read[:num_blocks]) == hashes(flat)
    assert max(hashes(flat).values()) == 1
    ends = [end // block for end in block_order.stretch_ends(10_007)]
    assert len(ends) > 3
    for start, end in pairwise([0, *ends[:-1]]):
        assert set(read[start:end, 0] // block) == set(range(start, end))


def test_a_mixture_reads_each_sources_blocks_exactly_once_an_epoch(mixed):
    stream = TokenStream(mixed, seed=0, num_lanes=10, block_tokens=100)
    tokens = stream.windows(0, 45 * 100).reshape(10, 45, 100).transpose(1, 0, 2).reshape(-1, 100)
    source, start = np.divmod(tokens[:, 0], 10**8)
    for index, (num_blocks, share) in enumerate([(300, 0.5), (200, 0.3), (90, 0.2)]):
        own = start[source == index] // 100
        assert len(own) == share * 450
        assert len(np.unique(own[:num_blocks])) == min(num_blocks, len(own))
    assert stream.num_epochs_at(45 * 10 * 100) == {"a": 0.75, "b": 0.675, "c": 1.0}


@given(
    offset=st.integers(0, 5000),
    length=st.integers(1, 700),
    lanes=st.integers(1, 24),
    world=st.sampled_from([1, 2, 3, 8]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_ranks_read_disjoint_lanes_of_one_stream(mixed, offset, length, lanes, world, seed):
    whole = TokenStream(mixed, seed=seed, num_lanes=lanes, block_tokens=128).windows(offset * lanes, length)
    assert whole.shape == (lanes, length)
    assert whole.dtype == np.int64
    parts = []
    for rank in range(world):
        # A stream of its own for each rank, resumed at this position: nothing was read before.
        stream = TokenStream(mixed, seed=seed, num_lanes=lanes, block_tokens=128)
        parts.append(stream.windows(offset * lanes, length, slice(rank, None, world)))
    for rank, part in enumerate(parts):
        assert np.array_equal(part, whole[rank::world])


@given(cuts=st.lists(st.integers(1, 300), min_size=1, max_size=8), lanes=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_any_change_of_batch_length_continues_at_the_next_unread_token(one_source, cuts, lanes):
    stream = TokenStream(one_source, seed=1, num_lanes=lanes, block_tokens=64)
    position, parts = 0, []
    for length in cuts:
        # Lookahead of 7 tokens: read, not consumed.
        parts.append(stream.windows(position, length + 7)[:, :length])
        position += lanes * length
    assert np.array_equal(np.concatenate(parts, axis=1), stream.windows(0, sum(cuts)))
    assert np.array_equal(stream.window(lanes - 1, 5, 20), stream.windows(0, 25)[lanes - 1, 5:])


def test_bags_then_single_tokens_read_each_lane_without_gap_or_overlap(one_source):
    lanes, seq_len, bag = 4, 16, 6
    stream = TokenStream(one_source, seed=0, num_lanes=lanes, block_tokens=256)
    bags = [stream.windows(step * lanes * seq_len * bag, seq_len * bag + bag) for step in range(3)]
    switch = 3 * lanes * seq_len * bag
    plain = [stream.windows(switch + step * lanes * seq_len, seq_len + 1) for step in range(3)]
    consumed = [window[:, :-bag] for window in bags] + [window[:, :-1] for window in plain]
    assert np.array_equal(np.concatenate(consumed, axis=1), stream.windows(0, 3 * seq_len * (bag + 1)))


def test_rows_of_a_batch_come_from_different_blocks(one_source):
    stream = TokenStream(one_source, seed=0, num_lanes=32, block_tokens=64)
    for step in range(8):
        rows = stream.windows(step * 32 * 16, 16)
        assert len(np.unique(rows[:, 0] // 64)) == 32


def test_another_seed_is_another_order_and_a_misaligned_position_is_refused(one_source):
    first, second = (TokenStream(one_source, seed=seed, num_lanes=4, block_tokens=64) for seed in (0, 1))
    assert not np.array_equal(first.windows(0, 64), second.windows(0, 64))
    with pytest.raises(ValueError, match="multiple"):
        first.windows(3, 64)


def test_a_corpus_too_small_for_one_batch_says_what_is_needed_and_there(one_source):
    stream = TokenStream(one_source, seed=0, num_lanes=200, block_tokens=64)
    with pytest.raises(UserError, match=r"needs 12,800 .*there are 10,007"):
        stream.check_enough(data_tokens=100, window_tokens=60)
    with pytest.raises(UserError, match=r"10,007 training tokens, fewer than one block of 20,000"):
        TokenStream(one_source, seed=0, num_lanes=1, block_tokens=20_000)


def test_several_epochs_are_a_warning_with_their_number(one_source):
    stream = TokenStream(one_source, seed=0, num_lanes=4, block_tokens=64)
    assert stream.check_enough(data_tokens=9_000, window_tokens=65) == []
    (warning,) = stream.check_enough(data_tokens=30_000, window_tokens=65)
    assert "read 3.0 times" in warning
    assert "30,000" in warning


def test_validation_windows_are_deterministic_whole_and_spread(one_source):
    everything = validation_windows(one_source, 31)
    assert everything.shape == (32, 32)
    assert np.array_equal(everything[:, 0], np.arange(32) * 31)
    assert (np.diff(everything, axis=1) == 1).all()
    some = validation_windows(one_source, 31, max_tokens=31 * 8)
    assert np.array_equal(some[:, 0], np.arange(8) * 4 * 31)
    with pytest.raises(UserError, match="997 tokens"):
        validation_windows(one_source, 997)


def test_first_batch_of_a_trillion_tokens_in_ten_thousand_shards_within_a_second(tmp_path):
    folder = numbered_corpus(tmp_path, {"a": 1000})
    manifest = json.loads((folder / "corpus.json").read_text())
    size = 10**8
    columns = Columns(np.zeros(size, np.uint16), np.array([0, size]), np.zeros(1, np.uint64), np.array([size]))
    about = {
        "corpus_id": "numbered",
        "tokenizer_digest": manifest["tokenizer"]["digest"],
        "vocab_size": 2**32,
    }
    # One file on disk with ten thousand names: what a reader opens and maps is the same as for as many files.
    first = folder / "train/big/first.arrow"
    checksum = write_shard(first, columns, source="big", split="train", **about).checksum
    entries = []
    for number in range(10_000):
        name = f"train/big/{number:05d}.arrow"
        (folder / name).hardlink_to(first)
        entries.append({"file": name, "num_tokens": size, "num_documents": 1, "num_bytes": size, "checksum": checksum})
    manifest["sources"] = [{"name": "big", "weight": 1.0, "num_tokens": 10_000 * size, "shards": entries}]
    (folder / "corpus.json").write_text(json.dumps(manifest))

    # Of this process's own time: other work on the machine must not decide. Nothing here waits for a disk.
    start = time.process_time()
    stream = TokenStream(folder, seed=0, num_lanes=64, block_tokens=2048)
    batch = stream.windows(0, 2049)
    assert time.process_time() - start < 1.0
    assert stream.corpus.num_train_tokens == 10**12
    assert batch.shape == (64, 2049)
    start = time.process_time()
    stream.windows(64 * 2048 * 4_000_000, 2049)
    assert time.process_time() - start < 1.0
