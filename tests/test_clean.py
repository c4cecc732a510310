"""`make clean` deletes what builds made, and no folder of the user's, however it is named or linked."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from checkouts import REPOSITORY, copy_workflow

from tst_titan.built import MARK, built_files, built_folder
from tst_titan.cli import main
from tst_titan.cluster.snakemake_internals import DIRECTORY_STAMP


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with sources and a user's folders, in which `studies/published` is built."""
    folder = copy_workflow(tmp_path / "my checkout")
    shutil.copy(REPOSITORY / "Makefile", folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TST_TITAN_SITE", raising=False)
    write("tests/test_mine.py", "studies/mine.yaml", "studies/tasks/own.yaml", "studies/base/defaults.yaml")
    assert main(["published", "--out", "studies/published"]) == 0
    return folder


def write(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("mine")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def make_clean(folder: Path) -> str:
    done = subprocess.run(
        ["make", "-s", "clean", f"VENV={sys.prefix}"], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def remaining(before: Iterable[str], gone: Iterable[str]) -> set[str]:
    return {name for name in before if not name.startswith(tuple(gone))}


def test_make_clean_deletes_what_was_built_and_no_source(checkout: Path) -> None:
    """A folder `studies/old tests/` made it run `rm -rf tests/`, and folders that studies extend went too."""
    write("studies/old tests/notes.txt", "studies/$(touch pwned)/notes.txt")
    write("results/data/c-1/corpus.json", "results/segments/a/b/done.json", "results/exports/a/README.md")
    write("results/my notes.txt", "logs/slurm/rule_train/1.log", ".snakemake/log/one", ".venv/bin/kept")
    before = files(checkout)
    told = make_clean(checkout)
    gone = ("results/data", "results/segments", "results/exports", "logs", ".snakemake", "studies/published/")
    assert files(checkout) == remaining(before, gone)
    assert not (checkout / "studies/published").exists()
    assert not (checkout / "logs").exists()
    assert "deleting results/segments\n" in told
    assert "deleting studies/published/report.html\n" in told
    assert make_clean(checkout) == ""


def test_what_was_cleaned_is_built_again(checkout: Path) -> None:
    """Snakemake's stamp stayed in the folder, which then counted as built: `make clean quickstart` did nothing."""

    def snakemake(*words: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--profile", "local", "studies/published", *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        return done.stdout + done.stderr

    make_clean(checkout)
    snakemake()
    assert (checkout / "studies/published" / DIRECTORY_STAMP).exists()
    assert "Nothing to be done" in snakemake("-n")
    make_clean(checkout)
    assert not (checkout / "studies/published").exists()
    assert "Rebuild the published study" in snakemake("-n")
    # As earlier versions left it.
    write(f"studies/published/{DIRECTORY_STAMP}")
    assert make_clean(checkout).splitlines()[-1] == f"deleting studies/published/{DIRECTORY_STAMP}"
    assert not (checkout / "studies/published").exists()


def test_a_dry_run_lists_the_same_and_deletes_nothing(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("results/data/c-1/corpus.json")
    before = files(checkout)
    capsys.readouterr()
    assert main(["clean", "--dry-run"]) == 0
    assert "would delete results/data\n" in capsys.readouterr().out
    assert files(checkout) == before


def test_links_are_not_followed_and_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = checkout.parent / "scratch"
    shutil.copytree(checkout / "studies/published", outside / "built")
    (outside / "segments").mkdir()
    (outside / "segments" / "mine").write_text("mine")
    (checkout / "results").symlink_to(outside)
    (checkout / "studies/linked").symlink_to(outside / "built")
    before = files(outside)
    assert main(["clean"]) == 0
    assert files(outside) == before
    assert (checkout / "results").is_symlink()
    assert (checkout / "studies/linked").is_symlink()
    assert f"left: results: is a symbolic link to {outside}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ("../shared results", "outside of this checkout, where others may use it"),
        (".", "is the checkout itself"),
    ],
)
def test_results_that_are_not_this_checkouts_alone_stay(
    results: str, reason: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "site.yaml").write_text(f"results: {results}\n")
    write(f"{results}/segments/a/done.json", f"{results}/data/c/corpus.json")
    shared = checkout / results
    assert main(["clean"]) == 0
    assert (shared / "segments/a/done.json").exists()
    assert (shared / "data/c/corpus.json").exists()
    assert reason in capsys.readouterr().out


def test_results_and_studies_of_other_names_in_the_checkout_are_cleaned(checkout: Path) -> None:
    (checkout / "site.yaml").write_text("results: my results\nstudies: my studies\n")
    write("my results/segments/a/done.json", "my studies/mine.yaml")
    shutil.move("studies/published", "my studies/published")
    assert main(["clean"]) == 0
    assert not (checkout / "my results").exists()
    assert files(checkout / "my studies") == {"mine.yaml"}


def test_a_configuration_that_cannot_be_read_deletes_nothing(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "site.yaml").write_text("resutls: /scratch/me\n")
    before = files(checkout)
    assert main(["clean"]) == 2
    assert "site.yaml: resutls: unknown key" in capsys.readouterr().err
    assert files(checkout) == before


def test_another_folder_than_a_checkout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("results/data/mine")
    assert main(["clean"]) == 2
    assert "not a checkout of tst-titan" in capsys.readouterr().err
    assert files(tmp_path) == {"results/data/mine"}


def test_a_users_file_in_a_built_folder_stays(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("studies/published/notes.txt")
    # A build over it does not make it the build's.
    assert main(["published", "--out", "studies/published"]) == 0
    capsys.readouterr()
    assert main(["clean"]) == 0
    assert files(checkout / "studies/published") == {"notes.txt"}
    assert "left: studies/published: notes.txt (made by no build)\n" in capsys.readouterr().out


def test_a_report_without_a_mark_stays_and_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an earlier version built cannot be told from a copy that a user keeps."""
    (checkout / "studies/published" / MARK).unlink()
    before = files(checkout)
    assert main(["clean"]) == 0
    assert files(checkout) == before
    assert "left: studies/published: a report without the mark of a build" in capsys.readouterr().out


def test_a_mark_names_files_of_its_own_folder_alone(tmp_path: Path) -> None:
    write(str(tmp_path / "thesis.tex"))
    folder = tmp_path / "built"
    with built_folder(folder):
        write(str(folder / "table.csv"))
    marked = json.loads((folder / MARK).read_text())
    assert marked == {"files": ["table.csv"]}
    names = ["../thesis.tex", str(tmp_path / "thesis.tex"), "..", "", ".", 7, "table.csv"]
    (folder / MARK).write_text(json.dumps({"files": names}))
    assert built_files(folder) == [folder / "table.csv"]


def test_a_build_that_breaks_off_marks_what_it_made(tmp_path: Path) -> None:
    folder = tmp_path / "built"

    def broken_off() -> None:
        with built_folder(folder):
            write(str(folder / "table.csv"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert built_files(folder) == [folder / "table.csv"]
