"""docs/studies.md: its studies are planned as written, and its numbers are the plan's."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from checkouts import copy_checkout

from tst_titan.plan import Plan, load_plans
from tst_titan.plan.costs import DEFAULT_UTILIZATION, PUBLISHED_ACCELERATOR
from tst_titan.plan.implied import implied_utilizations
from tst_titan.plan.settings import ModelShape, MoEShape, Recipe
from tst_titan.study import catalogue, load_study
from tst_titan.study.defaults import TRAINING_DEFAULTS, spelled
from tst_titan.study.definition import Study
from tst_titan.superposition.settings import BAG_WEIGHTINGS

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC, flags=re.DOTALL)


@pytest.fixture
def worked(tmp_path: Path) -> dict[str, Plan]:
    """The studies of the worked example, written where their first line says."""
    for block in blocks("yaml"):
        named = re.match(r"# studies/(\S+)\n", block)
        if named:
            (tmp_path / named[1]).write_text(block, encoding="utf-8")
    plans, errors = load_plans(tmp_path, tmp_path / "results")
    assert not errors
    return plans


def test_the_worked_example_means_the_runs_that_the_text_lists(worked: dict[str, Plan]) -> None:
    assert set(worked) == {"bag-size", "bag-size-seeds"}
    assert blocks("text")[0].split() == [run.run for run in worked["bag-size"].runs]
    plan = worked["bag-size"]
    assert blocks("text")[1].strip() == f"sharing saves {1 - plan.flops_with_sharing / plan.flops_without_sharing:.1%}"


def test_the_extension_by_a_line_reuses_what_it_extends(worked: dict[str, Plan]) -> None:
    assert len(worked["bag-size-seeds"].runs) == 18
    assert set(worked["bag-size"].segments) <= set(worked["bag-size-seeds"].segments)


def test_the_shown_error_is_the_error(tmp_path: Path) -> None:
    text = blocks("yaml")[0].replace("step_ratio: 0.3", "step_ratio: 0.95")
    (tmp_path / "bag-size.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        load_study(tmp_path / "bag-size.yaml")
    assert blocks("text")[2].strip() == f"error: {caught.value}".replace(str(tmp_path), "studies")


def test_the_shape_of_ones_own_is_accepted(tmp_path: Path) -> None:
    example = re.sub(r"models: 2M\n", blocks("yaml")[2], blocks("yaml")[0])
    (tmp_path / "own.yaml").write_text(example, encoding="utf-8")
    assert {run.model for run in load_study(tmp_path / "own.yaml").runs} == {"narrow"}


def test_every_key_model_and_default_is_in_the_text() -> None:
    for name in (*Study.model_fields, *TRAINING_DEFAULTS, *catalogue.MODELS, *BAG_WEIGHTINGS[1:]):
        assert f"`{name}`" in DOC or f"{name}:" in DOC or f": {name}`" in DOC, name
    for name, value in TRAINING_DEFAULTS.items():
        shown = f"`{value}`" if isinstance(value, str) else spelled(value)
        assert re.search(rf"`{name}`\s+\({shown}\)", DOC), name


@pytest.mark.parametrize("kind", [Recipe, ModelShape, MoEShape])
def test_a_default_stands_in_the_definition_alone(kind: type) -> None:
    """The settings that identities are made of had the recipe's numbers once more: a change in one place was none."""
    assert [field.name for field in fields(kind) if field.default is not MISSING] == []


def test_the_defaults_of_a_study_are_those_of_the_text() -> None:
    shown = dict(re.findall(r"^\| `(\w+)` \| .* \| `?(\w+)`? \|$", DOC, flags=re.MULTILINE))
    for name in ("seeds", "compare", "log_every"):
        default = Study.model_fields[name].default
        assert shown[name] == spelled(default[0] if isinstance(default, tuple) else default), name
    assert shown["evaluate"] == "none"
    assert Study.model_fields["evaluate"].default.tasks is None
    assert f"default: {PUBLISHED_ACCELERATOR.upper()} at {DEFAULT_UTILIZATION:.0%}" in DOC


def test_the_tables_are_the_plans(tmp_path: Path) -> None:
    plans, _ = load_plans(copy_checkout(tmp_path) / "studies", tmp_path / "results")
    rows = re.findall(r"^\| `([\w-]+)` \| .*? \| (\d+) \| ([\d.]+%) \|$", DOC, flags=re.MULTILINE)
    assert [name for name, _, _ in rows if name in plans] == [name for name, _, _ in rows]
    for name, runs, saved in rows:
        plan = plans[name]
        assert int(runs) == len(plan.runs), name
        assert saved == f"{1 - plan.flops_with_sharing / plan.flops_without_sharing:.1%}", name
    for item in implied_utilizations():
        if item.row.method == "baseline" and item.row.total_steps in (20000, 125000):
            row = next(line for line in DOC.splitlines() if line.startswith(f"| {item.row.model} |"))
            assert row.endswith(f"| {item.row.b200_hours:g} | {item.utilization:.1%} |")
