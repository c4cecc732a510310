"""What leaves the machine names no machine, and text of others' files stays text wherever it is shown."""

import csv
import io
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from collect_support import STUDY, fill_results, make_plan, write_evaluation
from evaluate_segments import DENSE, initialized, results
from rich.console import Console

import tst_titan
from tst_titan import cli
from tst_titan.collect.status import show_status
from tst_titan.errors import UserError
from tst_titan.evaluate.export import export, read_export
from tst_titan.evaluate.model_card import model_card
from tst_titan.files import read_json, write_json
from tst_titan.report.study import collect_study
from tst_titan.report.summary import print_summary
from tst_titan.shown import csv_text, hide_paths, markdown_text, printable
from tst_titan.train.titan import provenance

EVIL = "<img src=x onerror=alert(1)> [click](https://evil.example) | ![](https://evil.example/x)"
RED = "\x1b[31mred\x1b]0;title\x07\u202e"


def test_an_export_and_its_card_name_no_host_kernel_job_or_folder(tmp_path: Path) -> None:
    segment = initialized(DENSE)
    own = tmp_path / "results"
    shutil.copytree(results() / "segments" / segment.id, own / "segments" / segment.id)
    (own / "data").symlink_to(results() / "data")
    folder = own / "segments" / segment.id
    machine = {
        "host": "node-0123",
        "system": "Linux-6.1.0-secret",
        "slurm_job_id": "777",
        "slurm_job_ids": ["777"],
    }
    write_json(
        folder / "provenance.json",
        {**machine, "tst_titan": "1", "git_commit": "feed", "packages": {"torch": "2"}, "device": "H100"},
    )
    done = read_json(folder / "done.json")
    attempt = {"start": 1.0, "end": 2.0, "outcome": "finished", **machine, "slurm_restart": 0, "nodes": 1}
    write_json(folder / "done.json", done | {"attempts": [attempt]})
    out = export(own, segment.id)
    record = read_export(out)
    assert record["provenance"] == {
        "tst_titan": "1",
        "git_commit": "feed",
        "packages": {"torch": "2"},
        "device": "H100",
    }
    assert record["done"]["attempts"] == [{"start": 1.0, "end": 2.0, "outcome": "finished", "nodes": 1}]
    texts = (out / "tst_titan.json").read_text() + (out / "README.md").read_text()
    for secret in ("node-0123", "secret", "777", str(tmp_path), str(results()), socket.gethostname()):
        assert secret not in texts
    assert not re.search(r'"[~/][^"]', (out / "tst_titan.json").read_text())
    # Its own record keeps them.
    assert read_json(folder / "provenance.json")["host"] == "node-0123"


@pytest.mark.parametrize("wrong", [None, "3.5", {}], ids=["missing", "text", "a mapping"])
def test_a_number_that_done_json_lacks_is_one_error(wrong: object, tmp_path: Path) -> None:
    """It was a traceback, after all weights were written."""
    segment = initialized(DENSE)
    own = tmp_path / "results"
    shutil.copytree(results() / "segments" / segment.id, own / "segments" / segment.id)
    (own / "data").symlink_to(results() / "data")
    path = own / "segments" / segment.id / "done.json"
    done = read_json(path)
    done.pop("validation_loss") if wrong is None else done.update(validation_loss=wrong)
    write_json(path, done)
    with pytest.raises(UserError, match=rf"done\.json: not whole.* run again: tst-titan train {segment.id}"):
        export(own, segment.id)
    assert not (own / "exports" / segment.id).exists()


def test_a_model_card_takes_no_html_links_or_cells(tmp_path: Path) -> None:
    out = export(results(), initialized(DENSE).id, out=tmp_path / "export")
    record = read_export(out)
    record["provenance"] = {"git_commit": EVIL, "packages": {EVIL: EVIL}, "tst_titan": RED}
    corpus = read_json(next((results() / "data").glob("*/corpus.json")))
    corpus["sources"] = [{"name": EVIL + "\n\n# Title", "weight": 1.0}]
    card = model_card(record, corpus)
    assert "<img" not in card
    assert not re.search(r"(?<!\\)\[click", card)
    assert "\n# Title" not in card
    assert "\x1b" not in card
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in card.splitlines() if row.startswith("|"))


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """A study whose results are an absolute path with a space, with a task of an evil name."""
    plan = make_plan(tmp_path, STUDY + "description: see /home/alice/notes/todo.txt\n")
    where = tmp_path / "scratch of alice" / "results"
    fill_results(plan, where)
    scores = dict.fromkeys(("=HYPERLINK(1)", EVIL, RED), (0.5, None))
    write_evaluation(where, plan.segments[plan.runs[0].final], scores)
    # A notice that names a file of the results.
    (where / "segments" / plan.runs[1].final / "metrics.jsonl").unlink()
    found, findings = collect_study(plan, plan.file, where, tmp_path / "out")
    with (tmp_path / "terminal").open("w") as file:
        print_summary(found, findings, tmp_path / "out", Console(file=file, width=200))
    return tmp_path


def test_the_page_names_no_folder_of_the_machine(collected: Path) -> None:
    page = (collected / "out" / "report.html").read_text()
    assert str(collected) not in page
    assert "scratch of alice" not in page
    assert "/home/alice" not in page
    assert "see …/todo.txt" in page
    assert re.search(r"results/segments/\S+metrics\.jsonl", page)


def test_tables_are_text_alone(collected: Path) -> None:
    table = (collected / "out" / "table.md").read_text()
    assert "<img" not in table
    assert not re.search(r"(?<!\\)\[click", table)
    assert "\x1b" not in table
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    for file in (collected / "out").glob("*.csv"):
        rows = list(csv.reader(io.StringIO(file.read_text())))
        cells = [cell for row in rows for cell in row]
        assert not [cell for cell in cells if re.match(r"[=@\t\r]|[+-](?![\d.]|inf)", cell)], file
    assert "'=HYPERLINK(1)" in (collected / "out" / "table.csv").read_text()


def test_no_escape_sequence_reaches_the_terminal(
    collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\x1b" not in (collected / "terminal").read_text()
    plan = make_plan(tmp_path, STUDY, name="failed")
    where = tmp_path / "failed results"
    folder = where / "segments" / plan.runs[0].segments[0]
    write_json(folder / "attempts.json", [{"start": 1.0, "end": 2.0, "outcome": "failed", "step": None}])
    write_json(folder / "failure.json", {"message": RED})
    shown = io.StringIO()
    show_status(plan.file, where, Console(file=shown, width=200))
    assert "\\x1b[31mred" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()
    (tmp_path / "bad.yaml").write_text(f"steps: 10\n{json.dumps('a' + RED)}: 1\n")
    assert cli.main(["plan", str(tmp_path / "bad.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert str(UserError(f"x: {RED}\nsecond line")) == f"x: {printable(RED)}\nsecond line"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/scratch/me/results/segments/a", "…/a"),
        ("in /a b/results/x and ~/texts/y.txt", "in results/x and …/y.txt"),
        ("https://example.org/a/b, 5 tokens/s, a/b/c, ./x/y, / 2", "https://example.org/a/b, 5 tokens/s, a/b/c, ./x/y, / 2"),  # noqa: E501
        ("/a b/results2/x", "/a b/results2/x"),
    ],
)  # fmt: skip
def test_absolute_paths_lose_their_folders_and_nothing_else_does(text: str, shown: str) -> None:
    assert hide_paths(text, {"/a b/results": "results"}) == shown


def test_numbers_and_plain_words_stay_what_they_are() -> None:
    assert [csv_text(text) for text in ("-0.5", "+1e3", "tiny-tst", "")] == ["-0.5", "+1e3", "tiny-tst", ""]
    assert csv_text("-1+cmd") == "'-1+cmd"
    assert markdown_text("tiny_tst s4 0.28 ± 0.01 —") == "tiny_tst s4 0.28 ± 0.01 —"
    assert printable("ü 🙂\tx\n") == "ü 🙂\tx\n"


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def other_repository(tmp_path: Path) -> Path:
    """Another project's repository whose configuration runs a program at each `git status`."""
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("x")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "x")
    hook = tmp_path / "monitor.sh"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))
    return tmp_path


def test_an_installed_package_records_no_commit_of_the_repository_around_it(other_repository: Path) -> None:
    """`.venv/lib/.../site-packages` in another project: its commit was recorded, and its fsmonitor hook ran."""
    site_packages = other_repository / ".venv" / "lib" / "site-packages"
    site_packages.mkdir(parents=True)
    assert provenance._git(site_packages) == {"git_commit": None, "git_dirty": None}
    assert not (other_repository / "it-ran").exists()


def test_the_commit_of_a_checkout_is_recorded_without_running_its_configuration(
    other_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a git hook of some other repository.
    monkeypatch.setenv("GIT_DIR", str(other_repository / "nowhere"))
    found = provenance._git(other_repository)
    assert re.fullmatch("[0-9a-f]{40}", found["git_commit"])
    assert found["git_dirty"] is True  # monitor.sh
    assert not (other_repository / "it-ran").exists()


def test_the_checkout_is_where_the_package_lies() -> None:
    assert (provenance.CHECKOUT / "tst_titan").samefile(Path(tst_titan.__file__).parent)
