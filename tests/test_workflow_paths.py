"""Paths with teeth: a checkout and a results folder whose names a shell would split or run are paths like any other."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
RESULTS = "it's $(touch pwned) my results; touch pwned"
STUDY = {
    "corpus": {"source": "texts", "sources": {}, "tokenizer": "bpe-512", "validation_tokens": "5k"},
    "models": {
        "tiny": {
            "shape": {
                "dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "ffn_dim": 64,
            },
            "learning_rate": 1e-2,
        }
    },
    "steps": 10,
    "arms": {"baseline": {}},
    "training": {"seq_len": 64, "sequences_per_step": 2, "warmup_steps": 1, "precision": "float32", "block_tokens": 256},  # noqa: E501
}  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths") / "a check`touch pwned`out & $(touch pwned) 'more"
    folder.mkdir()
    for name in ("workflow", "local"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    texts = folder / "$(touch pwned) texts"
    texts.mkdir()
    for module in sorted(Path(os.__file__).parent.glob("*.py"))[:40]:
        shutil.copy(module, (texts / module.name).with_suffix(".txt"))
    STUDY["corpus"]["sources"] = {"texts": {"kind": "files", "path": str(texts)}}  # type: ignore[index]
    (folder / "my studies").mkdir()
    (folder / "my studies" / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    (folder / "site.yaml").write_text(yaml.safe_dump({"results": RESULTS, "studies": "my studies"}))
    return folder


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("snakemake")), "--profile", "local", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=500)


def test_a_study_is_built_where_paths_hold_spaces_quotes_and_commands(checkout: Path) -> None:
    built = snakemake(checkout, "my studies/tiny")
    assert built.returncode == 0, built.stdout + built.stderr
    assert (checkout / "my studies" / "tiny" / "report.html").is_file()
    assert len(list((checkout / RESULTS / "segments").glob("*/*/done.json"))) == 2
    assert not list(checkout.parent.rglob("pwned"))


def test_every_command_of_the_workflow_names_its_paths_whole(checkout: Path) -> None:
    """Those that the small study does not run: their words are what the rule means, each one word."""
    (checkout / "my studies" / "other.yaml").write_text(
        yaml.safe_dump(STUDY | {"seeds": [7], "evaluate": {"tasks": "offline"}})
    )
    segments = subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", "plan", "my studies/other", "--json", "--results", RESULTS],
        cwd=checkout, capture_output=True, text=True, check=True,
    )  # fmt: skip
    final = yaml.safe_load(segments.stdout)["runs"][0]["segments"][-1]
    corpus = yaml.safe_load(segments.stdout)["corpora"][0]["id"]
    work = f"{RESULTS}/data/{corpus}/.work"
    targets = [
        f"{RESULTS}/exports/{final}",
        f"{RESULTS}/evaluations/{final}/offline.json",
        f"{work}/part-1-of-3",
    ]
    shown = snakemake(checkout, "-n", "-p", *targets, "fetch_eval_data")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    commands = {}
    for line in (shown.stdout + shown.stderr).splitlines():
        if " -m tst_titan.cli " in line:
            words = shlex.split(line.strip().removeprefix("Shell command: "))
            after = words[words.index("tst_titan.cli") + 1 :]
            commands[" ".join(word for word in after[:2] if word.isalpha() or "-" in word[1:])] = after
    results = [words[words.index("--results") + 1] for words in commands.values() if "--results" in words]
    assert len(results) >= 4
    assert set(results) == {RESULTS}
    redirected = [words[-3:] for words in commands.values() if words[-1] == "2>&1"]
    assert sorted(words[1] for words in redirected) == sorted(
        [f"logs/evaluations/{final}/offline.log", f"logs/exports/{final}.log"]
    )
    definitions = [
        words[words.index("--task-definitions") + 1] for words in commands.values() if "--task-definitions" in words
    ]
    assert set(definitions) == {"my studies/tasks"}
    assert any(words[:3] == ["data", "build", "my studies"] for words in commands.values())


def test_braces_in_a_path_are_refused_before_anything_is_planned(checkout: Path) -> None:
    refused = snakemake(checkout, "-n", "--config", "results=re{sul}ts")
    assert refused.returncode != 0
    assert "results = 're{sul}ts': braces cannot be part of this path" in refused.stdout + refused.stderr
