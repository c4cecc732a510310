"""Comparisons on tables whose truth is known, and on the published numbers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tst_titan.collect.published import LOSS
from tst_titan.compare.equal_loss import equal_loss, invert
from tst_titan.compare.grids import Grid, find_grids
from tst_titan.compare.paired import equal_data, equal_flops
from tst_titan.published import published_grids
from tst_titan.report.published_study import grid_table, read_published, table1_runs
from tst_titan.report.words import difference_words, read_off_words


def within(grid: Grid, tolerance: float) -> list[tuple[float, int]]:
    """Cells at most so much worse than the best one; printed numbers count as the decimals that they show."""
    places = np.argwhere(grid.losses - grid.losses[grid.best] <= tolerance + 1e-9)
    return grid.cells(frozenset((int(row), int(column)) for row, column in places))


def run(arm, steps, seed, loss, *, bag_size=1, step_ratio=0.0, model="m", data_tokens=None, learning_rate=1e-3):
    return {
        "run": f"{model}-{arm}-{steps}-{bag_size}-{step_ratio}-{seed}",
        "arm": arm,
        "model": model,
        "bag_size": bag_size,
        "step_ratio": step_ratio,
        "steps": steps,
        "seed": seed,
        "learning_rate": learning_rate,
        "data_tokens": steps * 1000 if data_tokens is None else data_tokens,
        "validation_loss": loss,
    }


def tst(steps, seed, loss, **changes):
    return run("tst", steps, seed, loss, **{"bag_size": 4, "step_ratio": 0.3, **changes})


def law(steps):
    return 2.0 + 8.0 * steps**-0.25


def test_equal_flops_is_the_mean_difference_with_the_paired_t_interval():
    baseline, arm = [3.10, 3.00, 3.05], [3.02, 2.90, 2.98]
    rows = [run("baseline", 100, seed, loss) for seed, loss in enumerate(baseline)]
    rows += [tst(100, seed, loss) for seed, loss in enumerate(arm)]
    (found,) = equal_flops(pd.DataFrame(rows), "validation_loss")
    differences = np.array(arm) - np.array(baseline)
    expected = stats.ttest_rel(arm, baseline)
    interval = expected.confidence_interval(0.90)
    assert found.value == pytest.approx(differences.mean())
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.paired
    assert "0.0833 nats below the baseline in validation loss (better)" in difference_words(found)
    assert "zero is outside of it" in difference_words(found)


def test_seeds_that_are_not_shared_are_compared_by_welch():
    baseline, arm = [3.10, 3.00, 3.05], [3.12, 3.09, 3.16, 3.11]
    rows = [run("baseline", 100, seed, loss) for seed, loss in enumerate(baseline)]
    rows += [tst(100, 10 + seed, loss) for seed, loss in enumerate(arm)]
    (found,) = equal_flops(pd.DataFrame(rows), "validation_loss")
    expected = stats.ttest_ind(arm, baseline, equal_var=False)
    interval = expected.confidence_interval(0.90)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert "0.0700 nats above the baseline in validation loss (worse)" in difference_words(found)


def test_one_seed_gives_a_difference_without_interval_and_says_why():
    (found,) = equal_flops(pd.DataFrame([run("baseline", 100, 0, 3.0), tst(100, 0, 3.1)]), "validation_loss")
    assert found.value == pytest.approx(0.1)
    assert found.interval.low is None
    assert "No interval: one seed" in difference_words(found)


def test_equal_flops_never_compares_across_models_budgets_or_learning_rates():
    rows = [
        tst(100, 0, 3.0),
        run("baseline", 200, 0, 2.0),
        run("baseline", 100, 0, 2.0, model="other"),
        run("baseline", 100, 0, 2.0, learning_rate=1e-2),
    ]
    assert equal_flops(pd.DataFrame(rows), "validation_loss") == []


def test_equal_data_takes_the_baseline_that_read_as_many_tokens():
    rows = [run("baseline", steps, 0, law(steps)) for steps in (100, 190, 400)] + [
        tst(100, 0, 3.9, data_tokens=190_000)
    ]
    (found,) = equal_data(pd.DataFrame(rows), "validation_loss")
    assert found.baseline_value == law(190)


def test_read_off_inverts_the_stated_law_exactly_where_there_is_no_noise():
    budgets = np.array([1000.0, 2000.0, 4000.0, 8000.0])
    steps, bound = invert(budgets, law(budgets), law(3600.0))
    assert bound == ""
    assert steps == pytest.approx(3600, rel=1e-3)


def test_read_off_beyond_the_budgets_is_a_bound():
    budgets = np.array([1000.0, 2000.0, 4000.0])
    assert invert(budgets, law(budgets), law(4100.0)) == (4000.0, "at least")
    assert invert(budgets, law(budgets), law(900.0)) == (1000.0, "at most")
    assert invert(np.array([1000.0]), np.array([3.0]), 2.9) == (1000.0, "at least")


def test_a_baseline_that_got_worse_with_its_budget_bends_no_curve():
    """No running minimum: the middle budget's bad luck moves the fit a little, it does not hide the last budget."""
    budgets = np.array([1000.0, 2000.0, 4000.0, 8000.0])
    losses = law(budgets) + np.array([0, 0.02, 0, 0])
    steps, bound = invert(budgets, losses, law(3600.0))
    assert bound == ""
    assert 3300 < steps < 4200


@pytest.mark.parametrize(("seeds", "shared"), [(3, 1.0), (5, 0.0)])
def test_interval_covers_the_true_speedup_in_85_to_95_percent_of_400_draws(seeds, shared):
    """Truth: 1.8 times. Noise of 0.004 nats a run, with and without noise that a seed's runs share."""
    covered = 0
    for draw in range(400):
        random = np.random.default_rng((draw, seeds))
        common = shared * 0.004 * random.normal(size=seeds)

        def noisy(loss, seed, random=random, common=common):
            return loss + common[seed] + 0.004 * random.normal()

        rows = [
            run("baseline", steps, seed, noisy(law(steps), seed))
            for steps in (1000, 2000, 4000, 8000)
            for seed in range(seeds)
        ]
        rows += [tst(2000, seed, noisy(law(3600), seed)) for seed in range(seeds)]
        (found,) = equal_loss(pd.DataFrame(rows), "validation_loss", draws=600)
        covered += found.interval.low <= 1.8 <= found.interval.high
    assert 0.85 <= covered / 400 <= 0.95


def test_interval_is_one_sided_where_the_baseline_may_never_reach_the_loss():
    random = np.random.default_rng(0)
    rows = [
        run("baseline", steps, seed, law(steps) + 0.01 * random.normal())
        for steps in (1000, 2000, 4000)
        for seed in range(3)
    ]
    rows += [tst(2000, seed, law(3900) + 0.01 * random.normal()) for seed in range(3)]
    (found,) = equal_loss(pd.DataFrame(rows), "validation_loss")
    assert found.interval.high == math.inf
    assert 1 < found.interval.low < 2
    assert "one-sided, above" in read_off_words(found)


def test_published_equal_loss_speedups():
    found = {(item.model, item.steps): item for item in read_published().loss}
    assert found["3B", 20000].bound == ""
    assert 1.75 < found["3B", 20000].speedup < 1.90
    moe = found["10B-A1B", 49983]
    assert moe.bound == "at least"
    assert moe.speedup == pytest.approx(125000 / 49983)
    assert moe.speedup >= 2.50
    assert "at least 2.50x (a bound, not a measurement)" in read_off_words(moe)


def test_published_table_keeps_what_was_not_printed_missing():
    table = table1_runs()
    assert len(table) == 13
    assert table["seed"].isna().all()
    assert table["flops"].isna().all()
    ablation = table[table["arm"] == "tst_reinit_embeddings"].iloc[0]
    assert pd.isna(ablation["average"])
    baseline = table[(table["model"] == "270M") & (table["arm"] == "baseline") & (table["steps"] == 20000)].iloc[0]
    assert baseline["average"] == pytest.approx((36.3 + 46.7 + 24.9 + 56.7 + 29.2 + 66.4 + 51.3) / 7)


def test_published_best_cells():
    best = {grid.name: (grid.best_cell, grid.best_value) for grid in find_grids(grid_table(LOSS), LOSS)}
    assert best == {
        "270M, 20000 steps, uniform": ((0.3, 7), 3.1392),
        "270M, 100000 steps, uniform": ((0.3, 5), 3.0459),
        "600M, 20000 steps, uniform": ((0.2, 8), 2.9434),
        "600M, 20000 steps, power_law": ((0.2, 10), 2.9434),
    }


def test_published_flat_region_of_270m_20k_agrees_with_a_plain_filter():
    cells = [c for c in published_grids() if (c.setting, c.metric) == ("270M-20k", LOSS) and c.step_ratio > 0]
    best = min(round(cell.value * 10000) for cell in cells)
    expected = sorted((cell.step_ratio, cell.bag_size) for cell in cells if round(cell.value * 10000) - best <= 20)
    (grid,) = [grid for grid in find_grids(grid_table(LOSS), LOSS) if grid.name.startswith("270M, 20000")]
    assert within(grid, 0.002) == expected
    assert grid.indistinguishable() is None


def test_grid_keeps_the_truly_best_cell_and_drops_those_far_off():
    """Spread 0.004, three seeds: cells 0.05 worse are told apart, one 0.001 worse is not."""
    truth = {(4, 0.2): 3.000, (6, 0.2): 3.001, (8, 0.2): 3.05, (4, 0.4): 3.05, (6, 0.4): 3.06, (8, 0.4): 3.07}
    kept = 0
    for draw in range(40):
        random = np.random.default_rng(draw)
        rows = [
            tst(100, seed, loss + 0.004 * random.normal(), bag_size=size, step_ratio=ratio)
            for (size, ratio), loss in truth.items()
            for seed in range(3)
        ]
        (grid,) = find_grids(pd.DataFrame(rows), "validation_loss")
        same = grid.cells(grid.indistinguishable())
        kept += (0.2, 4) in same
        assert set(same) <= {(0.2, 4), (0.2, 6)}
    assert kept >= 37


def test_scores_have_their_best_cell_at_the_top():
    rows = [tst(100, 0, score, bag_size=size) for size, score in ((2, 0.30), (4, 0.35), (8, 0.31))]
    (grid,) = find_grids(pd.DataFrame(rows), "validation_loss", lower_is_better=False)
    assert grid.best_cell == (0.3, 4)
