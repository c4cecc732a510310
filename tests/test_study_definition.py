"""What a study may say, and which runs it then means."""

from pathlib import Path

import pytest

from tst_titan.study import LoadedStudy, catalogue, load_study
from tst_titan.study.definition import Evaluate
from tst_titan.superposition.settings import BAG_WEIGHTINGS

BASE = """\
corpus: {source: python-stdlib, tokenizer: bpe-4096, validation_tokens: 200k}
models: [1M, 2M]
steps: 1000
arms:
  baseline:
  tst: {bag_size: 4, step_ratio: 0.3}
training: {warmup_steps: 10}
"""


def load(folder: Path, text: str, name: str = "study") -> LoadedStudy:
    (folder / f"{name}.yaml").write_text(text)
    return load_study(folder / f"{name}.yaml")


def names(study: LoadedStudy) -> list[str]:
    return [run.name for run in study.runs]


def test_runs_are_arms_by_models_by_steps_by_seeds(tmp_path: Path) -> None:
    study = load(tmp_path, BASE.replace("steps: 1000", "steps: [1000, 2000]", 1) + "seeds: [0, 1]\n")
    assert len(study.runs) == 2 * 2 * 2 * 2
    assert names(study)[0] == "1M-baseline-1000-seed0"
    assert names(study)[-1] == "2M-tst-s4-r0.3-2000-seed1"


def test_a_list_in_any_field_is_a_grid(tmp_path: Path) -> None:
    text = BASE.replace(
        "bag_size: 4", "bag_size: [2, 4], bag_weighting: [uniform, power_law], learning_rate: [1e-3, 2e-3]"
    )
    study = load(tmp_path, text.replace("[1M, 2M]", "2M"))
    assert len(study.runs) == 1 + 2 * 2 * 2
    assert "2M-tst-s4-r0.3-power-law-lr0.002-1000-seed0" in names(study)


def test_an_arm_beats_a_model_beats_the_study_beats_what_is_published(tmp_path: Path) -> None:
    text = BASE.replace("[1M, 2M]", "{1M: {}, 2M: {learning_rate: 5e-4}}")
    rates = {run.name: run.training["learning_rate"] for run in load(tmp_path, text).runs}
    assert rates["1M-baseline-1000-seed0"] == catalogue.MODELS["1M"]["learning_rate"]
    assert rates["2M-baseline-1000-seed0"] == 5e-4
    rates = {
        run.name: run.training["learning_rate"]
        for run in load(tmp_path, text.replace("warmup_steps", "learning_rate: 7e-4, warmup_steps")).runs
    }
    assert rates["1M-baseline-1000-seed0"] == 7e-4
    assert rates["2M-baseline-1000-seed0"] == 5e-4
    rates = {
        run.name: run.training["learning_rate"]
        for run in load(tmp_path, text.replace("bag_size: 4", "bag_size: 4, learning_rate: 1e-4")).runs
    }
    assert rates["2M-tst-s4-r0.3-lr0.0001-1000-seed0"] == 1e-4
    assert rates["2M-baseline-1000-seed0"] == 5e-4


def test_what_is_not_written_is_the_published_recipe(tmp_path: Path) -> None:
    text = (
        "corpus: {source: dclm, tokenizer: llama3}\nmodels: [270M, 600M, 3B, 10B-A1B]\nsteps: 20000\narms: {baseline: "
        "{}}\n"
    )
    runs = load(tmp_path, text).runs
    assert [run.training["learning_rate"] for run in runs] == [2e-3, 1e-3, 2e-4, 3e-4]
    training = runs[0].training
    assert training["seq_len"] * training["sequences_per_step"] == 2**21
    assert (training["warmup_steps"], runs[0].decay_start) == (2000, 18000)
    assert (training["beta1"], training["beta2"]) == (0.9, 0.95)


def test_extends_merges_deeply_and_later_wins(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "base.yaml").write_text(BASE)
    (tmp_path / "bases" / "long.yaml").write_text("extends: base.yaml\nsteps: 5000\ntraining: {seq_len: 256}\n")
    study = load(
        tmp_path,
        "extends: bases/long.yaml\nmodels: 4M\narms: {tst: {step_ratio: 0.5}, wide: {bag_size: 8, step_ratio: 0.2}}\n",
    )
    assert names(study) == [
        "4M-baseline-5000-seed0",
        "4M-tst-s4-r0.5-5000-seed0",
        "4M-wide-s8-r0.2-5000-seed0",
    ]
    assert study.runs[0].training["seq_len"] == 256
    assert study.runs[0].training["warmup_steps"] == 10


def test_extends_takes_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE)
    (tmp_path / "b.yaml").write_text("steps: 7000\nmodels: 1M\n")
    assert names(load(tmp_path, "extends: [a.yaml, b.yaml]\nmodels: 2M\n"))[0] == "2M-baseline-7000-seed0"


def test_a_longer_circle_of_extends_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: c.yaml\n")
    with pytest.raises(
        ValueError,
        match=r"b\.yaml: extends = 'c\.yaml': goes round in a circle \(c\.yaml -> a\.yaml -> b\.yaml -> c\.yaml\)|circle",  # noqa: E501
    ):
        load(tmp_path, "extends: a.yaml\n", "c")


def test_exclude_leaves_out_and_include_adds(tmp_path: Path) -> None:
    text = BASE.replace("steps: 1000", "steps: [1000, 2000]", 1)
    text += "exclude: [{model: 2M, steps: 2000}, {arm: tst, model: 1M}]\n"
    text += (
        "include: [{arm: tst, model: 2M, steps: [4000, 8000], step_ratio: 0.5}, {arm: baseline, models: 1M, steps: "
        "9000}]\n"
    )
    assert names(load(tmp_path, text)) == [
        "1M-baseline-1000-seed0",
        "1M-baseline-2000-seed0",
        "2M-baseline-1000-seed0",
        "2M-tst-s4-r0.3-1000-seed0",
        "2M-tst-s4-r0.5-4000-seed0",
        "2M-tst-s4-r0.5-8000-seed0",
        "1M-baseline-9000-seed0",
    ]


def test_superposition_may_be_an_exact_number_of_steps(tmp_path: Path) -> None:
    text = BASE.replace("step_ratio: 0.3", "superposition_steps: 251").replace("[1M, 2M]", "2M")
    run = load(tmp_path, text).runs[1]
    assert (run.name, run.superposition_steps, run.step_ratio) == ("2M-tst-s4-251of1000-seed0", 251, 0.251)


def test_phases_that_fill_the_budget_never_overlap_by_rounding(tmp_path: Path) -> None:
    text = BASE.replace("steps: 1000", "steps: [595, 600, 605, 1001]", 1).replace("0.3", "0.9")
    for run in load(tmp_path, text).runs:
        if run.arm == "tst":
            assert run.superposition_steps <= run.decay_start
            assert abs(run.superposition_steps - 0.9 * run.steps) <= 1


def test_ablation_arms(tmp_path: Path) -> None:
    text = BASE.replace(
        "bag_size: 4", "superpose: [both, input, output], reinit_embeddings: [false, true], bag_size: 4"
    )
    runs = load(tmp_path, text.replace("[1M, 2M]", "2M")).runs[1:]
    assert {(run.superpose, run.reinit_embeddings) for run in runs} == {
        (s, r) for s in ("both", "input", "output") for r in (False, True)
    }
    assert "2M-tst-s4-r0.3-input-only-reinit-1000-seed0" in [run.name for run in runs]
    for weighting in BAG_WEIGHTINGS:
        weighted = BASE.replace("bag_size: 4", f"bag_weighting: {weighting}, bag_size: 4")
        assert load(tmp_path, weighted).runs[-1].bag_weighting == weighting
    fitted = BASE.replace("bag_size: 4", 'bag_weighting: "mutual_information(3.2, 1.10, -0.9)", bag_size: 4')
    assert load(tmp_path, fitted).runs[-1].bag_weighting == "mutual_information(3.2,1.1,-0.9)"
    assert "-mutual-information-3.2-1.1-0.9-" in load(tmp_path, fitted).runs[-1].name


def test_bag_size_1_and_step_ratio_0_are_the_baseline(tmp_path: Path) -> None:
    for field in ("bag_size: 1, step_ratio: 0.3", "bag_size: 4, step_ratio: 0"):
        study = load(tmp_path, BASE.replace("  baseline:\n", "").replace("bag_size: 4, step_ratio: 0.3", field))
        for run in study.runs:
            assert (run.bag_size, run.superposition_steps, run.step_ratio) == (1, 0, 0.0)


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    shape = "{dim: 64, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 32, ffn_dim: 128}"
    study = load(tmp_path, BASE.replace("[1M, 2M]", f"{{2M: {{}}, mine: {{learning_rate: 4e-3, shape: {shape}}}}}"))
    own = [run for run in study.runs if run.model == "mine"]
    assert [(run.shape.dim, run.training["learning_rate"]) for run in own] == [(64, 4e-3)] * 2


def test_numbers_are_written_as_people_write_them(tmp_path: Path) -> None:
    text = BASE.replace("200k", "1.5B").replace(
        "warmup_steps: 10", "warmup_steps: 10, learning_rate: 3e-3, adam_eps: 1E-8, weight_decay: 0"
    )
    study = load(tmp_path, text)
    assert study.definition.corpus.validation_tokens == 1_500_000_000
    assert study.runs[0].training["learning_rate"] == 0.003
    assert (study.runs[0].training["adam_eps"], study.runs[0].training["weight_decay"]) == (1e-8, 0.0)


def test_any_task_of_lm_eval_may_be_named(tmp_path: Path) -> None:
    tasks = ["hellaswag", "mmlu_abstract_algebra", "arc_easy_mt", "my_own_task", "blimp", "paper"]
    study = load(tmp_path, BASE + f"evaluate: {{tasks: {tasks}, at: every 10%}}\n")
    assert study.definition.evaluate.tasks == tuple(tasks)


def test_sources_and_tokenizers_of_ones_own(tmp_path: Path) -> None:
    corpus = (
        "corpus: {mix: {books: 0.25, dclm: 0.75}, sources: {books: {kind: files, path: 'books/*.txt'}}, tokenizer: "
        "{kind: file, name: tok.json, vocab_size: 32000}, max_tokens: 1B}"
    )
    study = load(tmp_path, corpus + BASE[BASE.index("\n") :])
    assert study.definition.corpus.weights == {"books": 0.25, "dclm": 0.75}
    assert study.definition.corpus.tokenizer.vocab_size == 32000


@pytest.mark.parametrize(
    ("text", "steps", "points"),
    [
        ("final", 7, (7,)),
        ("every 25%", 10, (2, 5, 8, 10)),
        ("every 60%", 10, (6, 10)),
        ("every 1%", 10, tuple(range(1, 11))),
        ("every 3 steps", 9, (3, 6, 9)),
        ("every 4steps", 9, (4, 8, 9)),
        ("every 100 steps", 9, (9,)),
    ],
)
def test_a_run_is_evaluated_where_the_definition_says(text: str, steps: int, points: tuple[int, ...]) -> None:
    at = Evaluate.model_validate({"tasks": "offline", "at": text}).at
    assert at.of_run(steps) == points
    assert at.count(steps) >= len(points)
    assert Evaluate.model_validate({"at": str(at)}).at == at


def test_a_definition_that_names_no_points_is_evaluated_at_the_end() -> None:
    assert Evaluate().at.of_run(9) == (9,)
