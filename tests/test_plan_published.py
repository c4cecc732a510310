"""The published studies: their runs are the published ones, and so are their tokens and the ratios of their costs."""

from pathlib import Path

import pytest
from checkouts import copy_checkout, published_studies

from tst_titan.plan import Plan, load_plans
from tst_titan.published import PublishedRun, published_grids, published_table1
from tst_titan.study import catalogue

METHODS = {
    "baseline": "baseline",
    "tst": "tst",
    "tst-moe": "tst",
    "tst-reinit": "tst_reinit_embeddings",
}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    plans, errors = load_plans(folder / "studies", folder / "results")
    assert not errors
    return plans


def rows_beside_runs(plan: Plan) -> list[tuple[PublishedRun, object]]:
    pairs = []
    for row in published_table1():
        runs = [
            run
            for run in plan.runs
            if (run.model, run.steps, METHODS[run.arm]) == (row.model, row.total_steps, row.method)
            and (run.superposition_steps or None, run.bag_size) == (row.tst_steps, row.bag_size or 1)
        ]
        assert len(runs) == 1, row
        pairs.append((row, runs[0]))
    return pairs


def test_scaling_is_table_1_row_by_row(plans: dict[str, Plan]) -> None:
    assert len(rows_beside_runs(plans["scaling"])) == len(plans["scaling"].runs) == 13
    for row, run in rows_beside_runs(plans["scaling"]):
        assert run.learning_rate == catalogue.MODELS[row.model]["learning_rate"]


def test_data_tokens_are_table_1s_within_its_rounding(plans: dict[str, Plan]) -> None:
    for row, run in rows_beside_runs(plans["scaling"]):
        assert run.data_tokens / 1e9 == pytest.approx(row.total_data_tokens_b, rel=0.015), run.run
        if row.tst_data_tokens_b is not None:
            superposition = plans["scaling"].segments[run.final].data_tokens_at(run.superposition_steps)
            assert superposition / 1e9 == pytest.approx(row.tst_data_tokens_b, rel=0.015), run.run


def test_flops_keep_the_ratio_of_the_published_hours_within_each_model(plans: dict[str, Plan]) -> None:
    pairs = rows_beside_runs(plans["scaling"])
    for model in ("270M", "600M", "3B", "10B-A1B"):
        per_hour = [run.flops / row.b200_hours for row, run in pairs if row.model == model]
        assert max(per_hour) / min(per_hour) < 1.05, model


def test_the_arithmetic_of_the_method(plans: dict[str, Plan]) -> None:
    """3B, s = 6, 6000 of 20000 steps: 75.5B + 29.4B = 104.9B. MoE, s = 16, 12483 of 49983: 1.68T + 0.31T."""
    by_name = {run.run: run for run in plans["scaling"].runs}
    dense = by_name["3B-tst-s6-r0.3-20000-seed0"]
    assert dense.data_tokens == 6000 * 2**21 * 6 + 14000 * 2**21
    moe = by_name["10B-A1B-tst-moe-s16-12483of49983-seed0"]
    assert moe.data_tokens == 12483 * 2**23 * 16 + 37500 * 2**23
    assert moe.equivalent_tokens == 49983 * 2**23


@pytest.mark.parametrize(
    ("study", "setting", "weighting"),
    [
        ("grid-270m-20k", "270M-20k", "uniform"),
        ("grid-270m-100k", "270M-100k", "uniform"),
        ("grid-600m-20k", "600M-20k", "uniform"),
        ("grid-600m-20k-power-law", "600M-20k", "power_law"),
    ],
)
def test_every_printed_cell_of_a_grid_has_its_run(
    plans: dict[str, Plan], study: str, setting: str, weighting: str
) -> None:
    printed = {
        (cell.step_ratio, cell.bag_size)
        for cell in published_grids()
        if (cell.setting, cell.bag_weighting) == (setting, weighting) and cell.step_ratio < 1
    }
    planned = {(run.step_ratio, run.bag_size) for run in plans[study].runs}
    assert printed <= planned
    assert planned == {(0.0, 1)} | {
        (tenths / 10, bag) for tenths in range(1, 10) for bag in range(2, max(printed, key=lambda c: c[1])[1] + 1)
    }
    assert {run.bag_weighting for run in plans[study].runs if run.bag_size > 1} == {weighting}


def test_sharing_saves_what_was_promised(plans: dict[str, Plan], tmp_path: Path) -> None:
    def saved(plan: Plan) -> float:
        return 1 - plan.flops_with_sharing / plan.flops_without_sharing

    for name in ("grid-270m-20k", "grid-270m-100k", "grid-600m-20k", "grid-600m-20k-power-law"):
        assert saved(plans[name]) > 0.35, name
    baselines = [run for run in plans["scaling"].runs if (run.model, run.arm) == ("3B", "baseline")]
    jobs = {id for run in baselines for id in run.segments}
    steps = sum(plans["scaling"].segments[id].end_step - plans["scaling"].segments[id].start_step for id in jobs)
    assert 1 - steps / sum(run.steps for run in baselines) > 0.45


def test_studies_share_across_files(plans: dict[str, Plan]) -> None:
    """The 100,000-step grid goes on from the 20,000-step one; both 600M grids have one baseline; Table 2 is in Table
    1."""
    assert set(plans["grid-270m-20k"].segments) & set(plans["grid-270m-100k"].segments)
    baselines = [
        {run.final for run in plans[name].runs if run.arm == "baseline"}
        for name in ("grid-600m-20k", "grid-600m-20k-power-law", "weighting")
    ]
    assert baselines[0] == baselines[1] == baselines[2]
    assert {run.final for run in plans["reinit-ablation"].runs} <= {run.final for run in plans["scaling"].runs}


def test_the_published_tables_are_whole_and_missing_is_missing() -> None:
    rows, cells = published_table1(), published_grids()
    assert (len(rows), len(cells)) == (13, 637)
    assert rows[0].bag_size is None
    assert rows[0].mmlu is None
    assert rows[9] == max(
        (row for row in rows if row.method == "tst" and row.model == "3B"), key=lambda row: row.total_steps
    )
    assert (rows[9].final_train_loss, rows[9].b200_hours, rows[9].openbookqa) == (2.676, 247.0, 42.0)
    best = min((c for c in cells if (c.setting, c.metric) == ("270M-20k", "final_train_loss")), key=lambda c: c.value)
    assert best.value < 3.2124


def test_tiny_scaling_has_the_shape_of_scaling(plans: dict[str, Plan]) -> None:
    plan = plans["tiny-scaling"]
    assert len({run.model for run in plan.runs}) >= 3
    assert {run.arm for run in plan.runs} == {"baseline", "tst"}
    assert {run.seed for run in plan.runs} == {0, 1, 2}
    assert set(plan.compare) == {"equal_flops", "equal_loss", "equal_data"}
    for model in {run.model for run in plan.runs}:
        longest = max(run.data_tokens for run in plan.runs if (run.model, run.arm) == (model, "baseline"))
        tst = next(run.data_tokens for run in plan.runs if (run.model, run.arm) == (model, "tst"))
        assert longest == pytest.approx(tst, rel=0.01)


def test_every_study_says_what_it_restates() -> None:
    for file in published_studies():
        header = file.read_text().split("\n")[0]
        assert header.startswith("# "), file
        if file.stem != "quickstart":
            assert "arXiv 2605.06546" in file.read_text().split("\ncorpus:")[0].split("\nextends:")[0], file
