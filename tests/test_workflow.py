"""The workflow as a user runs it: a study of three jobs from text to report, and what makes it run again."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from checkouts import REPOSITORY, copy_checkout, copy_library, copy_workflow
from data_hub_server import HubServer
from evaluate_tasks import user_task

from tst_titan.plan import load_plan

TINY = """\
corpus:
  source: texts
  sources: {{texts: {{kind: files, path: {texts}}}}}
  tokenizer: bpe-512
  validation_tokens: 40k
models:
  tiny: {{shape: {{dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16, ffn_dim: 64}}, learning_rate: 1e-2}}
steps: 20
arms:
  baseline: {{}}
  tst: {{bag_size: 3, step_ratio: 0.3}}  # bags of three
training: {{seq_len: 64, sequences_per_step: 4, warmup_steps: 3, precision: float32, block_tokens: 256}}
evaluate: {{tasks: offline}}
validation: {{every: 10, tokens: 512}}
"""  # noqa: E501


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own with one tiny study, built once."""
    folder = make_checkout(tmp_path_factory.mktemp("checkout"))
    built = snakemake(folder, "studies/tiny")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def make_checkout(folder: Path) -> Path:
    """The workflow, its profiles and one tiny study, of which nothing is built."""
    copy_workflow(folder)
    texts = copy_library(folder / "texts")
    (folder / "studies" / "tiny.yaml").write_text(TINY.format(texts=texts))
    return folder


def snakemake(
    folder: Path, *arguments: str, profile: str = "local", **variables: str
) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", profile, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def planned(folder: Path, *arguments: str) -> list[str]:
    """The jobs that a dry run shows, by the line that says what each does."""
    run = snakemake(folder, "-n", "studies/tiny", *arguments)
    assert run.returncode == 0, run.stderr
    lines = (run.stdout + run.stderr).splitlines()
    return sorted({line.split(": ", 1)[1] for line in lines if line.startswith("Job ") and ": " in line})


def test_every_stage_left_its_files(checkout: Path) -> None:
    out = checkout / "studies" / "tiny"
    assert {"table.csv", "table.md", "runs.parquet", "curves.svg", "report.html"} <= {f.name for f in out.iterdir()}
    table = list(csv.DictReader((out / "table.csv").open()))
    required = [
        "run",
        "arm",
        "model",
        "bag_size",
        "step_ratio",
        "steps",
        "seed",
        "equivalent_tokens",
        "data_tokens",
        "flops",
        "final_train_loss",
        "validation_loss",
    ]
    assert set(required) <= set(table[0])
    baseline, tst = sorted(table, key=lambda row: row["arm"])
    assert (baseline["arm"], tst["arm"]) == ("baseline", "tst")
    assert int(baseline["data_tokens"]) == int(baseline["equivalent_tokens"]) == 20 * 4 * 64
    assert int(tst["data_tokens"]) == (6 * 3 + 14) * 4 * 64
    assert baseline["flops"] == tst["flops"]
    assert "tst" in (out / "table.md").read_text()
    assert float(tst["validation_loss"]) < 6.24  # ln 512: it learned


def test_recovery_is_plain_torchtitan_in_its_configuration(checkout: Path) -> None:
    segments = checkout / "results" / "segments"
    (superposed,) = segments.glob("tiny-tst-s3/superposition-*/torchtitan.json")
    (recovered,) = segments.glob("tiny-tst-s3/recovery-*/torchtitan.json")
    for path, has_bags in ((superposed, True), (recovered, False)):
        config = json.loads(path.read_text())
        assert ("bag_weighting" in json.dumps(config["loss"])) is has_bags
        assert config["dataloader"]["bag_size"] == (3 if has_bags else 1)


def test_a_second_call_has_nothing_to_do(checkout: Path) -> None:
    again = snakemake(checkout, "studies/tiny")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_cosmetic_edits_and_another_machine_plan_nothing(checkout: Path) -> None:
    study = checkout / "studies" / "tiny.yaml"
    text = study.read_text()
    try:
        study.write_text(text.replace("# bags of three", "# three tokens in a bag") + "\n# the end\n")
        assert planned(checkout) == []
    finally:
        study.write_text(text)
    assert planned(checkout, "--config", 'hardware={"processes": 2, "threads": 1}') == []
    (checkout / "texts" / "zipapp.txt").touch()
    rule = checkout / "workflow" / "rules" / "train.smk"
    rule.write_text(rule.read_text() + "\n# a comment\n")
    assert planned(checkout) == []


def test_editing_one_arm_plans_that_arm_alone(checkout: Path) -> None:
    study = checkout / "studies" / "tiny.yaml"
    text = study.read_text()
    try:
        study.write_text(text.replace("bag_size: 3", "bag_size: 4"))
        jobs = planned(checkout)
        assert {job.split("/")[0] for job in jobs if job.startswith("Train")} == {"Train tiny-tst-s4"}
        assert len([job for job in jobs if job.startswith("Train")]) == 3
        assert [job for job in jobs if job.startswith("Tokenize")] == []
    finally:
        study.write_text(text)


def test_a_new_study_file_is_found_and_shares_what_is_trained(checkout: Path) -> None:
    new = checkout / "studies" / "longer.yaml"
    new.write_text((checkout / "studies" / "tiny.yaml").read_text().replace("steps: 20", "steps: 30"))
    try:
        run = snakemake(checkout, "-n", "studies/longer")
        assert run.returncode == 0, run.stderr
        jobs = run.stdout + run.stderr
        assert "Train tiny-baseline/constant-0-27-" in jobs
        assert "Train tiny-baseline/constant-0-18-" not in jobs
    finally:
        new.unlink()


def test_tables_are_built_again_without_training(checkout: Path) -> None:
    shutil.rmtree(checkout / "studies" / "tiny")
    assert planned(checkout) == ["Collect tiny"]
    assert snakemake(checkout, "studies/tiny").returncode == 0
    assert (checkout / "studies" / "tiny" / "report.html").exists()


def test_a_broken_study_is_one_message_and_nothing_is_written(checkout: Path) -> None:
    broken = checkout / "studies" / "broken.yaml"
    broken.write_text((checkout / "studies" / "tiny.yaml").read_text().replace("bag_size", "bag_sise"))
    before = sorted(path for path in checkout.rglob("*") if ".snakemake" not in path.parts)
    try:
        run = snakemake(checkout, "studies/broken")
        assert run.returncode != 0
        said = run.stdout + run.stderr
        assert "bag_sise" in said
        assert "bag_size" in said
        assert "Traceback" not in said
        assert before == sorted(path for path in checkout.rglob("*") if ".snakemake" not in path.parts)
        # It hurts no other study.
        assert "Nothing to be done" in "".join(
            snakemake(checkout, "studies/tiny").__dict__[key] for key in ("stdout", "stderr")
        )
    finally:
        broken.unlink()


def test_a_misspelt_study_is_told_its_neighbour(checkout: Path) -> None:
    run = snakemake(checkout, "studies/tinny")
    assert run.returncode != 0
    assert "Did you mean studies/tiny?" in run.stdout + run.stderr


def test_a_time_limit_splits_segments_and_keeps_their_names(checkout: Path) -> None:
    new = checkout / "studies" / "longer.yaml"
    new.write_text((checkout / "studies" / "tiny.yaml").read_text().replace("steps: 20", "steps: 40"))

    def trained(*options: str) -> set[str]:
        run = snakemake(checkout, "-n", "studies/longer", *options)
        return {line.split("Train ")[1] for line in (run.stdout + run.stderr).splitlines() if ": Train " in line}

    try:
        whole, split = trained(), trained("--config", "max_segment_steps=10")
        assert len(whole) == 5
        assert whole < split
        assert any(name.startswith("tiny-baseline/constant-0-30-") for name in split)
    finally:
        new.unlink()


def test_a_definition_is_no_target_and_a_report_may_lie_among_the_studies(checkout: Path) -> None:
    run = snakemake(checkout, "-n", "studies/tiny.yaml")
    assert run.returncode == 1
    assert "studies/tiny.yaml: is the definition; the target that builds it is studies/tiny" in run.stderr
    run = snakemake(checkout, "studies/tiny", "--report", "studies/report.html")
    assert run.returncode == 0, run.stderr
    assert "<!doctype html>" in (checkout / "studies" / "report.html").read_text().lower()
    (checkout / "studies" / "report.html").unlink()


def test_without_slurm_the_published_study_is_planned_and_a_real_run_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing of Slurm on PATH, wherever this runs.
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "sh", "env", "git", "which", "uname"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    assert shutil.which("sbatch") is None
    copy_checkout(tmp_path)
    run = snakemake(tmp_path, "-n", "studies/scaling", profile="slurm")
    assert run.returncode == 0, run.stderr
    said = run.stdout + run.stderr
    assert "Train 3B-tst-s6/superposition-0-6000-" in said
    assert "Train 10B-A1B-tst-s16/superposition-0-12483-" in said
    run = snakemake(tmp_path, "studies/quickstart", profile="slurm")
    assert run.returncode != 0
    assert (
        "error: --profile slurm: sbatch, srun, squeue, scancel, scontrol, sinfo not found on PATH"
        in run.stdout + run.stderr
    )
    assert not (tmp_path / "results").exists()


def test_each_model_has_the_hardware_of_its_layout(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    # A job with a message is shown without its resources.
    shown = '\nworkflow.get_rule("train").message = None\n'
    with (tmp_path / "Snakefile").open("a") as file:
        file.write(shown)
    site = {"gpus_per_node": 8, "accelerator": "h100", "max_minutes": 1440}
    hardware = {
        "layout": "one-node",
        "models": {
            "270M": {"layout": "one-gpu"},
            "600M": {"micro_batch": 0},
            "10B-A1B": {"layout": "several-nodes"},
        },
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"site": site, "hardware": hardware}))
    # A dry run would show one core otherwise.
    run = snakemake(tmp_path, "-n", "-p", "--cores=64", "studies/scaling", profile="slurm")
    assert run.returncode == 0, run.stderr
    jobs = re.findall(
        r"wildcards: segment=([^/]*?)-(?:baseline|tst).*?threads: (\d+)\n *resources: .*?nodes=(\d+), .*?gres=(\S+), gpus=(\d+)",  # noqa: E501
        run.stdout + run.stderr, re.DOTALL,
    )  # fmt: skip
    asked = {model: {tuple(rest) for name, *rest in jobs if name == model} for model, *_ in jobs}
    assert asked == {
        "270M": {("8", "1", "gpu:1", "1")},
        "600M": {("64", "1", "gpu:8", "8")},
        "3B": {("64", "1", "gpu:8", "8")},
        "10B-A1B": {("64", "8", "gpu:8", "64")},
    }
    # What was left to the workflow is said, and each job is told by which memory it was chosen.
    chosen = [line for line in run.stderr.splitlines() if line.startswith("hardware: ")]
    assert [line.split(" of the ")[0] for line in chosen] == [
        "hardware: 600M: micro_batch 16",
        "hardware: 600M, bags of 6: micro_batch 16",
    ]
    commands = re.findall(r" train \S+/\S+ --studies .*", run.stdout + run.stderr)
    assert commands
    assert all(command.endswith(" --gpu-memory-gib 80") for command in commands)


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ({"models": {"10B": {"nodes": 8}}}, "error: site.yaml: hardware.models.10B: no study has a model of that name; allowed: 0.5M, 10B-A1B, "),  # noqa: E501
        ({"layout": "one-gpu"}, "error: hardware.layout: model 10B-A1B has no hardware layout 'one-gpu'; it has: cpu, one-node"),  # noqa: E501
        ({"processes": 3}, "1024 sequences a step cannot be split over 3 data-parallel ranks"),
    ],
)  # fmt: skip
def test_hardware_that_cannot_train_a_study_is_one_error_before_any_job(
    hardware: dict, message: str, tmp_path: Path
) -> None:
    copy_checkout(tmp_path)
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"hardware": hardware}))
    run = snakemake(tmp_path, "-n", "studies/scaling", profile="slurm")
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert "Job " not in run.stdout + run.stderr


def test_ctrl_c_stops_cleanly_and_the_next_call_goes_on(checkout: Path) -> None:
    new = checkout / "studies" / "longer.yaml"
    new.write_text((checkout / "studies" / "tiny.yaml").read_text().replace("steps: 20", "steps: 400"))
    try:
        plan = load_plan(new, checkout / "results")
        segment = next(name for name in plan.segments if name.startswith("tiny-baseline/constant-0-360"))
        folder = checkout / "results" / "segments" / segment
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--profile",
            "local",
            f"results/segments/{segment}/done.json",
        ]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        running = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        metrics = folder / "metrics.jsonl"
        while running.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)  # what a terminal does
        said, _ = running.communicate()
        assert running.returncode != 0
        assert "stopped and saved at step" in said
        assert not (folder / "done.json").exists()
        saved = int(said.split("stopped and saved at step ")[1].split(";")[0])

        again = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert f"Training starts at step {saved + 1}" in (folder / "train.log").read_text()
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)
    finally:
        new.unlink()


HOSTED = """\
task: hosted
dataset_path: org/name
test_split: test
output_type: multiple_choice
doc_to_text: q
doc_to_choice: options
doc_to_target: gold
target_delimiter: ""
metric_list: [{metric: acc}]
"""


def test_a_study_whose_evaluation_data_are_not_there_is_refused_before_its_first_job(tmp_path: Path) -> None:
    """All evaluations failed, one by one, after the whole study was trained. No network is asked."""
    (tmp_path / "checkout").mkdir()
    folder = make_checkout(tmp_path / "checkout")
    (folder / "studies" / "tasks").mkdir()
    (folder / "studies" / "tasks" / "hosted.yaml").write_text(HOSTED)
    tiny = folder / "studies" / "tiny.yaml"
    tiny.write_text(tiny.read_text().replace("tasks: offline", "tasks: [offline, hosted, arc_easy]"))
    # Where the jobs will look.
    cache = tmp_path / "cache"
    (folder / "site.yaml").write_text(f"site: {{environment: {{HF_HOME: {cache}}}}}\n")
    refused = snakemake(folder, "studies/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert f"error: the data of arc_easy, hosted are not in the prepared cache {cache}" in said
    command = "tst-titan fetch-eval-data --tasks arc_easy hosted --task-definitions studies/tasks"
    assert f"on a machine with network run `{command}` with the same HF_HOME" in said
    assert "Traceback" not in said
    assert not (folder / "results").exists()
    # A dry run asks nobody.
    dry = snakemake(folder, "-n", "studies/tiny")
    assert dry.returncode == 0, dry.stderr
    assert "not in the prepared cache" not in dry.stdout + dry.stderr


def test_fetched_data_serve_evaluation_jobs_that_have_no_network(checkout: Path, tmp_path: Path) -> None:
    """The hub is on loopback, and gone before the study is evaluated."""
    rows = [{"q": "two and two is", "options": [" four", " six"], "gold": 0}] * 3
    server = HubServer({"test.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}, {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    studies = checkout / "studies"
    (studies / "tasks").mkdir()
    (studies / "tasks" / "hosted.yaml").write_text(HOSTED)
    text = (studies / "tiny.yaml").read_text().replace("tasks: offline", "tasks: [offline, hosted]")
    (studies / "hosted.yaml").write_text(text)
    cache = str(tmp_path / "cache")
    try:
        try:
            fetched = snakemake(checkout, "fetch_eval_data", HF_HOME=cache, HF_ENDPOINT=server.url)
        finally:
            server.shutdown()
            server.server_close()
        assert fetched.returncode == 0, fetched.stdout + fetched.stderr
        assert "hosted: 3 samples from org/name" in fetched.stdout + fetched.stderr
        built = snakemake(checkout, "studies/hosted", HF_HOME=cache, HF_HUB_OFFLINE="1")
        assert built.returncode == 0, built.stdout + built.stderr
        table = list(csv.DictReader((studies / "hosted" / "table.csv").open()))
        assert {row["hosted"] for row in table} <= {"0.0", "1.0"}
    finally:
        (studies / "hosted.yaml").unlink()
        shutil.rmtree(studies / "tasks")
        shutil.rmtree(studies / "hosted", ignore_errors=True)


def test_an_edited_task_is_scored_again_and_nothing_else(checkout: Path) -> None:
    """The rule did not depend on studies/tasks: arms scored under two definitions stood in one table."""
    studies = checkout / "studies"
    folder = studies / "tasks"
    task = user_task(folder, "sums", process_docs="sums.same")
    (folder / "sums.py").write_text("def same(documents):\n    return documents\n")
    task.write_text(task.read_text().replace('"sums.same"', '!function "sums.same"'))
    (folder / "all_sums.yaml").write_text("group: all_sums\ntask: [sums]\naggregate_metric_list: [{metric: acc}]\n")
    study, site = studies / "sums.yaml", checkout / "site.yaml"
    text = (studies / "tiny.yaml").read_text().replace("tasks: offline", "tasks: [offline, all_sums]")
    study.write_text(re.sub(r"  tst: .*\n", "", text))

    def built() -> tuple[list[str], str]:
        run = snakemake(checkout, "studies/sums")
        said = run.stdout + run.stderr
        jobs = set(re.findall(r"^Job \d+: (\w+)", said, re.MULTILINE))
        evaluated = [line for line in said.splitlines() if ": Evaluate " in line]
        assert all(line.endswith(" on all_sums") for line in evaluated), evaluated
        return sorted(jobs), said

    try:
        # Code in a task: not unless the configuration says so, and before any job.
        jobs, said = built()
        assert "task sums (studies/tasks/sums.yaml): process_docs: !function sums.same: is code" in said
        assert jobs == []
        site.write_text("evaluation: {trust_tasks: true}\n")
        assert built()[0] == ["Collect", "Evaluate"]
        # Nothing of what was finished before there were definitions, and nothing for a comment, is evaluated again.
        task.write_text("# sums\n" + task.read_text())
        assert built()[0] == []
        assert "Nothing to be done" in snakemake(checkout, "studies/tiny").stderr
        table = (studies / "sums" / "table.csv").read_text()
        task.write_text(task.read_text().replace('"gold"', '"{{1 - gold}}"'))
        assert built()[0] == ["Collect", "Evaluate"]
        assert (studies / "sums" / "table.csv").read_text() != table
    finally:
        study.unlink()
        site.unlink(missing_ok=True)
        shutil.rmtree(folder)
        shutil.rmtree(studies / "sums", ignore_errors=True)


def test_the_published_study_is_a_target_built_once(checkout: Path) -> None:
    built = snakemake(checkout, "studies/published")
    assert built.returncode == 0, built.stdout + built.stderr
    out = checkout / "studies" / "published"
    assert {"table.csv", "grids.csv", "comparisons.csv", "grids.svg", "comparisons.svg", "report.html"} <= {
        file.name for file in out.iterdir()
    }
    assert "speedup of 1.81x" in built.stdout + built.stderr
    again = snakemake(checkout, "studies/published")
    assert "Nothing to be done" in again.stdout + again.stderr
    mine = checkout / "studies" / "published.yaml"
    shutil.copy(checkout / "studies" / "tiny.yaml", mine)
    try:
        taken = snakemake(checkout, "-n", "studies/tiny")
        assert taken.returncode != 0
        assert (
            "studies/published.yaml: the target studies/published is the paper's own numbers"
            in taken.stdout + taken.stderr
        )
    finally:
        mine.unlink()


def test_snakemakes_own_report_shows_every_result_with_its_caption(checkout: Path) -> None:
    page = checkout / "snakemake-report.html"
    made = snakemake(checkout, "studies/tiny", "--report", page.name)
    assert made.returncode == 0, made.stdout + made.stderr
    text = page.read_text()
    page.unlink()
    shown, _ = json.JSONDecoder().raw_decode(text.split("var results = ")[-1])
    names = {Path(name).name: entry for name, entry in shown.items()}
    assert {"report.html", "table.csv", "comparisons.csv", "curves.svg", "hours.svg"} <= names.keys()
    assert "the switch marked" in names["curves.svg"]["caption"]
    assert "One row a run" in names["table.csv"]["caption"]
    assert not [name for name, entry in names.items() if "A result of this study" in entry["caption"]]
    assert "Each study" in text
