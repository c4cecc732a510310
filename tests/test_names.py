"""Names become paths: none leads out of its folder, is hidden, holds what a shell reads, or is too long for a file
system."""

from pathlib import Path

import pytest
import yaml

from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint
from tst_titan.names import is_name, is_segment_id
from tst_titan.plan import load_plans
from tst_titan.study import load_study

GOOD = {
    "corpus": {"source": "python-stdlib", "tokenizer": "bpe-4096", "validation_tokens": "200k"},
    "models": ["2M"],
    "steps": 1200,
    "arms": {"baseline": {}},
    "training": {"seq_len": 128, "sequences_per_step": 8, "warmup_steps": 60},
}
BAD = [
    "", ".", "..", ".hidden", "a/b", "a/../../x", "/abs", "a b", "two\nlines", "ends\n", "x" * 300, "-dash", "x$(id)", "x;y", "x'y",  # noqa: E501
    "x{y}", "é", "a\0b", "a\\b", "~", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_name_with_teeth_is_refused_wherever_a_study_may_give_one(name: str, tmp_path: Path) -> None:
    assert not is_name(name)
    assert not is_segment_id(f"2M-baseline/{name}")
    shape = {
        "architecture": "llama3",
        "dim": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "ffn_dim": 64,
    }
    source = {"source": "python-stdlib"}
    places = [
        {"arms": {name: {}}},
        {"models": {name: {"shape": shape}}},
        {"evaluate": {"tasks": [name]}},
        {"corpus": {"sources": {name: source}, "mix": {name: 1.0}, "tokenizer": "bpe-4096"}},
    ]
    for number, place in enumerate(places):
        file = tmp_path / f"place-{number}.yaml"
        file.write_text(yaml.safe_dump(GOOD | place))
        with pytest.raises(UserError) as caught:
            load_study(file)
        assert all(line.startswith(str(file)) for line in str(caught.value).splitlines())
    with pytest.raises(UserError, match="no id of a segment"):
        find_checkpoint(tmp_path, f"2M-baseline/{name}")


@pytest.mark.parametrize("stem", ["my study", "x$(touch pwned)", "ends\n", ".hidden", "-n", "x" * 200, "a'b"])
def test_a_study_files_name_is_held_to_the_same_rule(stem: str, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(GOOD))
    bad = tmp_path / f"{stem}.yaml"
    bad.write_text(yaml.safe_dump(GOOD))
    with pytest.raises(UserError, match="rename the file"):
        load_study(bad)
    plans, errors = load_plans(tmp_path, tmp_path / "results")
    # A hidden file is no study to the folder's readers.
    assert (list(plans), list(errors)) == (["good"], [] if stem.startswith(".") else [stem])


def test_a_task_named_on_the_command_line_stays_below_the_segments_folder(tmp_path: Path) -> None:
    from tst_titan.evaluate.suites import Tasks

    with pytest.raises(UserError, match="a name is up to 100"):
        Tasks(["a/../../x"], corpus_tasks=None, user_tasks=None)
