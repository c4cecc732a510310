"""Settings recommended for sizes that were not run: right where the truth is known, refused where it cannot be told."""

import re

import numpy as np
import pandas as pd
import pytest
from collect_support import STUDY, fill_results, make_plan

from tst_titan.cli import main
from tst_titan.collect.published import LOSS
from tst_titan.compare.scaling_law import CannotFitError
from tst_titan.compare.settings import setting_trend
from tst_titan.report.published_study import grid_table
from tst_titan.report.recommended import known_sizes
from tst_titan.report.scaling import model_sizes
from tst_titan.report.study import collect_study

SIZES = {"a": 1e6, "b": 4e6, "c": 16e6, "d": 64e6}
BAGS, RATIOS = (2, 3, 4, 6, 8, 12, 16), (0.1, 0.2, 0.3, 0.4, 0.5)


def truth(params):
    """Best bag size 4 at 1M and growing, best step ratio 0.35 and falling."""
    return 4 * (params / 1e6) ** 0.12, 0.35 - 0.02 * np.log(params / 1e6)


def surface(params, bag_size, step_ratio):
    """No parabola: it rises faster towards large bags."""
    size, ratio = truth(params)
    x, y = np.log(bag_size / size), step_ratio - ratio
    return 3 + 0.05 * x**2 + 0.4 * y**2 + 0.05 * x * y + 0.005 * np.abs(x) ** 3


def grids(models, noise=0.002, seed=0, bags=BAGS, ratios=RATIOS, loss=surface):
    random = np.random.default_rng(seed)
    rows = [
        {
            "run": f"{model}-{size}-{ratio}-{run_seed}", "arm": "tst", "model": model, "steps": 1000, "bag_size": size,
            "step_ratio": ratio, "seed": run_seed, "learning_rate": 1e-3,
            "loss": loss(SIZES[model], size, ratio) + noise * random.normal(),
        }
        for model in models for size in bags for ratio in ratios for run_seed in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_truth_of_a_new_size_lies_in_the_interval():
    """Conservative at three and four sizes: with few sizes the t distribution is wide."""
    inside = np.zeros(2)
    for draw in range(20):
        found = setting_trend(grids("abcd", seed=draw), "loss", SIZES).at(256e6)
        size, ratio = truth(256e6)
        inside += [
            found.bag_size_interval.low <= size <= found.bag_size_interval.high,
            found.step_ratio_interval.low <= ratio <= found.step_ratio_interval.high,
        ]
        assert found.bag_size == pytest.approx(size, rel=0.25)
        assert found.bag_size_interval.high / found.bag_size_interval.low < 2.5
    assert (inside >= 17).all()


def test_extrapolation_is_less_certain_than_what_lies_between():
    trend = setting_trend(grids("abcd"), "loss", SIZES)

    def width(params):
        interval = trend.at(params).bag_size_interval
        return np.log(interval.high / interval.low)

    assert width(8e6) < width(256e6) < width(16e9)


def test_a_setting_beyond_what_was_run_is_said_to_be():
    assert setting_trend(grids("abcd"), "loss", SIZES).at(1e13).outside.startswith("bag sizes were run from 2 to 16")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (grids("ab"), "grids at 2 sizes for the same number of steps"),
        (grids("abc", bags=(2, 16)), "2 bag sizes: at least 3"),
        (grids("abc", ratios=(0.3,)), "1 step ratios: at least 3"),
        (grids("abc", loss=lambda n, s, r: 3 - 0.1 * np.log(s) + (r - 0.3) ** 2), "no minimum inside"),
        (grids("abc", noise=0.2), "grid of .* (too flat for its noise|no minimum inside)"),
        (grids("abc").query("bag_size == 2"), "no grid of bag sizes and step ratios was run"),
    ],
    ids=["two sizes", "two bag sizes", "one step ratio", "best at the border", "noise", "no grid"],
)
def test_what_the_design_cannot_tell_is_refused_with_the_reason(table, reason):
    with pytest.raises(CannotFitError, match=reason):
        setting_trend(table, "loss", SIZES)


def test_the_published_grids_have_two_sizes_and_recommend_nothing():
    table = grid_table(LOSS)
    with pytest.raises(CannotFitError, match=r"2 sizes for the same number of steps \(20000\)"):
        setting_trend(table[table["bag_weighting"] == "uniform"], LOSS, known_sizes())


def test_a_study_recommends_in_its_report_and_on_the_command_line(tmp_path, capsys):
    text = STUDY.replace("models: 2M", "models: [0.5M, 1M, 2M]").replace(
        "{bag_size: 4, step_ratio: 0.3}", "{bag_size: [2, 4, 8, 16], step_ratio: [0.1, 0.2, 0.3, 0.4]}"
    )
    plan = make_plan(tmp_path, text, name="sizes")
    sizes = model_sizes(plan)

    def loss(segment, step):
        bags = segment.stages[0].bag_size
        ratio = segment.stages[0].end_step / 1200 if bags > 1 else 0.0
        params = sizes[segment.recipe.model.name]
        best = np.log(4 * (params / 1e5) ** 0.1)
        level = 0.05 * (np.log(bags) - best) ** 2 + 0.4 * (ratio - 0.25) ** 2 if bags > 1 else 0.2
        random = np.random.default_rng([int(params), bags, int(100 * ratio)])
        return 3 + level + 0 * step + 0.001 * random.normal()

    fill_results(plan, tmp_path / "results", loss=loss, log_every=100, validate_every=1200)
    collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    assert "For 4M (" in (tmp_path / "out" / "report.html").read_text()
    assert "Best bag size by size, 1200 steps" in (tmp_path / "out" / "scaling.svg").read_text()
    arguments = ["--results", str(tmp_path / "results")]
    assert main(["recommend", str(plan.file), "4M", *arguments]) == 0
    said = capsys.readouterr().out
    assert said.startswith("For 4M (")
    # Truth: 4 * (2.36M / 0.1M) ** 0.1.
    assert float(re.search(r"bag size \d+ \(([\d.]+);", said)[1]) == pytest.approx(5.5, abs=0.4)
    assert main(["recommend", str(plan.file), "30 MB", *arguments]) == 2
    assert "30 MB: no such model; write one of" in capsys.readouterr().err
