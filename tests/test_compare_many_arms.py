"""Many arms against one baseline: how often some interval leaves out a truth."""

import numpy as np
import pandas as pd
import pytest

from tst_titan.compare.findings import compare
from tst_titan.compare.many_arms import simultaneous
from tst_titan.compare.paired import equal_flops
from tst_titan.report.words import difference_words


def study(num_arms, seeds, *, draw=0, baseline_noise=1.0, effects=None):
    """Arms whose bag size tells them apart; noise of 0.01, and a shift that a seed's runs have in common."""
    random = np.random.default_rng(draw)
    shift = 0.02 * random.normal(size=seeds)
    effects = np.zeros(num_arms) if effects is None else effects
    rows = [
        {
            "run": f"{arm}-{seed}", "arm": "tst" if arm else "baseline", "model": "m", "bag_size": 1 + arm, "seed": seed,  # noqa: E501
            "step_ratio": 0.3 if arm else 0.0, "steps": 100, "learning_rate": 1e-3, "data_tokens": 1e5, "status": "finished",  # noqa: E501
            "validation_loss": 3 + shift[seed] + (effects[arm - 1] if arm else 0)
            + 0.01 * (1 if arm else baseline_noise) * random.normal(),
        }
        for arm in range(num_arms + 1) for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def leaves_out(interval, truth=0.0):
    return not interval.low <= truth <= interval.high


def wrong(draws, num_arms, seeds, **truth):
    """Share of studies in which some single, and some simultaneous, interval of arms without effect leaves zero out."""
    single = together = 0
    for draw in range(draws):
        items = simultaneous(equal_flops(study(num_arms, seeds, draw=draw, **truth), "validation_loss"))
        single += any(leaves_out(item.interval) for item in items)
        together += any(leaves_out(item.simultaneous) for item in items)
    return single / draws, together / draws


def test_of_24_arms_without_effect_few_studies_find_one():
    single, together = wrong(6, 24, 3)
    assert single >= 0.5
    assert together <= 1 / 6


@pytest.mark.long
@pytest.mark.parametrize("baseline_noise", [0.3, 1.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_family_wise_error_of_24_arms_is_at_most_10_percent(seeds, baseline_noise):
    """Two standard errors of 300 studies allowed. A baseline of little noise makes the differences less alike."""
    assert wrong(300, 24, seeds, baseline_noise=baseline_noise)[1] <= 0.10 + 0.035


def test_an_effect_far_beyond_the_noise_is_still_told_and_said():
    effects = np.zeros(8)
    effects[3] = -0.1
    items = compare(study(8, 3, effects=effects), ("equal_flops",), "").flops
    assert leaves_out(items[3].simultaneous)
    assert not leaves_out(items[3].simultaneous, -0.1)
    assert "For all 8 arms against this baseline together: -0." in difference_words(items[3])
    table = compare(study(8, 3, effects=effects), ("equal_flops",), "").table()
    assert (table["num_arms"] == 8).all()
    assert table["simultaneous_high"][3] == items[3].simultaneous.high < 0


def test_one_arm_has_its_single_interval_alone():
    (item,) = simultaneous(equal_flops(study(1, 3), "validation_loss"))
    assert item.simultaneous is None
    assert "together" not in difference_words(item)


def test_an_arm_that_lacks_a_seed_is_counted_with_the_seeds_that_it_has():
    table = study(4, 4)
    table = table[~((table["bag_size"] == 2) & (table["seed"] == 3))]
    items = simultaneous(equal_flops(table, "validation_loss"))
    widths = [item.simultaneous.high - item.simultaneous.low for item in items]
    assert widths[0] > widths[1] == pytest.approx(widths[2])


def test_single_seeds_have_no_simultaneous_interval():
    assert all(item.simultaneous is None for item in simultaneous(equal_flops(study(4, 1), "validation_loss")))
