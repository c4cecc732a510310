"""The baseline's law: noise that chains of runs share, and laws that do not hold."""

import numpy as np
import pytest

from tst_titan.compare.scaling_law import CannotFitError, fit_scaling
from tst_titan.report.scaling import law_words

SIZES, TOKENS = (1e6, 4e6, 16e6, 64e6), (1e8, 4e8, 16e8, 64e8)


def design(seeds, *, spread=0.0, correlation=0.0, draw=0, varying=0.0, bump=0.0):
    """Exponents .34 and .28, offset 1.7; a seed's runs of one size share part of their noise.

    `varying`: change of the data exponent from one size to the next; `bump`: nats above the law at the third budget.
    """
    random = np.random.default_rng(draw)
    rows = []
    for i, size in enumerate(SIZES):
        common = spread * np.sqrt(correlation) * random.normal(size=seeds)
        for j, tokens in enumerate(TOKENS):
            for seed in range(seeds):
                exponent = 0.28 + varying * (i - 1.5)
                loss = 1.7 + 1.1 * (size / 8e6) ** -0.34 + 1.3 * (tokens / 8e8) ** -exponent
                noise = common[seed] + spread * np.sqrt(1 - correlation) * random.normal()
                rows.append((size, tokens, loss + noise + bump * (j == 2), seed))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def width(interval):
    return interval.high - interval.low


def test_noise_that_a_seeds_runs_share_widens_the_size_exponent_and_not_the_data_exponent():
    """As independent runs the size exponent covered 0.65 of draws at a correlation of 0.8."""
    runs = design(5, spread=0.005, correlation=0.8)
    chains, apart = fit_scaling(*runs, draws=40), fit_scaling(*runs[:3], draws=40)
    assert width(chains.intervals["params_exponent"]) > 1.3 * width(apart.intervals["params_exponent"])
    assert width(chains.intervals["data_exponent"]) < width(apart.intervals["data_exponent"])


def test_one_seed_gives_a_law_without_intervals_and_says_why():
    """Residuals do not show what a size's runs have in common: intervals from them covered 0.32."""
    fit = fit_scaling(*design(1, spread=0.005, correlation=0.8))
    assert all(interval.low is None for interval in fit.intervals.values())
    assert "no intervals: one seed a size: nothing shows the noise that its runs share" in law_words(fit)


@pytest.mark.parametrize("fault", [{"varying": 0.02}, {"bump": 0.03}], ids=["varying exponent", "bump"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_law_that_does_not_hold_is_flagged_and_not_extrapolated(seeds, fault):
    fit = fit_scaling(*design(seeds, spread=0.002, correlation=0.5, **fault), draws=40)
    assert not fit.holds
    assert "This law does not hold over these runs (lack of fit, p = " in law_words(fit)
    assert np.isfinite(fit.loss(np.array([8e6]), np.array([8e8])))
    with pytest.raises(CannotFitError, match="not extrapolated"):
        fit.loss(np.array([512e6]), np.array([8e8]))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_law_that_holds_is_not_flagged(seeds):
    fit = fit_scaling(*design(seeds, spread=0.002, correlation=0.5, draw=2), draws=40)
    assert fit.holds
    assert "does not hold" not in law_words(fit)
    assert np.isfinite(fit.loss(np.array([512e6]), np.array([8e8])))


def test_a_design_without_spare_points_has_no_test_for_lack_of_fit():
    params, data, losses, seeds = design(1, spread=0.002)
    few = (params <= 16e6) & (data <= 16e8)
    assert fit_scaling(params[few][:7], data[few][:7], losses[few][:7], seeds[few][:7]).misfit is None


@pytest.mark.long
@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_coverage_of_exponents_and_false_alarms(seeds, correlation):
    truth = {"params_exponent": 0.34, "data_exponent": 0.28, "offset": 1.7}
    inside, alarms = dict.fromkeys(truth, 0), 0
    for draw in range(100):
        fit = fit_scaling(*design(seeds, spread=0.005, correlation=correlation, draw=draw))
        alarms += not fit.holds
        for name, value in truth.items():
            inside[name] += fit.intervals[name].low <= value <= fit.intervals[name].high
    # 90% of 100 less 2.5 standard errors; 5% and 2.5 of them.
    assert min(inside.values()) >= 82
    assert alarms <= 11
