"""Identities are trajectories: nothing that is added beside a run, and nothing cosmetic, moves one."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tst_titan.plan import Plan, load_plan, load_plans

STEPS = st.integers(min_value=100, max_value=3000)
RATIOS = st.integers(min_value=10, max_value=90).map(lambda percent: percent / 100)
BAGS = st.integers(min_value=2, max_value=8)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def definition(steps: list[int], ratios: list[float], bags: list[int], seeds: list[int] | None = None) -> dict:
    return {
        "corpus": {"source": "python-stdlib", "tokenizer": "bpe-4096"},
        "models": ["2M"],
        "steps": steps,
        "seeds": seeds or [0],
        "arms": {"baseline": {}, "tst": {"bag_size": bags, "step_ratio": ratios}},
        "training": {"seq_len": 128, "sequences_per_step": 8, "warmup_steps": 10},
    }


def plan_of(folder: Path, studies: dict[str, dict]) -> dict[str, Plan]:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.yaml"):
        old.unlink()
    for name, study in studies.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(study))
    plans, errors = load_plans(folder, folder / "results")
    assert not errors
    return plans


def finals(plan: Plan) -> dict[str, str]:
    return {run.run: run.final for run in plan.runs}


@QUICK
@given(
    steps=st.lists(STEPS, min_size=1, max_size=3, unique=True),
    ratios=st.lists(RATIOS, min_size=1, max_size=3, unique=True),
    bag=BAGS,
    more_steps=STEPS,
    more_ratio=RATIOS,
    more_bag=BAGS,
)
def test_adding_a_ratio_a_budget_a_bag_size_a_seed_or_a_study_changes_no_identity(
    tmp_path: Path,
    steps: list[int],
    ratios: list[float],
    bag: int,
    more_steps: int,
    more_ratio: float,
    more_bag: int,
) -> None:
    alone = finals(plan_of(tmp_path / "s", {"a": definition(steps, ratios, [bag])})["a"])
    union = {
        "a": definition(list({*steps, more_steps}), list({*ratios, more_ratio}), list({bag, more_bag}), seeds=[0, 1]),
        "b": definition([more_steps * 2], [more_ratio], [bag]),
    }
    beside = finals(plan_of(tmp_path / "s", union)["a"])
    assert alone.items() <= beside.items()


@QUICK
@given(
    steps=STEPS,
    ratio=RATIOS,
    bag=BAGS,
    every=st.sampled_from(["every 10%", "every 25%", "every 37 steps"]),
    longest=st.integers(min_value=20, max_value=500),
)
def test_splitting_a_run_changes_no_identity_and_leaves_no_gap(
    tmp_path: Path, steps: int, ratio: float, bag: int, every: str, longest: int
) -> None:
    study = definition([steps], [ratio], [bag])
    whole = finals(plan_of(tmp_path / "s", {"a": study})["a"])
    study["evaluate"] = {"tasks": "offline", "at": every}
    plan_of(tmp_path / "s", {"a": study})
    split = load_plans(tmp_path / "s", tmp_path / "results", max_segment_steps=longest)[0]["a"]
    assert finals(split) == whole
    for run in split.runs:
        step, parent = 0, None
        for id in run.segments:
            segment = split.segments[id]
            assert (segment.start_step, segment.parent) == (step, parent)
            assert 0 < segment.end_step - segment.start_step <= longest
            step, parent = segment.end_step, segment.id
        assert step == run.steps
        assert split.segments[run.final].data_tokens == run.data_tokens
        for id in run.evaluations:
            assert id in split.segments


@QUICK
@given(studies=st.lists(st.tuples(STEPS, RATIOS, BAGS), min_size=1, max_size=4))
def test_segments_come_after_their_parents_and_sharing_counts_every_step_once(
    tmp_path: Path, studies: list[tuple[int, float, int]]
) -> None:
    plans = plan_of(
        tmp_path / "s",
        {f"s{i}": definition([steps], [ratio], [bag]) for i, (steps, ratio, bag) in enumerate(studies)},
    )
    for plan in plans.values():
        seen: set[str] = set()
        for id, segment in plan.segments.items():
            assert segment.parent is None or segment.parent in seen
            seen.add(id)
        jobs = sum(segment.end_step - segment.start_step for segment in plan.segments.values())
        per_step = plan.flops_without_sharing // sum(run.steps for run in plan.runs)
        assert plan.flops_with_sharing == jobs * per_step


def test_editing_one_arm_re_plans_only_that_arms_segments(tmp_path: Path) -> None:
    study = definition([1000], [0.3], [4])
    study["arms"]["wide"] = {"bag_size": 8, "step_ratio": 0.3}
    before = plan_of(tmp_path / "s", {"a": study})["a"]
    study["arms"]["tst"]["learning_rate"] = 1e-3
    after = plan_of(tmp_path / "s", {"a": study})["a"]
    for arm, changes in (("baseline", False), ("wide", False), ("tst", True)):
        old, new = ([run.segments for run in plan.runs if run.arm == arm] for plan in (before, after))
        assert (set(old[0]).isdisjoint(new[0])) is changes, arm
        assert (old == new) is not changes, arm


def test_comments_order_names_and_monitoring_change_nothing(tmp_path: Path) -> None:
    study = definition([1000], [0.3], [4])
    before = plan_of(tmp_path / "s", {"a": study})["a"]
    text = "# a comment\n" + yaml.safe_dump(dict(reversed(study.items())), sort_keys=False).replace(
        "\nsteps: ", "\n# why\nsteps:   ", 1
    )
    text += (
        "description: now with words\nlog_every: 7\nvalidation: {every: 50, tokens: 1M}\nevaluate: {tasks: "
        "paper}\ncompare: equal_loss\n"
    )
    (tmp_path / "s" / "a.yaml").write_text(text)
    after = load_plan(tmp_path / "s" / "a.yaml", tmp_path / "results")
    assert list(before.segments) == list(after.segments)
    study["arms"] = {"plain": study["arms"]["baseline"], "bags": study["arms"]["tst"]}
    renamed = plan_of(tmp_path / "s", {"renamed": study})["renamed"]
    assert set(renamed.segments) == set(before.segments)


def test_identities_are_the_same_on_every_machine_and_in_every_version() -> None:
    """Written down: whoever changes how an identity is made retrains everything that anybody has trained."""
    plan = load_plan(Path("tests/data/identities.yaml"), Path("no-results"))
    assert {run.run: run.final for run in plan.runs} == {
        "270M-baseline-20000-seed0": "270M-baseline/decay-18000-20000-247db7e3",
        "270M-tst-s6-r0.3-20000-seed0": "270M-tst-s6/decay-18000-20000-ab1a3544",
    }
