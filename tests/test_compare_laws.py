"""A scaling law is fitted to the baselines of one recipe, in one text and one unit, and says what N counts."""

import math
import re

import numpy as np
import pytest
from compare_tables import planned, table_of

from tst_titan.compare.findings import Findings
from tst_titan.compare.laws import LawRuns, Unfit, law_runs
from tst_titan.compare.scaling_law import fit_scaling
from tst_titan.plan import Plan
from tst_titan.report.scaling import model_sizes, scaling_charts

STEPS = "[500, 1000, 2000, 4000]"
MODELS = "models: [0.5M, 1M, 2M]"
OTHER = "{source: python-stdlib, tokenizer: bpe-2048, validation_tokens: 200k}"


def study(tmp_path, arms="{baseline: {}}", models=MODELS, **changes) -> Plan:
    return planned(tmp_path, arms, steps=STEPS, change=lambda text: text.replace("models: 2M", models), **changes)


def law_of(plan: Plan, rates: dict[float, float]):
    """L = 1.7 + (N / 1e5)^-.3 + (D / 4e6)^-.35, `rates` worse by the learning rate, exact."""
    sizes = model_sizes(plan)

    def loss(run):
        data = run.data_tokens / 4e6
        return 1.7 + (sizes[run.model] / 1e5) ** -0.3 + data**-0.35 + rates.get(run.learning_rate, 0.0)

    return loss


def test_each_learning_rate_of_all_sizes_has_its_own_law(tmp_path):
    """Pooled, their distance became noise of one law: its offset was wrong and its interval ten times as wide."""
    plan = study(tmp_path, training="learning_rate: [1e-3, 3e-3]")
    table = table_of(plan, law_of(plan, {1e-3: 0.12}))
    first, second = law_runs(table, "validation_loss", model_sizes(plan))
    assert (first.name, second.name) == ("lr=0.001", "lr=0.003")
    for runs, offset in ((first, 1.82), (second, 1.70)):
        fit = fit_scaling(runs.params, runs.data, runs.losses, draws=5)
        assert fit.offset == pytest.approx(offset, abs=0.02)
        assert np.abs(fit.residuals).max() < 1e-3


def test_a_second_plain_arm_has_a_law_of_its_own(tmp_path):
    plan = study(tmp_path, "{baseline: {}, heavy: {weight_decay: 0.2}}")
    found = law_runs(table_of(plan), "validation_loss", model_sizes(plan))
    assert [runs.name for runs in found] == ["wd=0.1", "wd=0.2"]
    assert [set(runs.rows["arm"]) for runs in found] == [{"baseline"}, {"heavy"}]


def test_rates_that_are_each_sizes_own_are_one_law(tmp_path):
    models = "models: {0.5M: {learning_rate: 4e-3}, 1M: {learning_rate: 3e-3}, 2M: {learning_rate: 2e-3}}"
    plan = study(tmp_path, models=models)
    (runs,) = law_runs(table_of(plan), "validation_loss", model_sizes(plan))
    assert len(runs.rows) == 3 * 4 * 2
    assert runs.remark == runs.name == ""


def test_of_rates_that_no_two_sizes_share_the_best_of_each_size_is_taken_and_said(tmp_path):
    models = (
        "models: {0.5M: {learning_rate: [4e-3, 8e-3]}, 1M: {learning_rate: [3e-3, 6e-3]}, 2M: {learning_rate: [1e-3, "
        "2e-3]}}"
    )
    plan = study(tmp_path, models=models)
    (runs,) = law_runs(
        table_of(plan, law_of(plan, {4e-3: 0.1, 6e-3: 0.2, 1e-3: 0.1})), "validation_loss", model_sizes(plan)
    )
    assert dict(runs.rows.groupby("model")["learning_rate"].unique().map(list)) == {
        "0.5M": [8e-3],
        "1M": [3e-3],
        "2M": [2e-3],
    }
    assert runs.remark.endswith("ends lowest (0.5M lr=0.008, 1M lr=0.003, 2M lr=0.002)")


def test_a_recipe_that_some_sizes_lack_is_left_out_and_said(tmp_path):
    plan = study(tmp_path, "{baseline: {}, heavy: {weight_decay: 0.2, models: [1M]}}")
    law, left_out = law_runs(table_of(plan), "validation_loss", model_sizes(plan))
    assert isinstance(law, LawRuns)
    assert set(law.rows["arm"]) == {"baseline"}
    assert left_out == Unfit("wd=0.2", "not all sizes have this recipe")


def test_two_tokenizers_are_compared_in_bits_a_byte_or_refused(tmp_path):
    plan = study(tmp_path, models=f"models: {{0.5M: {{}}, 1M: {{}}, 2M: {{corpus: {OTHER}}}}}")
    table = table_of(plan)
    (refused,) = law_runs(table, "validation_loss", model_sizes(plan))
    assert "several tokenizers (bpe-4096 and bpe-2048): nats a token of one are not those of another" in refused.reason
    small = table["tokenizer"] == "bpe-2048"
    known = table.assign(
        bytes_per_token=small.map({True: 3.0, False: 3.5}),
        held_out_bytes_per_token=small.map({True: 2.9, False: 3.4}),
    )
    (runs,) = law_runs(known, "validation_loss", model_sizes(plan))
    assert runs.loss_unit == "bits a byte"
    of_2M = (runs.rows["model"] == "2M").to_numpy()
    nats, tokens = (runs.rows[name].to_numpy(dtype=float) for name in ("validation_loss", "data_tokens"))
    assert runs.losses[of_2M] == pytest.approx(nats[of_2M] / 2.9 / math.log(2))
    assert runs.losses[~of_2M] == pytest.approx(nats[~of_2M] / 3.4 / math.log(2))
    assert runs.data[of_2M] == pytest.approx(tokens[of_2M] * 3.0)
    assert "the loss is in bits a byte and D in bytes" in runs.remark


def test_two_texts_are_refused(tmp_path):
    other = OTHER.replace("source: python-stdlib", "source: dclm").replace("bpe-2048", "bpe-4096")
    plan = study(tmp_path, models=f"models: {{0.5M: {{}}, 1M: {{}}, 2M: {{corpus: {other}}}}}")
    table = table_of(plan).assign(bytes_per_token=3.0, held_out_bytes_per_token=3.0)
    (refused,) = law_runs(table, "validation_loss", model_sizes(plan))
    assert "several corpora" in refused.reason
    _, notes = scaling_charts(table, "validation_loss", Findings("validation_loss"), model_sizes(plan))
    assert notes == [f"The baseline's scaling law was not fitted: {refused.reason}."]


def test_the_report_says_what_n_counts_and_gives_the_exponent_with_the_head(tmp_path):
    """The head is half of the smallest size's FLOPs: leaving it out or not moves the exponent."""
    plan = study(tmp_path, training="learning_rate: [1e-3, 3e-3]")
    table = table_of(plan, law_of(plan, {1e-3: 0.12}))
    charts, notes = scaling_charts(table, "validation_loss", Findings("validation_loss"), model_sizes(plan))
    assert [note.partition(":")[0] for note in notes] == ["Baseline (lr=0.001)", "Baseline (lr=0.003)"]
    assert [chart.title for chart in charts[::2]] == [
        "Baseline loss by data and size: lr=0.001",
        "Baseline loss by data and size: lr=0.003",
    ]
    (runs, _) = law_runs(table, "validation_loss", model_sizes(plan))
    with_head = fit_scaling(runs.with_head, runs.data, runs.losses, draws=5)
    without, told = re.search(r"M\)\^-([\d.]+) .*the size exponent is ([\d.]+)", notes[0].replace("k)", "M)")).groups()
    assert "N is active parameters without embedding and head; with the head" in notes[0]
    assert float(told) == pytest.approx(with_head.params_exponent, abs=1e-3)
    assert float(told) > float(without) + 0.02
