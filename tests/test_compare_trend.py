"""The speedup's trend with size: weights, bounds, and forms that few sizes do not tell apart."""

import numpy as np
import pytest

from tst_titan.compare.scaling_law import CannotFitError
from tst_titan.compare.trend import FARTHEST, speedup_trend
from tst_titan.report.scaling import trend_words


def linear(params):
    return 1.5 * (params / 8e6) ** 0.1


def saturating(params):
    return np.exp(0.8 * (1 - (params / 1e6) ** -0.5) + 0.1)


def measured(truth, num_sizes, draw, error=0.03):
    """Sizes fourfold apart from 1M, errors that differ threefold."""
    random = np.random.default_rng(draw)
    params = 1e6 * 4.0 ** np.arange(num_sizes)
    errors = error * np.exp(random.uniform(-0.6, 0.6, num_sizes))
    return params, truth(params) * np.exp(errors * random.normal(size=num_sizes)), errors


def covered(truth, num_sizes, draws, error=0.03):
    inside = 0
    for draw in range(draws):
        params, speedups, errors = measured(truth, num_sizes, draw, error)
        _, interval = speedup_trend(params, speedups, errors).at(4 * params[-1])
        inside += interval.low <= truth(4 * params[-1]) <= interval.high
    return inside / draws


def nearly_straight(params):
    """Of small read-off errors the straight line's interval covered it in 0.15 of draws, eight times beyond six
    sizes."""
    return np.exp(0.8 * (1 - (params / 5e5) ** -0.15))


@pytest.mark.parametrize("truth", [linear, nearly_straight, saturating])
@pytest.mark.parametrize("num_sizes", [3, 4, 6])
def test_the_truth_of_a_larger_size_is_covered_whichever_form_it_has(truth, num_sizes):
    assert covered(truth, num_sizes, 20) >= 0.85


@pytest.mark.long
@pytest.mark.parametrize("truth", [linear, nearly_straight, saturating])
@pytest.mark.parametrize("num_sizes", [3, 4, 6])
@pytest.mark.parametrize("error", [0.005, 0.05])
def test_coverage_of_both_forms(truth, num_sizes, error):
    assert covered(truth, num_sizes, 300, error) >= 0.85


def test_a_form_that_the_speedups_contradict_has_no_say():
    params, speedups, errors = measured(saturating, 5, 0, error=0.005)
    trend = speedup_trend(params, speedups, errors)
    assert trend.contradicted == ("linear",)
    value, interval = trend.at(4 * params[-1])
    assert value == pytest.approx(saturating(4 * params[-1]), rel=0.05)
    assert (value, interval) == trend.saturating_at(4 * params[-1])
    assert trend_words("tst", trend, 0).endswith("The linear form is contradicted.")


def test_an_uncertain_size_counts_less():
    params = 1e6 * 4.0 ** np.arange(4)
    speedups = linear(params) * np.array([1, 1, 1, 1.5])
    sure, unsure = (speedup_trend(params, speedups, np.array([0.02, 0.02, 0.02, last])) for last in (0.02, 0.4))
    assert abs(unsure.slope - 0.1) < 0.02 < abs(sure.slope - 0.1)


def test_a_bound_pulls_only_where_the_trend_falls_short_of_it():
    """Three sizes measured without a slope; at the fourth the speedup is at least what is said."""
    params, errors = 1e6 * 4.0 ** np.arange(4), np.full(4, 0.05)

    def slope(value, bound):
        return speedup_trend(params, np.array([1.5, 1.52, 1.48, value]), errors, ["", "", "", bound]).slope

    without = speedup_trend(params[:3], np.array([1.5, 1.52, 1.48]), errors[:3]).slope
    assert slope(1.1, "at least") == pytest.approx(without, abs=0.005)
    assert slope(2.5, "at least") > without + 0.05
    assert slope(2.5, "at most") == pytest.approx(without, abs=0.005)
    assert slope(1.1, "at most") < without - 0.05


def test_nothing_is_predicted_far_from_what_was_measured():
    trend = speedup_trend(*measured(linear, 4, 0))
    trend.at(FARTHEST * 64e6)
    with pytest.raises(CannotFitError, match="sizes up to 8 times"):
        trend.at(1.01 * FARTHEST * 64e6)


def test_bounds_alone_are_no_trend():
    params = 1e6 * 4.0 ** np.arange(4)
    with pytest.raises(CannotFitError, match="measured speedups at 2 sizes"):
        speedup_trend(params, linear(params), None, ["", "", "at least", "at least"])
