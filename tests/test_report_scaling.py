"""Scaling fits on laws that are known, and refusals of designs that cannot tell."""

import html
import re

import numpy as np
import pytest
from collect_support import STUDY, fill_results, make_plan

from tst_titan.compare.scaling_law import CannotFitError, fit_scaling
from tst_titan.compare.trend import speedup_trend
from tst_titan.report.scaling import model_sizes, scaling_charts
from tst_titan.report.study import collect_study

TRUTH = {"params_exponent": 0.34, "data_exponent": 0.28, "offset": 1.7}


def design(num_seeds, noise, seed, sizes=(1e6, 4e6, 16e6, 64e6), tokens=(1e8, 4e8, 16e8, 64e8)):
    random = np.random.default_rng(seed)
    params, data, losses = [], [], []
    for n in sizes:
        for d in tokens:
            for _ in range(num_seeds):
                params.append(n)
                data.append(d)
                losses.append(1.7 + 1.1 * (n / 8e6) ** -0.34 + 1.3 * (d / 8e8) ** -0.28 + noise * random.normal())
    return np.array(params), np.array(data), np.array(losses)


def test_noiseless_law_is_recovered():
    fit = fit_scaling(*design(1, 0.0, 0), draws=2)
    assert fit.params_exponent == pytest.approx(0.34, abs=2e-3)
    assert fit.data_exponent == pytest.approx(0.28, abs=2e-3)
    assert fit.offset == pytest.approx(1.7, abs=1e-2)
    assert np.abs(fit.residuals).max() < 1e-4
    assert fit.loss(np.array([8e6]), np.array([8e8])) == pytest.approx(4.1, abs=1e-4)


def test_exponents_have_no_bias_beyond_their_standard_error_and_intervals_cover():
    fits = [fit_scaling(*design(3, 0.003, seed), draws=40) for seed in range(24)]
    for name, truth in TRUTH.items():
        found = np.array([getattr(fit, name) for fit in fits])
        assert abs(found.mean() - truth) < found.std(ddof=1)
        covered = sum(fit.intervals[name].low <= truth <= fit.intervals[name].high for fit in fits)
        # 90% of 24 is 21.6; fewer than 17 has probability below 0.5%.
        assert covered >= 17


@pytest.mark.parametrize(
    ("sizes", "tokens", "reason"),
    [
        ((1e6, 4e6), (1e8, 4e8, 16e8), "2 model sizes: at least 3"),
        ((1e6, 4e6, 16e6), (1e8, 4e8), "2 numbers of data tokens: at least 3"),
    ],
)
def test_too_small_designs_are_refused_with_the_reason(sizes, tokens, reason):
    with pytest.raises(CannotFitError, match=reason):
        fit_scaling(*design(2, 0.001, 0, sizes, tokens))


def test_data_that_grows_with_size_in_every_run_is_refused():
    sizes = np.geomspace(1e6, 64e6, 7)
    with pytest.raises(CannotFitError, match="grow together"):
        fit_scaling(sizes, 20 * sizes, 1.7 + sizes**-0.3)


def test_losses_without_a_size_effect_are_refused():
    params, data, _ = design(1, 0.0, 0)
    with pytest.raises(CannotFitError, match="do not show both terms"):
        fit_scaling(params, data, 2 + (data / 8e8) ** -0.3)


def test_speedup_trend_and_its_prediction():
    params = np.array([1e6, 4e6, 16e6, 64e6])
    random = np.random.default_rng(1)
    trend = speedup_trend(params, 1.5 * (params / 8e6) ** 0.1 * np.exp(0.01 * random.normal(size=4)))
    assert trend.slope_interval.low < 0.1 < trend.slope_interval.high
    value, interval = trend.at(256e6)
    truth = 1.5 * 32**0.1
    assert interval.low < truth < interval.high
    assert value == pytest.approx(truth, rel=0.05)
    with pytest.raises(CannotFitError, match="at 2 sizes"):
        speedup_trend(params[:2], np.array([1.5, 1.6]))


SCALING_STUDY = (
    STUDY.replace("models: 2M", "models: [0.5M, 1M, 2M]")
    .replace("steps: 1200", "steps: [600, 1200, 2400]\nseeds: [0, 1]\ncompare: [equal_flops, equal_loss]")
    .replace("log_every: 10", "log_every: 50")
)


def test_a_study_of_three_sizes_reports_its_law_and_its_speedups_trend(tmp_path):
    """Truth: data exponent 0.35, speedup of 1.6 at 100k parameters that grows as size to the power 0.1."""
    plan = make_plan(tmp_path, SCALING_STUDY, name="sizes")
    sizes = model_sizes(plan)

    def loss(segment, step):
        params = sizes[segment.recipe.model.name]
        gain = 1.6 * (params / 1e5) ** 0.1 if segment.stages[0].name == "superposition" else 1.0
        random = np.random.default_rng([segment.recipe.seed, segment.end_step, int(params), round(10 * gain)])
        noise = 0.001 * random.normal(size=len(step))
        return 1.8 + (params / 1e5) ** -0.3 + 1.6 * (step * gain / 1000) ** -0.35 + noise

    fill_results(plan, tmp_path / "results", loss=loss, log_every=50)
    found, findings = collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    _, notes = scaling_charts(found.table, "validation_loss", findings, sizes)
    law, trend = notes
    assert law.startswith("Baseline: loss = ")
    assert float(re.search(r"M\)\^-([\d.]+);", law)[1]) == pytest.approx(0.35, abs=0.05)
    assert float(re.search(r"power \+([\d.]+)", trend)[1]) == pytest.approx(0.1, abs=0.03)
    assert law in html.unescape((tmp_path / "out" / "report.html").read_text())
    assert (tmp_path / "out" / "scaling.svg").exists()


def test_a_study_of_two_sizes_says_why_there_is_no_law(tmp_path):
    plan = make_plan(tmp_path, SCALING_STUDY.replace("[0.5M, 1M, 2M]", "[0.5M, 1M]"), name="sizes")
    fill_results(plan, tmp_path / "results", log_every=50)
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    assert "The baseline's scaling law was not fitted: 2 model sizes: at least 3 are needed." in page
