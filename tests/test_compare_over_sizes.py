"""Differences pooled over models: coverage with noise of models, of seeds and of runs, and what the table says."""

import numpy as np
import pandas as pd
import pytest

from tst_titan.compare.findings import compare
from tst_titan.compare.intervals import Interval
from tst_titan.compare.over_sizes import pooled
from tst_titan.compare.paired import Difference
from tst_titan.report.page import finding_sentences


def differences(values_MS):
    return [
        Difference(
            "tst",
            f"m{place}",
            100,
            "validation_loss",
            3.0,
            3.0,
            Interval(),
            None,
            len(row),
            True,
            (f"r{place}",),
            by_seed=dict(enumerate(row)),
        )
        for place, row in enumerate(values_MS)
    ]


def covered(draws, models, seeds, model_spread, seed_spread):
    inside = 0
    for draw in range(draws):
        random = np.random.default_rng(draw)
        values = -0.02 + 0.01 * (
            model_spread * random.normal(size=(models, 1))
            + seed_spread * random.normal(size=(1, seeds))
            + random.normal(size=(models, seeds))
        )
        (found,) = pooled("equal FLOPs", differences(values))
        inside += found.interval.low <= -0.02 <= found.interval.high
    return inside / draws


@pytest.mark.parametrize("model_spread", [0, 1])
@pytest.mark.parametrize("seed_spread", [0, 1])
@pytest.mark.parametrize(("models", "seeds"), [(3, 3), (3, 5), (6, 3)])
def test_the_pooled_difference_covers_the_truth(models, seeds, model_spread, seed_spread):
    """Two standard errors of 300 draws below 90%; few models and seeds without effects of their own are covered more
    often."""
    assert covered(300, models, seeds, model_spread, seed_spread) >= 0.865


def runs(effects, seeds=3, spread=0.01):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "run": f"{model}-{arm}-{steps}-{seed}", "arm": arm, "model": model, "bag_size": 4 if arm == "tst" else 1,
            "step_ratio": 0.3 if arm == "tst" else 0.0, "steps": steps, "seed": seed, "learning_rate": 1e-3,
            "data_tokens": 1000 * steps, "status": "finished",
            "validation_loss": 3 + spread * random.normal() + (effect if arm == "tst" and steps == 200 else 0),
        }
        for model, effect in effects.items() for arm in ("baseline", "tst") for steps in (100, 200) for seed in range(seeds)  # noqa: E501
    )  # fmt: skip


def test_models_that_do_not_tell_one_by_one_tell_together():
    found = compare(runs({"a": -0.02, "b": -0.02, "c": -0.02, "d": -0.02}), ("equal_flops",), "")
    longest = [item for item in found.flops if item.steps == 200]
    assert any(item.interval.high > 0 for item in longest)
    (together,) = found.pooled
    assert together.interval.high < 0
    assert together.value == pytest.approx(np.mean([item.value for item in longest]))
    row = found.table().iloc[-1]
    assert (row["comparison"], row["model"], row["steps"]) == ("equal FLOPs, all models", "a, b, c, d", 200)
    assert row["high"] == together.interval.high
    assert finding_sentences(found)[-1].startswith(
        "At equal FLOPs over a, b, c, d together (the longest budget of each), tst minus"
    )


def test_one_model_and_one_seed_are_not_pooled():
    assert compare(runs({"a": 0.0}), ("equal_flops",), "").pooled == ()
    assert compare(runs({"a": 0.0, "b": 0.0}, seeds=1), ("equal_flops",), "").pooled == ()


def test_seeds_that_not_all_models_have_are_left_out():
    table = runs({"a": -0.02, "b": -0.02})
    table = table[~((table["model"] == "b") & (table["seed"] == 2))]
    (found,) = compare(table, ("equal_flops",), "").pooled
    assert found.seeds == (0, 1)
