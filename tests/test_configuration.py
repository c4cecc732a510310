"""The workflow's configuration has a schema: a mistake is one line that names the place, the key and the mend."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkouts import REPOSITORY, copy_checkout

from tst_titan.configuration import (
    Configuration,
    Source,
    check_models,
    read_configuration,
    site_file,
    sources_of,
)
from tst_titan.errors import UserError
from tst_titan.train.hardware_section import hardware_of


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/config.yaml").write_text((REPOSITORY / "workflow/config.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TST_TITAN_SITE", raising=False)
    return tmp_path


def configured(site_text: str = "", /, **command_line: Any) -> Configuration:
    """The configuration with a site file of this text and Snakemake's reading of --config."""
    if site_text:
        Path("site.yaml").write_text(site_text)
    return read_configuration(sources_of(site_file(), (), command_line))


def test_the_files_of_the_workflow_say_what_the_code_takes_for_granted(checkout: Path) -> None:
    assert configured() == Configuration()


def test_later_sources_win_and_sections_join(checkout: Path) -> None:
    Path("more.yaml").write_text("evaluation: {processes: 3}\ndata: {most_jobs: 7}\n")
    Path("site.yaml").write_text("results: /scratch/me\nsite: {partition: gpu, gpus_per_node: 8}\n")
    site = site_file()
    found = read_configuration(
        sources_of(site, [Path("more.yaml")], {"evaluation": {"processes": "4"}, "site": {"account": "me"}})
    )
    assert found.results == Path("/scratch/me")
    assert (found.site.partition, found.site.gpus_per_node, found.site.account) == ("gpu", 8, "me")
    assert found.evaluation.processes == 4
    assert (found.data.most_jobs, found.data.tokens_per_job) == (7, 1_000_000_000)


def test_what_the_command_line_gives_as_text_is_read_as_what_it_means(checkout: Path) -> None:
    """Snakemake leaves everything within `--config 'site={...}'` text; numbers and truth values of `site` were
    refused."""
    site = {"gpus_per_node": "4", "utilization": "0.5", "ask_memory": "false", "account": "0123"}
    hardware = {"processes": "2", "compile": "true"}
    found = configured(site=site, hardware=hardware, max_segment_steps="null", data={"most_jobs": "5"})
    assert (found.site.gpus_per_node, found.site.utilization, found.site.ask_memory) == (4, 0.5, False)
    assert found.site.account == "0123"
    assert hardware_of(found.hardware, "3B").processes == 2
    assert found.max_segment_steps is None
    assert found.data.most_jobs == 5
    assert configured(hardware=None, max_segment_steps=None) == Configuration()
    assert configured(max_segment_steps=100.0).max_segment_steps == 100


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("hardwrae: {processes: 2}", "site.yaml: hardwrae: unknown key; allowed: studies, results, hardware, evaluation, max_segment_steps, site, data; did you mean 'hardware'?"),
        ("resutls: /scratch/me", "site.yaml: resutls: unknown key; .*did you mean 'results'"),
        ("evaluation: {proceses: 2}", "site.yaml: evaluation.proceses: unknown key; allowed: processes, trust_tasks; did you mean 'processes'"),
        ("evaluation: {trust_tasks: 1}", "site.yaml: evaluation.trust_tasks = 1: must be true or false"),
        ("data: {tokens_per_jobs: 2}", "site.yaml: data.tokens_per_jobs: unknown key; .*did you mean 'tokens_per_job'"),
        ("site: {partiton: gpu}", "site.yaml: site.partiton: unknown key; .*did you mean 'partition'"),
        ("hardware: {proceses: 2}", "site.yaml: hardware.proceses: unknown key; .*did you mean 'processes'"),
        ("evaluation:", "site.yaml: evaluation: is empty; write its settings below it"),
        ("data:", "site.yaml: data: is empty"),
        ("site:", "site.yaml: site: is empty"),
        ("results:", "site.yaml: results = None: must be a folder's path"),
        ("results: 2026", "site.yaml: results = 2026: must be a folder's path in text"),
        ("results: [a]", r"site.yaml: results = \['a'\]: must be a folder's path"),
        ("studies: '{me}'", r"site.yaml: studies = '\{me\}': braces cannot be part"),
        ("evaluation: 2", r"site.yaml: evaluation = 2: must be a mapping of settings, such as evaluation: \{processes: 1\}"),
        ("evaluation: {processes: 0}", "site.yaml: evaluation.processes = 0: must be a whole number from 1"),
        ("evaluation: {processes: true}", "site.yaml: evaluation.processes = True: must be a whole number"),
        ("data: {most_jobs: 1.5}", "site.yaml: data.most_jobs = 1.5: must be a whole number"),
        ("max_segment_steps: abc", "site.yaml: max_segment_steps = 'abc': must be a whole number from 1 .null: never split"),
        ("max_segment_steps: -5", "site.yaml: max_segment_steps = -5: must be"),
        ("hardware: two", "site.yaml: hardware = 'two': must be a mapping"),
        ("hardware: []", r"site.yaml: hardware = \[\]: must be a mapping"),
        ("site: {gpus_per_node: many}", "site.yaml: site.gpus_per_node = 'many': must be a number"),
        ("# nothing yet", "site.yaml: must be a mapping of keys to values .such as 'results: /scratch/me/results'., but is empty"),
        ("- results", "site.yaml: must be a mapping .* but is a list"),
        ("results: a\nresults: b", "site.yaml, line 2, column 1: the key 'results' is written twice"),
        ("site:\n\tpartition: gpu", "site.yaml, line 2, column 1: found character"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_site_file_is_one_line(checkout: Path, site: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as told:
        configured(site)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        ({"hardwrae": {"processes": "2"}}, "--config: hardwrae: unknown key; .*did you mean 'hardware'"),
        ({"max_segment_steps": "abc"}, "--config: max_segment_steps = 'abc': must be a whole number"),
        ({"max_segment_steps": True}, "--config: max_segment_steps = True: must be a whole number"),
        ({"evaluation": None}, "--config: evaluation: is empty"),
        ({"site": {"gpus_per_node": "x"}}, "--config: site.gpus_per_node = 'x': must be a number"),
        ({"site": "gpu"}, "--config: site: 'gpu': must be a mapping"),
        ({"results": 7}, "--config: results = 7: must be a folder's path"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(checkout: Path, command_line: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        configured(**command_line)


def test_every_wrong_section_is_told_at_once_with_its_place(checkout: Path) -> None:
    with pytest.raises(UserError) as told:
        configured("resutls: a\nevaluation:\n", max_segment_steps="abc")
    first, second, third = str(told.value).splitlines()
    assert first.startswith("site.yaml: resutls: unknown key")
    assert second.startswith("site.yaml: evaluation: is empty")
    assert third.startswith("--config: max_segment_steps = 'abc'")


def test_hardware_of_an_unknown_model_names_the_source_that_has_it() -> None:
    sources = [Source("site.yaml", {"hardware": {"models": {"3B": {}}}}), Source("--config", {"hardware": {"models": {"10B": {}}}})]  # fmt: skip
    with pytest.raises(UserError, match=r"^--config: hardware\.models\.10B: no study .* did you mean '10B-A1B'"):
        check_models(sources, ["3B", "10B-A1B"])


def test_a_site_file_that_is_named_and_missing_is_an_error(checkout: Path) -> None:
    with pytest.raises(UserError, match=r"^other\.yaml: no such file \(named by TST_TITAN_SITE\)"):
        site_file({"TST_TITAN_SITE": "other.yaml"})
    assert site_file({}) is None


@pytest.mark.parametrize(
    ("site", "words", "message"),
    [
        ("# results: /scratch/me\n", (), "error: site.yaml: must be a mapping"),
        ("hardwrae: {}\n", (), "error: site.yaml: hardwrae: unknown key"),
        ("", ("--config", "max_segment_steps=abc"), "error: --config: max_segment_steps = 'abc'"),
        ("", ("--config", "evaluation="), "error: --config: evaluation: is empty"),
        ("", ("--configfile", "mine.yaml"), "mine.yaml: evaluation.proceses: unknown key"),
    ],
)
def test_snakemake_says_it_before_anything_is_planned(
    tmp_path: Path, site: str, words: tuple[str, ...], message: str
) -> None:
    """An empty site file was blamed on a line of the Snakefile, the others were tracebacks or went unnoticed."""
    copy_checkout(tmp_path)
    if site:
        (tmp_path / "site.yaml").write_text(site)
    (tmp_path / "mine.yaml").write_text("evaluation: {proceses: 2}\n")
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "local", "-n", "studies/quickstart", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert "Snakefile" not in run.stderr
