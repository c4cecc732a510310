"""`snakemake --lint` is answered line by line: what it says of the workflow is mended, or accepted here with the
reason."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import REPOSITORY, copy_workflow

CORPORA = ("corpus_listing", "corpus_part", "corpus", "corpus_growth")
RULES = (*CORPORA, "train", "restore", "export", "evaluate", "fetch_eval_data", "study", "published")
OUTSIDE = "Shell command directly uses variable {} from outside of the rule"
# By lint: the rules that it names, and why they are as they are.
ACCEPTED = {
    "Specify a conda environment or container for each rule.": (
        RULES,
        "All rules run the package itself, in the environment that Snakemake runs in; constraints/ pins it, and a "
        "site's `setup` "
        "and `srun_options` bring modules or a container.",
    ),
    "No log directive defined": (
        (*CORPORA, "train", "restore", "fetch_eval_data", "study", "published"),
        "Training's log lies with its segment (train.log), where `tst-titan status` reads it, and what a user follows "
        "is printed; the others "
        "take minutes and run one at a time, in the terminal, where a mistake of the user's is to be seen.",
    ),
    OUTSIDE.format("TST_TITAN"): (
        RULES,
        "The command of the Python that runs Snakemake, the same in all rules.",
    ),
    OUTSIDE.format("STUDIES"): (
        (*CORPORA, "train", "restore", "study"),
        "A param is a reason to run again (rerun-triggers: params): moving the studies would train all of them anew.",
    ),
    OUTSIDE.format("RESULTS"): (
        (*CORPORA, "train", "restore", "export", "evaluate", "study"),
        "As STUDIES: results that are moved to another disk are the same results.",
    ),
    OUTSIDE.format("TITAN"): (
        ("train", "restore", "evaluate", "fetch_eval_data"),
        "Hardware, accelerator, processes and trust say how a job runs, never what it computes: another machine must "
        "not train again.",
    ),
}


@pytest.fixture(scope="module")
def lints(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Rule or file, and title, of each lint."""
    folder = copy_workflow(tmp_path_factory.mktemp("lint") / "checkout")
    environment = {key: value for key, value in os.environ.items() if key != "TST_TITAN_SITE"}
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"],
        cwd=folder, env=environment | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found, where = set(), ""
    for line in (run.stdout + run.stderr).splitlines():
        if head := re.fullmatch(r"Lints for (?:rule (\w+) \(.*\)|snakefile (.+)):", line):
            where = head[1] or Path(head[2]).name
        elif lint := re.fullmatch(r"    \* (.+):", line):
            found.add((where, lint[1]))
    assert found, run.stdout + run.stderr
    return found


def test_each_lint_is_mended_or_accepted_with_a_reason(lints: set[tuple[str, str]]) -> None:
    accepted = {(rule, lint) for lint, (rules, _) in ACCEPTED.items() for rule in rules}
    assert not lints - accepted, "mend it, or say here why not"
    assert not accepted - lints, "mended: take it off the list"
