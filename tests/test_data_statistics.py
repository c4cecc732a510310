"""Mutual information by distance against cases with a known answer."""

import json

import numpy as np
import pytest
from data_fixtures import numbered_corpus

from tst_titan.data.shards import Columns, write_shard
from tst_titan.data.statistics import fit_power_law, mutual_information
from tst_titan.errors import UserError


def corpus_of(folder, ids):
    numbered_corpus(folder, {"a": 100})
    manifest = json.loads((folder / "corpus.json").read_text())
    header = write_shard(
        folder / "train/a/00000.arrow",
        Columns(ids.astype(np.uint32), np.array([0, len(ids)]), np.zeros(1, np.uint64), np.array([len(ids)])),
        corpus_id="numbered", source="a", split="train", vocab_size=2**32, tokenizer_digest=manifest["tokenizer"]["digest"],  # noqa: E501
    )  # fmt: skip
    entry = {"file": "train/a/00000.arrow", "num_tokens": len(ids), "checksum": header.checksum}
    manifest["sources"] = [{"name": "a", "weight": 1.0, "num_tokens": len(ids), "shards": [entry]}]
    (folder / "corpus.json").write_text(json.dumps(manifest))
    return folder


def test_a_period_and_pure_chance_have_the_information_that_theory_says(tmp_path):
    periodic = corpus_of(tmp_path / "periodic", np.arange(200_000) % 10)
    assert mutual_information(periodic, [1, 2, 7], 200_000) == pytest.approx([np.log(10)] * 3, abs=1e-3)
    chance = corpus_of(tmp_path / "chance", np.random.default_rng(0).integers(0, 10, 200_000))
    assert mutual_information(chance, [1, 2, 7], 200_000) == pytest.approx([0.0] * 3, abs=1e-3)


def test_a_copy_at_one_distance_shows_there_only(tmp_path):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 8, 300_000)
    ids[3::6] = ids[::6]
    # One pair in six at distance 3 is a copy: p = 1/6 + 5/6/8 on the diagonal.
    same, other = (1 / 6 + 5 / 48) / 8, 5 / 48 / 8
    expected = 8 * same * np.log(64 * same) + 56 * other * np.log(64 * other)
    near, copied = mutual_information(corpus_of(tmp_path, ids), [2, 3], 300_000)
    assert near < 1e-3
    assert copied == pytest.approx(expected, abs=2e-3)


def test_the_fit_finds_a_power_law_again():
    distances = range(1, 33)
    law = fit_power_law(distances, 3.63 + 1.35 * np.arange(1, 33) ** -1.25)
    assert (law.c0, law.a, law.k) == pytest.approx((3.63, 1.35, -1.25), abs=1e-4)
    with pytest.raises(UserError, match="at least 4"):
        fit_power_law([1, 2], np.array([2.0, 1.0]))
