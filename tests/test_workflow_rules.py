"""What the Snakefile asks of `tst_titan.workflow`, asked here without Snakemake: inputs, resources and words of every
rule."""

import ast
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from checkouts import REPOSITORY, copy_library, copy_workflow

from tst_titan.data.build import build_corpus
from tst_titan.files import write_json
from tst_titan.workflow import Workflow, read_workflow

STUDY = """\
corpus:
  source: {source}
  sources: {{texts: {{kind: files, path: ../texts}}}}
  tokenizer: bpe-512
  validation_tokens: 40k
models:
  tiny: {{shape: {{dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16, ffn_dim: 64}}, learning_rate: 1e-2}}
steps: {steps}
arms: {{baseline: {{}}, tst: {{bag_size: 3, step_ratio: 0.3}}}}
training: {{seq_len: 64, sequences_per_step: 4, warmup_steps: 3, precision: float32, block_tokens: 256}}
evaluate: {{tasks: {tasks}}}
"""  # noqa: E501
GPUS = {"gpus_per_node": 4, "gpu_type": "h100", "accelerator": "h100", "partition": "gpu"}

Checkout = Callable[..., Workflow]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Read the workflow of a checkout with the study `tiny`, with these settings of a site file."""
    folder = copy_workflow(tmp_path / "checkout")
    monkeypatch.chdir(folder)

    def read(*, source: str = "texts", steps: int = 20, tasks: str = "offline", **settings: Any) -> Workflow:
        Path("studies/tiny.yaml").write_text(STUDY.format(source=source, steps=steps, tasks=tasks))
        Path("site.yaml").write_text(yaml.safe_dump(settings))
        return read_workflow(Path("site.yaml"))

    return read


def of(**wildcards: str) -> SimpleNamespace:
    return SimpleNamespace(**wildcards)


def finished(workflow: Workflow, name: str) -> None:
    write_json(workflow.results.segment(name).done, {})


def ends(call: Callable[[], object]) -> str:
    """The one message that `call` ends the run with."""
    with pytest.raises(SystemExit) as end:
        call()
    message = str(end.value)
    assert message.startswith("error: ")
    return message


def chain(workflow: Workflow) -> tuple[str, str]:
    """A segment and the one that starts from it."""
    child = next(segment for segment in workflow.segments.values() if segment.parent)
    return str(child.parent), child.id


@pytest.mark.parametrize("module", ["workflow.py", "before_jobs.py"])
def test_it_knows_no_snakemake(module: str) -> None:
    tree = ast.parse((REPOSITORY / "tst_titan" / module).read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    }
    assert not [name for name in imported if name.split(".")[0].startswith("snakemake")]


def test_the_rules_define_no_functions() -> None:
    files = [REPOSITORY / "Snakefile", *(REPOSITORY / "workflow" / "rules").glob("*.smk")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert not re.findall(r"^\s*(?:def|class|for|while|try)\b.*", text, flags=re.M)
    assert "sys.argv" not in text


def test_a_study_needs_its_finished_segments_and_its_evaluations(checkout: Checkout) -> None:
    workflow = checkout()
    inputs = workflow.study_inputs(of(study="tiny"))
    plan = workflow.plans["tiny"]
    assert [path.parent.name for path in inputs["segments"]] == [name.split("/")[1] for name in plan.segments]
    assert inputs["evaluations"] == [Path(f"results/evaluations/{name}/offline.json") for name in plan.evaluations]
    assert json.loads(workflow.definition(of(study="tiny")))["steps"]


def test_a_study_that_is_none_or_broken_ends_the_run_with_one_message(checkout: Checkout) -> None:
    checkout()
    Path("studies/broken.yaml").write_text("modles: tiny\n")
    workflow = read_workflow(None)

    def asked(name: str) -> str:
        return ends(lambda: workflow.study_inputs(of(study=name)))

    assert "modles" in asked("broken")
    assert "studies/tinny.yaml: no such study. Did you mean studies/tiny?" in asked("tinny")
    assert "There are: published, tiny" in asked("other")
    assert "studies/tiny.yaml: is the definition; the target that builds it is studies/tiny" in asked("tiny.yaml")
    assert workflow.study_inputs(of(study="tiny"))["segments"]


def test_the_papers_own_name_is_nobody_elses(checkout: Checkout) -> None:
    checkout()
    Path("studies/tiny.yaml").rename("studies/published.yaml")
    assert "studies/published.yaml: the target studies/published is the paper's own numbers" in ends(
        lambda: read_workflow(None)
    )


def test_a_wrong_configuration_ends_the_run_with_its_file_and_key(checkout: Checkout) -> None:
    assert "site.yaml: site.partitoin" in ends(lambda: checkout(site={"partitoin": "gpu"}))
    assert "hardware.models.tyni" in ends(lambda: checkout(hardware={"models": {"tyni": {"processes": 2}}}))


def test_hardware_that_cannot_train_a_study_is_told_as_the_study_is_asked_for(checkout: Checkout) -> None:
    workflow = checkout(site=GPUS, hardware={"processes": 8})
    assert "processes 8 on a node, but site.gpus_per_node is 4" in ends(lambda: workflow.study_inputs(of(study="tiny")))


def test_a_segment_waits_for_its_parent_and_its_corpus_until_it_is_finished(checkout: Checkout) -> None:
    workflow = checkout()
    parent, child = chain(workflow)
    corpus = workflow.results.corpus(workflow.segments[child].recipe.corpus.id)
    assert workflow.training_inputs(of(segment=parent)) == {"corpus": corpus.manifest}
    inputs = {"corpus": corpus.manifest, "parent": workflow.results.segment(parent).done}
    assert workflow.training_inputs(of(segment=child)) == inputs
    finished(workflow, child)
    assert workflow.training_inputs(of(segment=child)) == {}
    # One that no study wants any more is no mistake once it is finished.
    finished(workflow, "old/constant-0-9-aa")
    assert workflow.training_inputs(of(segment="old/constant-0-9-aa")) == {}
    assert "old/x: no study in studies has this segment" in ends(lambda: workflow.training_inputs(of(segment="old/x")))


def test_a_corpus_that_holds_too_little_grows_before_a_segment_is_trained(checkout: Checkout) -> None:
    workflow = checkout()
    parent, _ = chain(workflow)
    files = workflow.results.corpus(workflow.segments[parent].recipe.corpus.id)
    source = {"name": "texts", "complete": False, "num_tokens": 10}
    write_json(files.manifest, {"sources": [source]})
    (grown,) = workflow.training_inputs(of(segment=parent)).values()
    assert grown.parent == files.folder
    assert int(grown.name.removeprefix("grown-")) > 10
    write_json(files.manifest, {"sources": [source | {"complete": True}]})
    assert workflow.training_inputs(of(segment=parent)) == {"corpus": files.manifest}


@pytest.mark.parametrize(
    ("settings", "num_parts"),
    [
        ({}, 0),
        ({"data": {"tokens_per_job": 1000}}, 6),
        ({"data": {"tokens_per_job": 1000, "most_jobs": 2}}, 2),
        ({"data": {"tokens_per_job": 1000}, "source": "python-stdlib"}, 0),
    ],
)
def test_a_large_corpus_is_divided_into_jobs(checkout: Checkout, settings: dict[str, Any], num_parts: int) -> None:
    workflow = checkout(**settings)
    (identity,) = workflow.plans["tiny"].corpora
    parts = workflow.corpus_parts(of(corpus=identity))
    files = workflow.results.corpus(identity)
    if num_parts == 6:  # as many as what is read, in whole stretches, takes
        num_parts = len(parts)
        assert num_parts > 2
    assert parts == [files.part(number, num_parts) for number in range(num_parts)]
    # One that is there is whole, whichever study it was of.
    for whole in (identity, "of-no-study-any-more"):
        write_json(workflow.results.corpus(whole).manifest, {})
        assert workflow.corpus_parts(of(corpus=whole)) == []


def test_downloads_lie_beside_the_corpus(checkout: Checkout) -> None:
    workflow = checkout(results="my results")
    downloads = workflow.corpus_resources["tmpdir"](of(corpus="c"))
    assert downloads == str(Path.cwd() / "my results" / "data" / "c" / ".work" / "downloads")


@pytest.mark.parametrize(
    ("site", "cores", "threads", "local"),
    [
        ({}, 3, 3, True),
        ({}, None, min(16, os.cpu_count() or 1), True),
        ({"corpus_minutes": 60}, None, 16, False),
        ({"corpus_minutes": 60}, 4, 4, False),
    ],
)
def test_corpora_are_made_where_the_network_is_with_the_threads_that_are_allowed(
    checkout: Checkout, site: dict[str, Any], cores: int | None, threads: int, local: bool
) -> None:
    workflow = checkout(site=site)
    assert workflow.corpora_are_local is local
    assert workflow.tokenizing_threads(cores) == threads


def test_training_asks_for_the_hardware_of_its_model(checkout: Checkout) -> None:
    workflow = checkout(
        site=GPUS, hardware={"processes": 1, "threads": 2, "models": {"tiny": {"nodes": 2, "processes": 4}}}
    )
    job = of(segment=chain(workflow)[1])
    asked = {name: value(job) for name, value in workflow.training_resources.items()}
    assert workflow.training_threads(job) == 4 * 2
    assert (asked["nodes"], asked["gpus"], asked["gres"]) == (2, 8, "gpu:h100:4")
    assert asked["mem_mb"] > 4 * 12_000
    assert asked["runtime"] >= 15
    assert asked["slurm_partition"] == "gpu"
    assert "no study in studies has this segment" in ends(
        lambda: workflow.training_resources["mem_mb"](of(segment="a/b"))
    )


def test_on_cpus_the_same_resources_are_asked_for_whatever_the_segment(checkout: Checkout) -> None:
    workflow = checkout()
    for name in workflow.segments:
        asked = {key: value(of(segment=name)) for key, value in workflow.training_resources.items()}
        assert asked["nodes"] == 1
        assert "gres" not in asked


def test_evaluation_and_export_ask_for_what_reads_a_checkpoint(checkout: Checkout) -> None:
    workflow = checkout(site=GPUS | {"cpu_partition": "cpu"}, evaluation={"processes": 2})
    job = of(segment=chain(workflow)[1], group="offline")
    evaluation, export = workflow.evaluation_resources, workflow.export_resources
    assert (evaluation["gpus"], evaluation["runtime"], evaluation["slurm_partition"]) == (2, 240, "gpu")
    assert (export["runtime"], export["slurm_partition"]) == (60, "cpu")
    assert evaluation["mem_mb"](job) > export["mem_mb"](job) > 0
    assert workflow.evaluation_processes == 2
    inputs = workflow.evaluation_inputs(job)
    assert inputs["done"] == workflow.results.segment(job.segment).done
    assert inputs["corpus"].name == "corpus.json"


def test_definitions_of_the_users_own_count_and_the_suites_never_change_anything(checkout: Checkout) -> None:
    workflow = checkout()
    workflow.user_tasks.mkdir()
    (workflow.user_tasks / "own.yaml").write_text("task: own\noutput_type: perplexity\n")
    assert isinstance(workflow.own_definitions(of(group="own")), str)
    assert workflow.own_definitions(of(group="offline")) is ...


def test_words_that_are_not_asked_for_leave_nothing_in_a_command(checkout: Checkout) -> None:
    plain = checkout()
    assert plain.split == plain.gpu_memory == plain.trust == []
    assert plain.hardware == "{}"
    assert plain.task_groups == ["offline"]
    full = checkout(
        max_segment_steps=7,
        site=GPUS | {"environment": {"A": "{b}"}},
        hardware={"threads": 2},
        evaluation={"trust_tasks": True},
        tasks="[arc_easy, offline]",
    )
    assert full.split == ["--max-segment-steps", "7"]
    assert full.gpu_memory == ["--gpu-memory-gib", "80"]
    assert full.trust == ["--trust-tasks"]
    assert json.loads(full.hardware) == {"threads": 2}
    assert full.task_groups == ["arc_easy", "offline"]
    assert "{{b}}" in full.prologue
    assert full.prologue.format() == full.prologue.replace("{{", "{").replace("}}", "}")


def test_evaluations_whose_data_are_not_there_end_the_run_before_its_first_job(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workflow = checkout(tasks="arc_easy", site={"setup": "echo the setup ran"})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    final = next(iter(workflow.plans["tiny"].evaluations))

    def job(rule: str, **wildcards: str) -> SimpleNamespace:
        return SimpleNamespace(rule=of(name=rule), wildcards=of(**wildcards), is_local=True)

    evaluation = job("evaluate", segment=final, group="arc_easy")
    with pytest.raises(SystemExit, match="1"):
        workflow.check_jobs([evaluation], slurm=False, executor_settings=None)
    said = capfd.readouterr()
    assert "the setup ran" in said.out
    assert "arc_easy" in said.err
    # A run that fetches them needs none, nor one whose tasks lie with the corpus.
    workflow.check_jobs([evaluation, job("fetch_eval_data")], slurm=False, executor_settings=None)
    workflow.check_jobs([job("evaluate", segment=final, group="offline")], slurm=False, executor_settings=None)


def test_texts_that_changed_under_a_corpus_end_the_run_before_a_segment_is_trained_on_it(
    checkout: Checkout,
) -> None:
    texts = copy_library(Path("texts"))
    workflow = checkout()
    ((identity, settings),) = workflow.plans["tiny"].corpora.items()
    build_corpus(settings, workflow.results.corpus(identity).folder, num_workers=1)
    workflow.study_inputs(of(study="tiny"))
    next(texts.iterdir()).write_text("another text")
    again = checkout()
    assert "have changed since this corpus was made of them" in ends(lambda: again.study_inputs(of(study="tiny")))
    job = of(rule=of(name="train"), wildcards=of(segment=chain(again)[0]), is_local=True)
    later = checkout()
    assert "have changed since this corpus was made of them" in ends(
        lambda: later.check_jobs([job], slurm=False, executor_settings=None)
    )
