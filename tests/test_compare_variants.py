"""A variant is its whole recipe: what differs in any field is no seed of the other, and is compared with what differs
in nothing else."""

from dataclasses import replace

import pandas as pd
import pytest
from collect_support import STUDY, fill_results, make_plan
from compare_tables import planned, table_of

from tst_titan.collect.recipe import RECIPE_COLUMNS
from tst_titan.collect.tables import RUN_COLUMNS
from tst_titan.compare.equal_loss import ReadOff
from tst_titan.compare.findings import Findings, compare
from tst_titan.compare.grids import find_grids
from tst_titan.compare.intervals import Interval
from tst_titan.compare.paired import Difference, equal_data, equal_flops
from tst_titan.compare.variants import RECIPE, VARIANT, run_labels, single_seeds, variants
from tst_titan.plan.settings import ModelShape, MoEShape
from tst_titan.report.page import finding_cards
from tst_titan.report.study import collect_study
from tst_titan.report.words import difference_words
from tst_titan.study.definition import ArmFields
from tst_titan.study.recipe import Experts, Shape, Training

ALL = ("equal_flops", "equal_loss", "equal_data")
TST = "{bag_size: 4, step_ratio: 0.3%s}"
# Two values of each field of the recipe; the first is what the study's other arms have.
VALUES = {
    "seq_len": (128, 256),
    "sequences_per_step": (8, 16),
    "learning_rate": (3e-3, 1e-3),
    "warmup_steps": (60, 100),
    "decay_fraction": (0.1, 0.2),
    "decay_to": (0.0, 0.1),
    "beta1": (0.9, 0.8),
    "beta2": (0.95, 0.99),
    "adam_eps": (1e-8, 1e-6),
    "weight_decay": (0.1, 0.2),
    "max_grad_norm": (1.0, 0.5),
    "precision": ("float32", "bfloat16"),
    "attention": ("causal", "document"),
    "block_tokens": (2048, 1024),
}
STEP_SIZE = ("seq_len", "sequences_per_step")


def yaml(value: object) -> str:
    return f"{value:.10f}" if isinstance(value, float) else str(value)


def names_of(findings: Findings) -> set[tuple[str, str, int]]:
    made = (("equal FLOPs", findings.flops), ("equal loss", findings.loss), ("equal data", findings.data))
    return {(kind, item.label, item.steps) for kind, items in made for item in items}


def test_every_field_of_training_is_in_this_file() -> None:
    assert set(VALUES) == set(Training.model_fields)


def test_every_field_that_a_study_can_set_is_a_column_and_part_of_a_variant() -> None:
    columns = {*RUN_COLUMNS, *RECIPE_COLUMNS}
    arm = set(ArmFields.model_fields) - {"models", "seeds"}
    shape = {*Shape.model_fields, *Experts.model_fields} - {"moe"}
    assert columns >= arm | set(Training.model_fields) | shape
    # Steps and the seed tell runs of a variant apart; step_ratio says what superposition_steps does.
    assert set(VARIANT) >= (arm | set(Training.model_fields) | shape) - {"steps", "superposition_steps"}
    planned_shape = {*ModelShape.__annotations__, *MoEShape.__annotations__} - {"name", "moe"}
    assert set(VARIANT) >= planned_shape
    assert set(RECIPE) <= columns


@pytest.mark.parametrize("field", VALUES)
def test_a_grid_over_a_field_pairs_each_value_with_its_own_baseline(field, tmp_path) -> None:
    values = VALUES[field]
    grid = ", ".join(map(yaml, values))
    plan = planned(tmp_path, f"{{baseline: {{}}, tst: {TST % ''}}}", training=f"{field}: [{grid}]")
    table = table_of(plan)
    findings = compare(table, ALL, "")
    by_run = table.set_index("run")[field]
    assert len(findings.flops) == len(findings.loss) == 4
    for item in (*findings.flops, *findings.loss):
        assert by_run[list(item.runs)].nunique() == 1
    # Two seeds of one recipe, not four of two.
    assert {item.num_pairs for item in findings.flops} == {2}
    assert all(item.paired for item in findings.flops)
    assert len({item.label for item in findings.flops}) == 2
    assert {refusal.comparison for refusal in findings.refused} == {"equal data"}
    assert single_seeds(table) == ([], False)


@pytest.mark.parametrize("field", VALUES)
def test_an_arm_with_a_field_of_its_own_is_compared_and_the_difference_is_said(field, tmp_path) -> None:
    usual, other = VALUES[field]
    arms = f"{{baseline: {{}}, tst: {TST % ''}, own: {TST % f', {field}: {yaml(other)}'}}}"
    plan = planned(tmp_path, arms, training=f"{field}: {yaml(usual)}")
    findings = compare(table_of(plan), ALL, "")
    plain = {
        ("equal FLOPs", "tst", 1000),
        ("equal FLOPs", "tst", 2000),
        ("equal loss", "tst", 1000),
        ("equal loss", "tst", 2000),
    }
    assert names_of(findings) >= plain
    assert all(item.remark == "" for item in findings.flops if item.label == "tst")
    own = [item for item in findings.flops if item.label == "own"]
    refused = {(item.comparison, item.steps): item.reason for item in findings.refused if item.label == "own"}
    if field not in STEP_SIZE:
        assert [item.steps for item in own] == [1000, 2000]
        assert all(f"the arm also differs in {field} {other:.6g} against {usual:.6g}" in item.remark if isinstance(other, float)  # noqa: E501
                   else f"{field} {other} against {usual}" in item.remark for item in own)  # fmt: skip
        assert field in difference_words(own[0])
        assert ("equal loss", "own", 1000) in names_of(findings)
    else:
        # Twice the batch: as many steps are no equal FLOPs. 1000 of its steps cost the baseline's 2000.
        assert ("equal FLOPs", 2000) in refused
        assert "times the arm's FLOPs" in refused["equal FLOPs", 2000]
        assert "a ratio of steps is none of costs" in refused["equal loss", 1000]
        assert not [item for item in findings.loss if item.label == "own"]


@pytest.mark.parametrize("field", VALUES)
def test_a_second_plain_arm_is_an_arm_and_no_seed_of_the_baseline(field, tmp_path) -> None:
    usual, other = VALUES[field]
    arms = f"{{baseline: {{}}, other: {{{field}: {yaml(other)}}}, tst: {TST % ''}}}"
    plan = planned(tmp_path, arms, training=f"{field}: {yaml(usual)}")
    findings = compare(table_of(plan), ALL, "")
    for item in (*findings.flops, *findings.loss):
        assert not [run for run in item.runs if "other" in run and item.label == "tst"]
        assert item.label in ("tst", "other")
    assert [item.steps for item in findings.flops if item.label == "tst"] == [1000, 2000]
    if field not in STEP_SIZE:
        found = [item for item in findings.flops if item.label == "other"]
        assert [item.steps for item in found] == [1000, 2000]
        assert all(item.remark.startswith(f"the arm differs in {field}") for item in found)


@pytest.mark.parametrize("field", VALUES)
def test_an_arm_and_the_baseline_with_a_grid_of_their_own_meet_at_equal_values(field, tmp_path) -> None:
    values = VALUES[field]
    grid = f"{field}: [{', '.join(map(yaml, values))}]"
    plan = planned(tmp_path, f"{{baseline: {{{grid}}}, tst: {TST % f', {grid}'}}}")
    table = table_of(plan)
    findings = compare(table, ALL, "")
    by_run = table.set_index("run")[field]
    tst = [item for item in (*findings.flops, *findings.loss) if item.label.startswith("tst")]
    assert len(tst) == 8
    assert all(by_run[list(item.runs)].nunique() == 1 and not item.remark for item in tst)


def test_a_double_batch_meets_the_baseline_of_equal_flops(tmp_path) -> None:
    arms = f"{{baseline: {{}}, big: {TST % ', sequences_per_step: 16'}}}"
    findings = compare(table_of(planned(tmp_path, arms)), ("equal_flops",), "")
    (found,) = findings.flops
    assert found.steps == 1000
    assert all("2000" in run for run in found.runs if "baseline" in run)
    assert "equal FLOPs are 2000 steps of the baseline" in found.remark
    (refused,) = findings.refused
    assert refused.steps == 2000
    assert refused.reason == "the baseline's nearest budget, 2000 steps, took 0.5 times the arm's FLOPs"


def test_runs_whose_flops_differ_by_more_than_a_hundredth_are_not_compared(tmp_path) -> None:
    plan = planned(tmp_path, f"{{baseline: {{}}, tst: {TST % ''}}}", steps="1000")
    table = table_of(plan)
    bags = table["bag_size"] > 1
    for factor, compared in ((1.009, 1), (1.011, 0)):
        findings = compare(
            table.assign(flops=table["flops"] * bags.map({True: factor, False: 1.0})), ("equal_flops",), ""
        )
        assert len(findings.flops) == compared
        assert len(findings.refused) == 1 - compared


def test_an_arm_that_no_baseline_matches_is_named_with_the_field(tmp_path) -> None:
    arms = f"{{baseline: {{learning_rate: [1e-3, 2e-3]}}, tst: {TST % ''}}}"
    findings = compare(table_of(planned(tmp_path, arms)), ("equal_flops",), "")
    assert findings.flops == ()
    assert {item.reason for item in findings.refused} == {
        "no baseline differs in the arm's own fields alone; the nearest differs in learning_rate"
    }
    arms = f"{{baseline: {{learning_rate: [1e-3, 2e-3]}}, tst: {TST % ', learning_rate: 4e-3'}}}"
    (first, *_) = compare(table_of(planned(tmp_path, arms)), ("equal_flops",), "").refused
    assert first.reason.startswith("2 baselines are equally near")


def test_a_plain_arm_that_shares_an_arms_own_field_is_its_baseline(tmp_path) -> None:
    """Superposition alone is what is then measured."""
    own = "weight_decay: 0.2"
    arms = f"{{baseline: {{}}, heavy: {{{own}}}, tst: {TST % f', {own}'}}}"
    findings = compare(table_of(planned(tmp_path, arms)), ("equal_flops",), "")
    found = [item for item in findings.flops if item.label == "tst"]
    assert all("heavy" in run or "tst" in run for item in found for run in item.runs)
    assert [item.remark for item in found] == ["", ""]


def test_of_two_plain_arms_with_fields_of_their_own_the_first_is_the_baseline(tmp_path) -> None:
    arms = f"{{light: {{weight_decay: 0.05}}, heavy: {{weight_decay: 0.2}}, tst: {TST % ', weight_decay: 0.2'}}}"
    found = compare(table_of(planned(tmp_path, arms, steps="1000")), ("equal_flops",), "")
    assert {item.label: item.remark for item in found.flops} == {
        "tst": "",
        "heavy": "the arm differs in weight_decay 0.2 against 0.05",
    }
    assert found.refused == ()


def test_a_plain_run_of_a_grid_of_ratios_is_a_baseline(tmp_path) -> None:
    arms = "{tst: {bag_size: 4, step_ratio: [0, 0.2, 0.3]}}"
    found = compare(table_of(planned(tmp_path, arms, steps="1000")), ("equal_flops",), "")
    assert [item.label for item in found.flops] == ["tst r=0.2", "tst r=0.3"]
    assert found.refused == ()


def test_what_an_included_run_changes_is_its_own(tmp_path) -> None:
    def include(text: str) -> str:
        return text + "include: [{arm: tst, weight_decay: 0.2, steps: 1000}]\n"

    plan = planned(tmp_path, f"{{baseline: {{}}, tst: {TST % ''}}}", steps="1000", change=include)
    found = compare(table_of(plan), ("equal_flops",), "")
    assert {item.label: item.remark for item in found.flops} == {
        "tst wd=0.1": "",
        "tst wd=0.2": "the arm also differs in weight_decay 0.2 against 0.1",
    }


def test_a_seed_that_stands_twice_is_refused_with_its_runs(tmp_path) -> None:
    table = table_of(planned(tmp_path, f"{{baseline: {{}}, tst: {TST % ''}}}"))
    copy = table.iloc[[0]].assign(run="copy", validation_loss=9.0)
    doubled = pd.concat([table, copy])
    findings = compare(doubled, ("equal_flops",), "")
    (twice, missing) = findings.refused
    assert twice.reason.startswith(f"seed 0 stands twice ({table['run'].iloc[0]}, copy)")
    assert twice.label == "baseline"
    assert missing.steps == 1000 == twice.steps
    assert [item.steps for item in findings.flops] == [2000]


def test_the_same_seed_of_two_plain_arms_is_no_two_seeds(tmp_path) -> None:
    """A table joined from two studies: both have the baseline, under two names."""
    table = table_of(planned(tmp_path, f"{{baseline: {{}}, tst: {TST % ''}}}", steps="1000"))
    plain = table[table["bag_size"] == 1]
    both = pd.concat([table, plain.assign(arm="again", run=plain["run"] + "-again")])
    findings = compare(both, ("equal_flops",), "")
    assert findings.flops == ()
    (refused,) = findings.refused
    assert refused.reason.startswith("of its baseline seed 0 stands twice")


def test_equal_data_takes_the_nearest_of_two_budgets_and_says_so(tmp_path) -> None:
    """Two budgets within 2%: at two seeds they crashed, at one they were averaged."""
    arms = f"{{baseline: {{steps: [1000, 1880, 1910]}}, tst: {TST % ''}}}"
    plan = planned(tmp_path, arms, steps="1000")
    table = table_of(plan)
    for rows in (table, table[table["seed"] == 0]):
        (found,) = equal_data(rows, "validation_loss")
        assert {run.split("-")[2] for run in found.runs if "baseline" in run} == {"1910"}
        assert (
            "1880 and 1910 steps of the baseline read within 2% of its data tokens; taken: the nearest, 1910"
            in found.remark
        )


def test_labels_name_what_varies_and_stay_where_only_bags_do(tmp_path) -> None:
    arms = (
        "{baseline: {}, tst: {bag_size: [4, 6], step_ratio: 0.3}, wide: {bag_size: 8, step_ratio: 0.2, weight_decay: "
        "[0.1, 0.2]}}"
    )
    table = table_of(planned(tmp_path, arms))
    assert {label for label, _ in variants(table)} == {
        "baseline",
        "tst s=4",
        "tst s=6",
        "wide wd=0.1",
        "wide wd=0.2",
    }
    assert set(run_labels(table).values()) == {"baseline", "tst s=4", "tst s=6", "wide wd=0.1", "wide wd=0.2"}


def test_an_ablation_has_one_label_in_comparisons_and_curves(tmp_path) -> None:
    """Comparisons said reinit_embeddings=True and curves reinit_embeddings=1: their colours did not meet."""
    arms = "{baseline: {}, tst: {bag_size: 4, step_ratio: 0.3, reinit_embeddings: [false, true]}}"
    table = table_of(planned(tmp_path, arms, steps="1000"))
    labels = {"tst reinit_embeddings=False", "tst reinit_embeddings=True"}
    assert {item.label for item in equal_flops(table, "validation_loss")} == labels
    assert set(run_labels(table).values()) == {"baseline", *labels}


def test_a_models_own_shape_and_batch_name_no_variant(tmp_path) -> None:
    plan = planned(
        tmp_path,
        f"{{baseline: {{}}, tst: {TST % ''}}}",
        change=lambda text: text.replace("models: 2M", "models: {1M: {sequences_per_step: 16}, 2M: {}}"),
    )
    table = table_of(plan)
    assert set(run_labels(table).values()) == {"baseline", "tst"}
    assert len(equal_flops(table, "validation_loss")) == 4


def test_grids_of_two_recipes_are_two_grids(tmp_path) -> None:
    arms = "{baseline: {}, tst: {bag_size: [2, 4, 6], step_ratio: 0.3}}"
    plan = planned(tmp_path, arms, steps="1000", training="weight_decay: [0.1, 0.2]")
    first, second = find_grids(table_of(plan), "validation_loss")
    assert first.name == "2M, 1000 steps, weight_decay 0.1"
    assert second.name == "2M, 1000 steps, weight_decay 0.2"
    assert first.counts.max() == second.counts.max() == 2
    assert first.baseline != second.baseline


def test_corpora_are_told_apart(tmp_path) -> None:
    """Tables joined from two studies of one model: another text is another loss."""
    table = table_of(planned(tmp_path, f"{{baseline: {{}}, tst: {TST % ''}}}", steps="1000"))
    moved = table["bag_size"] == 1
    other = table.assign(corpus=table["corpus"].where(~moved, "other"))
    (refused, *_) = compare(other, ("equal_flops",), "").refused
    assert "the nearest differs in corpus" in refused.reason


@pytest.mark.parametrize(
    "change",
    [
        ("  baseline: {}\n", "  baseline: {}\n  other: {weight_decay: 0.2}\n"),
        ("precision: float32", "precision: float32, weight_decay: [0.1, 0.2]"),
        ("step_ratio: 0.3}", "step_ratio: 0.3, learning_rate: 1e-3}"),
    ],
    ids=["a second plain arm", "a grid of weight decays", "an arm's own rate"],
)
def test_a_study_of_several_recipes_is_collected_at_two_seeds(change, tmp_path) -> None:
    """It crashed after all training: two recipes were one variant with each seed twice."""
    text = STUDY.replace(
        "steps: 1200", "steps: [600, 1200]\nseeds: [0, 1]\ncompare: [equal_flops, equal_loss, equal_data]"
    )
    plan = make_plan(tmp_path, text.replace(*change), name="several")
    fill_results(plan, tmp_path / "results", log_every=50)
    found, findings = collect_study(plan, plan.file, tmp_path / "results", tmp_path / "out")
    assert findings.flops
    assert {item.num_pairs for item in findings.flops} == {2}
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert list(table.columns[: len(RUN_COLUMNS)]) == list(RUN_COLUMNS)
    assert list(table.columns[-len(RECIPE_COLUMNS) :]) == list(RECIPE_COLUMNS)
    assert table["held_out_bytes_per_token"].iloc[0] == pytest.approx(700_000 / 210_000)
    told = [notice for notice in found.notices if notice.kind == "not compared"]
    assert told
    assert all(notice.text.startswith("no comparison at equal data: ") for notice in told)


def test_cards_are_coloured_where_the_interval_tells() -> None:
    difference = Difference(
        "tst",
        "m",
        100,
        "validation_loss",
        2.999,
        3.0,
        Interval(absent_because="one seed"),
        None,
        1,
        False,
        (),
    )
    read_off = ReadOff("tst", "m", 100, "validation_loss", 3.0, 97.0, "", Interval(0.80, 1.15), (50, 200), 2, ())

    def tones(low: float | None, high: float | None, times: tuple[float | None, float | None]) -> list[str]:
        findings = Findings(
            "validation_loss",
            flops=(replace(difference, interval=Interval(low, high)),),
            loss=(replace(read_off, interval=Interval(*times)),),
        )
        return [card.tone for card in finding_cards(findings)]

    assert tones(None, None, (0.80, 1.15)) == ["", ""]
    assert tones(-0.002, 0.001, (None, None)) == ["", ""]
    assert tones(-0.002, -0.0005, (1.01, float("inf"))) == ["good", "good"]
    assert tones(0.0005, 0.002, (0.0, 0.97)) == ["bad", "bad"]
