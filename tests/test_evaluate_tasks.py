"""Definitions of a user's own: a score is of one definition, mistakes are one line, and no code runs that is not
trusted."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard
from evaluate_segments import DENSE, TIED, initialized, results
from evaluate_tasks import QUESTION, user_task

from tst_titan.cli import main
from tst_titan.collect.evaluations import mixed_settings, read_evaluations
from tst_titan.errors import UserError
from tst_titan.evaluate.environment import prepare_environment
from tst_titan.evaluate.fetch import check
from tst_titan.evaluate.run import Evaluation, evaluate
from tst_titan.evaluate.suites import Tasks
from tst_titan.evaluate.task_files import definitions_state
from tst_titan.results import EvaluationFiles


@pytest.fixture(autouse=True)
def environment():
    before = dict(os.environ)
    prepare_environment()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def folder(tmp_path):
    """Of task definitions."""
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


def group(folder: Path, *members, **changes) -> Path:
    path = folder / "sums_of_all.yaml"
    path.write_text(json.dumps({"group": "sums_of_all", "task": list(members), **changes}))
    return path


def version(folder: Path, name: str, **options) -> str:
    return Tasks([name], corpus_tasks=None, user_tasks=folder, **options).version(name)


def load(folder: Path, name: str = "sums", **options):
    return Tasks([name], corpus_tasks=None, user_tasks=folder, **options).load(name)


# A score is of one definition.


def test_a_group_is_scored_anew_when_a_member_or_its_data_change(folder, tmp_path):
    """Its key held its own settings alone: an edited member, or another data file, kept the group's score."""
    path = user_task(folder, "sums")
    group(folder, "sums", aggregate_metric_list=[{"metric": "acc"}])
    results_folder = tmp_path / "results"
    segment = initialized(DENSE).id
    shutil.copytree(results() / "segments" / segment, results_folder / "segments" / segment)
    (results_folder / "data").symlink_to(results() / "data")

    def scored() -> tuple[float, int]:
        (file,) = evaluate(
            Evaluation(results=results_folder, segment=segment, groups=["sums_of_all"], user_tasks=folder)
        )
        score = json.loads(file.read_text())["tasks"]["sums_of_all"]
        assert re.search(r"\+[0-9a-f]{8}$", score["version"])
        return score["acc"]["value"], (file.parent / "tasks" / file.name).stat().st_mtime_ns

    first, written = scored()
    assert first in (0.0, 1.0)
    assert scored() == (first, written)
    # The other answer is the right one now: in the member's definition, then in its data.
    definition = json.loads(path.read_text())
    path.write_text(json.dumps(definition | {"doc_to_target": "{{1 - gold}}"}))
    assert scored()[0] == 1 - first
    rows = folder / "sums.jsonl"
    written_before = rows.stat().st_mtime_ns
    rows.write_text(rows.read_text().replace('"gold": 0', '"gold": 1'))
    # As a copy that keeps times does: by these alone, the library of data sets would take what it has in its cache.
    os.utime(rows, ns=(written_before, written_before))
    again, written = scored()
    assert again == first
    # What changes no meaning changes no score: comments, times, and the place where all of it lies.
    path.write_text("# sums\n" + path.read_text())
    os.utime(rows)
    assert scored() == (first, written)
    shutil.copytree(folder, tmp_path / "moved")
    text = (tmp_path / "moved/sums.yaml").read_text()
    (tmp_path / "moved/sums.yaml").write_text(text.replace(str(folder), str(tmp_path / "moved")))
    assert version(tmp_path / "moved", "sums_of_all") == version(folder, "sums_of_all")


def test_a_version_holds_what_a_task_is_made_of_and_lm_evals_own_stay_as_they_are(folder):
    user_task(folder, "sums", include="shared.inc")
    (folder / "shared.inc").write_text("description: Sums.\n")
    (folder / "tagged.yaml").write_text((folder / "sums.yaml").read_text().replace('"sums"', '"tagged"'))
    path = user_task(folder, "tagged", tag="some_sums")
    group(folder, {"task": "sums", "num_fewshot": 0}, "arc_easy")
    before = {name: version(folder, name) for name in ("sums", "sums_of_all", "some_sums", "tagged", "arc_easy")}
    assert before["arc_easy"] == "1.0"
    (folder / "shared.inc").write_text("description: Additions.\n")
    assert version(folder, "sums") != before["sums"]
    assert version(folder, "sums_of_all") != before["sums_of_all"]
    assert version(folder, "tagged") == before["tagged"]
    path.write_text(path.read_text().replace("options", "reversed"))
    assert version(folder, "some_sums") != before["some_sums"]
    # A file of the user's in place of one member of a group of lm-eval's.
    plain = Tasks(["mmlu"], corpus_tasks=None, user_tasks=None).version("mmlu")
    assert Tasks(["mmlu"], corpus_tasks=None, user_tasks=folder).version("mmlu") == plain
    user_task(folder, "mmlu_anatomy", tag="mmlu_stem_tasks")
    assert re.fullmatch(rf"{plain}\+[0-9a-f]{{8}}", version(folder, "mmlu"))


def test_a_table_that_mixes_two_definitions_of_a_task_says_so(folder, tmp_path):
    """Arms that were scored under two definitions stood side by side, without a word."""
    rows = []
    path = user_task(folder, "sums")
    for shape in (DENSE, TIED):
        segment = initialized(shape).id
        shutil.copytree(results() / "segments" / segment, tmp_path / "results/segments" / segment)
    (tmp_path / "results/data").symlink_to(results() / "data")
    for shape in (DENSE, TIED):
        segment = initialized(shape).id
        (file,) = evaluate(
            Evaluation(results=tmp_path / "results", segment=segment, groups=["sums"], user_tasks=folder)
        )
        found, notices = read_evaluations(EvaluationFiles(file.parent), segment, "checkpoint/step-1")
        assert notices == []
        rows += found
        assert mixed_settings(rows) == [] or shape is TIED
        path.write_text(path.read_text().replace('"gold"', '"{{1 - gold}}"'))
    (notice,) = mixed_settings(rows)
    assert "scored under several definitions" in notice.text


def test_a_workflow_sees_changes_of_what_a_group_is_made_of_and_of_nothing_else(folder):
    path = user_task(folder, "sums")
    user_task(folder, "hellaswag_it")
    group(folder, "sums")
    assert [definitions_state(name, folder) for name in ("offline", "paper", "hellaswag", "arc_easy")] == [""] * 4

    def states() -> list[str]:
        # As a new process sees it.
        definitions_state.__globals__["_definitions_once"].cache_clear()
        return [definitions_state(name, folder) for name in ("sums", "sums_of_all", "hellaswag_it")]

    before = states()
    path.write_text("# a comment\n" + path.read_text())
    assert states() == before
    path.write_text(path.read_text().replace('"q"', '"{{q}}"'))
    edited = states()
    assert [one == other for one, other in zip(before, edited, strict=True)] == [False, False, True]
    (folder / "sums.jsonl").write_text((folder / "sums.jsonl").read_text() * 2)
    assert [one == other for one, other in zip(edited, states(), strict=True)] == [False, False, True]


@pytest.mark.parametrize(
    ("splits", "refused"),
    [
        ({"test_split": "test"}, True),
        ({"validation_split": "test", "test_split": None, "fewshot_split": "test"}, True),
        # lm-eval leaves the document itself out of the split that it evaluates, if both are named.
        ({"test_split": "test", "fewshot_split": "test"}, False),
        ({"validation_split": "test", "test_split": None}, False),
        ({"test_split": "test", "fewshot_config": {"samples": [{"q": "a", "options": ["b"], "gold": 0}]}}, False),
    ],
)  # fmt: skip
def test_a_document_is_not_among_its_own_examples(splits, refused, folder):
    """With a test split alone it was, with its answer."""
    rows = [{"q": f"{n} and one is", "options": [f" {n + 1}", " none"], "gold": 0} for n in range(4)]
    user_task(folder, "sums", rows=rows, num_fewshot=1, **splits)
    if refused:
        with pytest.raises(UserError, match=r"task sums \(.*\): num_fewshot: 1 .* name another split as fewshot_split"):
            load(folder)
        return
    task = load(folder)["tasks"]["sums"]
    task.set_fewshot_seed(1234)
    for document in task.eval_docs:
        shown = task.fewshot_context(document, num_fewshot=1)
        assert shown.count(document["q"]) == 1
        assert document["options"][0] not in shown


# Code.

EVIL = "import pathlib\npathlib.Path({!r}).touch()\n\n\ndef rows(documents):\n    return documents\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"process_docs": "evil.rows"},
        {"include": "shared.inc"},
        {"class": "evil.rows"},
        {"metric_list": [{"metric": "acc", "hf_evaluate": True}]},
        {"use_prompt": "evil.yaml:*"},
        {"dataset_path": "pandas"},
        {"dataset_kwargs": {"trust_remote_code": True}},
        {"unsafe_code": True},
    ],
)  # fmt: skip
def test_code_in_a_users_task_runs_only_if_trusted(changes, folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(str(mark)))
    (folder / "shared.inc").write_text("process_docs: !function evil.rows\n")
    path = user_task(folder, "sums", **changes)
    path.write_text(path.read_text().replace('"evil.rows"', '!function "evil.rows"'))
    key = "process_docs" if "include" in changes else next(iter(changes))
    with pytest.raises(UserError, match=rf"task sums \(.*sums.yaml\): {key}.*: is code, .*--trust-tasks"):
        load(folder)
    # Nor as a member of a group, nor in place of one of lm-eval's own.
    group(folder, {"task": "sums", "dataset_path": "json"})
    with pytest.raises(UserError, match="is code"):
        load(folder, "sums_of_all")
    path.write_text(path.read_text().replace('"sums"', '"mmlu_anatomy"'))
    with pytest.raises(UserError, match="is code"):
        Tasks(["mmlu"], corpus_tasks=None, user_tasks=folder)
    assert not mark.exists()


def test_trusted_code_runs_and_is_a_part_of_the_version(folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(str(mark)))
    path = user_task(folder, "sums", process_docs="evil.rows")
    path.write_text(path.read_text().replace('"evil.rows"', '!function "evil.rows"'))
    load(folder, trusted=True)
    assert mark.exists()
    before = version(folder, "sums", trusted=True)
    with (folder / "evil.py").open("a") as file:
        file.write("\n\ndef more(): ...\n")
    assert version(folder, "sums", trusted=True) != before


def test_lm_evals_own_code_may_be_included(folder):
    own = Path(sys.modules["lm_eval"].__file__).parent / "tasks/hellaswag/hellaswag.yaml"
    user_task(folder, "mine", include=str(own))
    assert version(folder, "mine") == version(folder, "mine")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
        "{{ lipsum.__globals__['os'].popen('touch MARK').read() }}",
        "{{ '{0.__class__}'.format(q) }}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("trusted", [False, True])
def test_a_template_reaches_nothing_but_its_document(template, trusted, folder, tmp_path):
    """They were rendered without a sandbox, and could run any program."""
    mark = tmp_path / "ran"
    user_task(folder, "sums", doc_to_text=template.replace("MARK", str(mark)))
    with pytest.raises(UserError, match=r"task sums \(.*\): .*(unsafe|has no attribute|undefined)"):
        load(folder, trusted=trusted)
    assert not mark.exists()


def test_a_corpus_folders_tasks_are_those_that_are_made_here(tmp_path, capsys):
    """Another file of an offline task's name in a corpus's folder came first, and its code ran."""
    segment = initialized(DENSE).id
    corpus = initialized(DENSE).recipe.corpus.id
    shutil.copytree(results() / "segments" / segment, tmp_path / "segments" / segment)
    shutil.copytree(results() / "data" / corpus, tmp_path / "data" / corpus)
    tasks = tmp_path / "data" / corpus / "tasks"
    tasks.mkdir(exist_ok=True)
    mark = tmp_path / "ran"
    (tasks / "evil.py").write_text(EVIL.format(str(mark)))
    (tasks / "a.yaml").write_text("task: heldout_cloze\nprocess_docs: !function evil.rows\ntest_split: test\n")
    arguments = ["evaluate", segment, "--tasks", "offline", "--limit", "4", "--results", str(tmp_path)]
    assert main(arguments) == 0
    found = json.loads(Path(capsys.readouterr().out.strip()).read_text())["tasks"]
    assert found["heldout_cloze"]["num_samples"] == 4
    assert found["heldout_cloze"]["version"] == "1.0"
    assert not mark.exists()


# Mistakes.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_to_text": "question"}, "doc_to_text: 'question'; the columns are q, options, gold"),
        ({"doc_to_text": "The {{question}}"}, "doc_to_text: question; the columns are q, options, gold"),
        ({"doc_to_text": "The {{q"}, "doc_to_text: no template"),
        ({"doc_to_choice": "{{options[0]}}"}, "document 1: doc_to_choice"),
        ({"doc_to_target": "{{gold + 2}}"}, "document 1: doc_to_target: 2 is none of 2 choices"),
        ({"doc_to_target": "{{ ' seven' }}"}, "document 1: doc_to_target: ' seven' is none of 2 choices"),
        ({"doc_to_txt": "q"}, "doc_to_txt: no key of a task; did you mean doc_to_text"),
        ({"num_fewshot": 9, "fewshot_split": "test"}, "num_fewshot: 9 examples, but there are 1 documents"),
        ({"metric_list": [{"metric": "acc_nrom"}]}, "metric_list: 'acc_nrom'; did you mean acc_norm"),
        ({"metric_list": [{"metric": "bits_per_byte"}]}, "metric_list: output_type multiple_choice gives no bits_per_byte"),  # noqa: E501
        ({"metric_list": [{"metric": "acc", "aggregation": "meen"}]}, "aggregation: 'meen'; did you mean mean"),
        ({"metric_list": []}, r"metric_list: \[\] gives no score"),
        ({"test_split": "tset"}, "test_split: 'tset'; the data have test"),
        ({"test_split": None}, "test_split: missing"),
        ({"output_type": "multiple_choise"}, "output_type: 'multiple_choise'; did you mean multiple_choice"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_task_is_one_line_with_its_key(changes, message, folder):
    """Most ended in tracebacks when all was trained, some in a file without a score."""
    user_task(folder, "sums", **changes)
    with pytest.raises(UserError, match=rf"^task sums \(.*sums.yaml\): {message}") as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_a_mistake_in_a_later_document_is_found_too(folder):
    """lm-eval tries a task on its first document, and scored a target beyond the choices as a wrong answer."""
    user_task(folder, "sums", rows=[QUESTION | {"gold": gold} for gold in (0, 1, 2)])
    with pytest.raises(UserError, match=r"document 3: doc_to_target: 2 is none of 2 choices"):
        load(folder)


def test_mistakes_in_groups_and_files(folder):
    path = user_task(folder, "sums")
    group(folder, "sums", "smus")
    with pytest.raises(UserError, match=r"task sums_of_all \(.*\): member smus: neither .* did you mean sums"):
        load(folder, "sums_of_all")
    group(folder).write_text("group: sums_of_all\ntask: sums\n")
    with pytest.raises(UserError, match=r"sums_of_all \(.*\): task: 'sums'; list the group's members"):
        load(folder, "sums_of_all")
    (folder / "copy.yaml").write_text(path.read_text())
    with pytest.raises(UserError, match=r"sums.yaml: task sums is defined in .*copy.yaml already"):
        load(folder)
    (folder / "copy.yaml").write_text('task: "other"\ndoc_to_text: "{{q"\n  x: [\n')
    load(folder)
    with pytest.raises(UserError, match=r"copy.yaml: task other cannot be read: no valid YAML .* line 3"):
        load(folder, "other")


def test_mistakes_are_found_before_anything_is_trained(folder):
    """By the command that a workflow runs before its first job."""
    user_task(folder, "sums", doc_to_target="{{gold + 2}}")
    command = ["fetch-eval-data", "--check", "--tasks", "sums", "--task-definitions", str(folder)]
    checked = subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", *command], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 2
    assert "doc_to_target: 2 is none of 2 choices" in checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_generated_text_without_room_in_the_models_sequences_is_said_before_training(folder):
    """It was said when all was trained."""
    for name, tokens in (("long", 64), ("short", 63)):
        user_task(
            folder, name, output_type="generate_until", doc_to_choice=None, doc_to_target="q",
            metric_list=[{"metric": "exact_match"}], generation_kwargs={"until": ["."], "max_gen_toks": tokens},
        )  # fmt: skip
    check(["short"], user_tasks=folder, seq_len=64)
    with pytest.raises(
        UserError, match="task long: generates up to 64 tokens, but the model is trained on sequences of 64"
    ):
        check(["short", "long"], user_tasks=folder, seq_len=64)
    check(["long"], user_tasks=folder)


def zipped(content: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sums.jsonl", content)
    return memory.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress, bytes, zipped])
def test_a_tasks_data_are_bounded_unpacked_before_the_dataset_library_unpacks_them(pack, folder, monkeypatch):
    """The library goes by the first bytes, whatever the name; one line or a file printed over many lines is held
    whole."""
    user_task(folder, "sums", rows=[{**QUESTION, "more": "a" * 2**20}] * 2)
    data = folder / "sums.jsonl"
    data.write_bytes(pack(data.read_bytes()))
    monkeypatch.setenv("TST_TITAN_MAX_TASK_DATA_BYTES", str(2 * 2**20))
    with pytest.raises(
        UserError, match=r"^\S*/sums\.jsonl: more than 2,097,152 bytes, the most that a task's data file may have, unpacked; .* "  # noqa: E501
        "set the environment's TST_TITAN_MAX_TASK_DATA_BYTES$",
    ):  # fmt: skip
        load(folder)
    assert not (folder / "cache").exists()
    monkeypatch.setenv("TST_TITAN_MAX_TASK_DATA_BYTES", str(3 * 2**20))
    assert len(load(folder)["tasks"]["sums"].eval_docs) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
        "a: &a [*a]\n",
    ],
    ids=["explodes", "in a circle"],
)
def test_a_definition_of_aliases_without_end_stands_in_the_way_of_no_other_task(text, folder):
    """Whoever looked for code in it walked 2^40 values: every command that reads the folder stood still."""
    user_task(folder, "sums")
    (folder / "large.yaml").write_text(f"task: large\n{text}")
    load(folder)
    with pytest.raises(
        UserError, match=r"large\.yaml: task large cannot be read: (it holds more than 100000|no valid YAML)"
    ):
        load(folder, "large")


def test_one_enormous_definition_stands_in_the_way_of_no_other_task(folder):
    user_task(folder, "sums")
    with (folder / "large.yaml").open("w") as file:
        file.write("task: large\nnote: ")
        file.truncate(2**30)
    load(folder)
    with pytest.raises(
        UserError,
        match=r"large\.yaml: task large cannot be read: .* more than 16,777,216 bytes, the most that a YAML file",
    ):
        load(folder, "large")
