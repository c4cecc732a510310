"""Broken definitions: one line each that names file, key, value and what is allowed; nothing else happens."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tst_titan import cli
from tst_titan.errors import UserError
from tst_titan.plan.planner import make_plans
from tst_titan.study import load_study
from tst_titan.study.corpus import Corpus
from tst_titan.study.definition import Arm, Study
from tst_titan.study.recipe import Training

GOOD = """\
corpus: {source: python-stdlib, tokenizer: bpe-4096, validation_tokens: 200k}
models: [2M]
steps: 1200
arms:
  baseline: {}
  tst: {bag_size: 4, step_ratio: 0.3}
training: {seq_len: 128, sequences_per_step: 8, warmup_steps: 60}
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# name: (text of the study, key path, what the message must say)
BROKEN: dict[str, tuple[str, str, list[str]]] = {
    "unknown key at the top": (GOOD + "step: 3\n", "step = 3", ["unknown key", "did you mean 'steps'?"]),
    "unknown key in an arm": (changed("bag_size: 4", "bagsize: 4"), "arms.tst.bagsize = 4", ["did you mean 'bag_size'?"]),
    "unknown key in training": (changed("seq_len", "sequence_len"), "training.sequence_len = 128", ["did you mean 'seq_len'?"]),
    "unknown key in corpus": (changed("source:", "sourc:"), "corpus.sourc", ["did you mean 'source'?"]),
    "unknown key in evaluate": (GOOD + "evaluate: {task: paper}\n", "evaluate.task = 'paper'", ["did you mean 'tasks'?"]),
    "unknown key in validation": (GOOD + "validation: {evry: 3}\n", "validation.evry = 3", ["did you mean 'every'?"]),
    "unknown key in a model": (changed("[2M]", "{2M: {learnin_rate: 1e-3}}"), "models.2M.learnin_rate = 0.001", ["did you mean 'learning_rate'?"]),
    "unknown key in a shape": (changed("[2M]", "{mine: {shape: {dims: 64}}}"), "models.mine.shape.dims = 64", ["did you mean 'dim'?"]),
    "unknown key in the experts": (
        changed("[2M]", "{mine: {shape: {architecture: qwen3_moe, dim: 64, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 32, moe: {experts: 3}}}}"),
        "models.mine.shape.moe.experts = 3",
        ["unknown key"],
    ),
    "unknown key in exclude": (GOOD + "exclude: [{modle: 2M}]\n", "exclude[0].modle = '2M'", ["did you mean 'model'?"]),
    "unknown key in include": (GOOD + "include: [{arm: tst, stepz: 3}]\n", "include[0].stepz = 3", ["did you mean 'steps'?"]),
    "misspelt model": (changed("[2M]", "[270m]"), "models", ["no such model '270m'", "did you mean '270M'?"]),
    "misspelt model of an arm": (changed("step_ratio: 0.3", "step_ratio: 0.3, models: 2m"), "arms.tst.models", ["did you mean '2M'?"]),
    "misspelt task": (GOOD + "evaluate: {tasks: helaswag}\n", "evaluate.tasks = 'helaswag'", ["did you mean 'hellaswag'?"]),
    "misspelt task in a list": (GOOD + "evaluate: {tasks: [paper, winogrand]}\n", "evaluate.tasks[1] = 'winogrand'", ["did you mean 'winogrande'?"]),
    "a task that is no name": (GOOD + "evaluate: {tasks: 'my task'}\n", "evaluate.tasks = 'my task'", ["lm-eval task"]),
    "evaluated at no time": (GOOD + "evaluate: {tasks: paper, at: often}\n", "evaluate.at = 'often'", ["every 10%"]),
    "evaluated all the time": (GOOD + "evaluate: {tasks: paper, at: every 1 steps}\n", "evaluate.at = 'every 1 steps'", ["1200 times", "at most 1000"]),
    "steps without end": (changed("1200", "1" + "0" * 30), "steps = 1000", ["must be at most 1000000000"]),
    "misspelt comparison": (GOOD + "compare: equal_flop\n", "compare = 'equal_flop'", ["did you mean 'equal_flops'?"]),
    "misspelt weighting": (changed("bag_size: 4", "bag_weighting: powerlaw, bag_size: 4"), "arms.tst.bag_weighting = 'powerlaw'", ["did you mean 'power_law'?"]),
    "misspelt source": (changed("python-stdlib", "python-stdlb"), "corpus = ", ["no such source 'python-stdlb'", "did you mean 'python-stdlib'?"]),
    "misspelt tokenizer": (changed("bpe-4096", "lama3"), "corpus.tokenizer = 'lama3'", ["did you mean 'llama3'?"]),
    "misspelt precision": (changed("seq_len: 128", "seq_len: 128, precision: bf16"), "training.precision = 'bf16'", ["float32", "did you mean 'bfloat16'?"]),
    "duplicate arms": (changed("baseline: {}", "baseline: {}\n  plain: {}"), "arms.baseline and arms.plain", ["the same run stands twice"]),
    "a run of the grid included again": (GOOD + "include: [{arm: tst, steps: 1200}]\n", "arms.tst", ["the same run stands twice"]),
    "empty grid": (changed("bag_size: 4", "bag_size: []"), "arms.tst.bag_size = []", ["at least one value"]),
    "no arms": (GOOD[: GOOD.index("arms:")] + "arms: {}\n", "arms = {}", ["at least one"]),
    "no models": (changed("[2M]", "[]"), "models = []", ["at least one"]),
    "no steps": (changed("steps: 1200\n", "\n"), "steps", ["is missing"]),
    "no corpus": (GOOD[GOOD.index("models:") :], "corpus", ["is missing"]),
    "step ratio 1.0": (changed("0.3", "1.0"), "arms.tst.step_ratio = 1.0", ["must be less than 1"]),
    "negative step ratio": (changed("0.3", "-0.1"), "arms.tst.step_ratio = -0.1", ["must be at least 0"]),
    "one bad step ratio of a grid": (changed("0.3", "[0.1, 1.5]"), "arms.tst.step_ratio[1] = 1.5", ["must be less than 1"]),
    "step ratio not a number": (changed("0.3", ".nan"), "arms.tst.step_ratio = nan", ["must be"]),
    "superposition ends inside the warmup": (changed("0.3", "0.04"), "arms.tst.step_ratio = 0.04", ["step 48, inside the warmup of 60 steps"]),
    "superposition ends inside the decay": (changed("0.3", "0.95"), "arms.tst.step_ratio = 0.95", ["step 1140, inside the decay that begins at step 1080"]),
    "exact superposition inside the decay": (changed("step_ratio: 0.3", "superposition_steps: 1100"), "arms.tst.superposition_steps = 1100", ["inside the decay"]),
    "superposition to the last step": (changed("step_ratio: 0.3", "superposition_steps: 1200, decay_fraction: 0"), "arms.tst.superposition_steps = 1200", ["steps for recovery"]),
    "ratio and exact steps": (changed("step_ratio: 0.3", "step_ratio: 0.3, superposition_steps: 360"), "arms.tst", ["not both"]),
    "bag size 0": (changed("bag_size: 4", "bag_size: 0"), "arms.tst.bag_size = 0", ["must be at least 1"]),
    "bag size without ratio": (changed(", step_ratio: 0.3", ""), "arms.tst", ["bag_size needs step_ratio"]),
    "ratio without bag size": (changed("bag_size: 4, ", ""), "arms.tst", ["need bag_size"]),
    "fitted weighting that grows": (changed("bag_size: 4", "bag_weighting: 'mutual_information(3, 1, 0.5)', bag_size: 4"), "arms.tst.bag_weighting = 'mutual_information(3, 1, 0.5)'", ["k zero or less", "tst-titan data stats"]),
    "weighting of an input-only arm": (changed("bag_size: 4", "bag_size: 4, superpose: input, bag_weighting: power_law"), "arms.tst", ["no bag_weighting"]),
    "re-initialization without superposition": (changed("baseline: {}", "baseline: {reinit_embeddings: true}"), "arms.baseline", ["without bag_size"]),
    "non-integer steps": (changed("steps: 1200", "steps: 1200.5"), "steps = 1200.5", ["must be a whole number"]),
    "steps as text": (changed("steps: 1200", "steps: many"), "steps = 'many'", ["must be a whole number"]),
    "steps yes": (changed("steps: 1200", "steps: yes"), "steps = True", ["must be a whole number"]),
    "learning rate as text": (changed("seq_len: 128", "learning_rate: fast"), "training.learning_rate = 'fast'", ["must be a number"]),
    "learning rate 0": (changed("seq_len: 128", "learning_rate: 0"), "training.learning_rate = 0", ["greater than 0"]),
    "no tokens": (changed("200k", "200 thousand"), "corpus.validation_tokens = '200 thousand'", ["10M or 1.5B"]),
    "a fraction of a token": (changed("200k", "1.23456k"), "corpus.validation_tokens = '1.23456k'", ["must be a whole number such as"]),
    "validation reads more than is held out": (GOOD + "validation: {tokens: 1M}\n", "corpus.validation_tokens = 200000", ["less is held out"]),
    "seed given twice": (GOOD + "seeds: [0, 1, 0]\n", "seeds = [0, 1, 0]", ["0 is given twice"]),
    "model given twice": (changed("[2M]", "[2M, 2M]"), "models", ["'2M' is given twice"]),
    "mix with a share of nothing": (changed("source: python-stdlib", "mix: {dclm: 0, fineweb-edu: 0.4}"), "corpus.mix.dclm = 0", ["greater than 0"]),
    "documents cut to their ends": (changed("200k}", "200k, max_document_tokens: 1}"), "corpus.max_document_tokens = 1", ["at least 2", "0: never cut"]),
    "patterns of a hub's dataset": (
        changed("source: python-stdlib", "source: own, sources: {own: {kind: hub, path: a/b, file_pattern: [x, y]}}"),
        "corpus.sources.own = ",
        ["one file_pattern"],
    ),
    "an empty list of paths": (
        changed("source: python-stdlib", "source: own, sources: {own: {kind: files, path: []}}"),
        "corpus.sources.own.path = []",
        ["text or a list"],
    ),
    "a model that is a number": (changed("[2M]", "0.5"), "models = 0.5", ["mapping of names", "stands in quotes"]),
    "an arm named no in a list": (GOOD + "exclude: [{arm: no}]\n", "exclude[0].arm = False", ["must be text", "YAML reads yes, no", "in quotes"]),
    "mix and source": (changed("source: python-stdlib", "source: dclm, mix: {dclm: 1.0}"), "corpus = ", ["either source"]),
    "warmup longer than the budget": (changed("warmup_steps: 60", "warmup_steps: 2000"), "training.warmup_steps = 2000", ["at most 1080"]),
    "arm that is no mapping": (changed("baseline: {}", "baseline: none"), "arms.baseline = 'none'", ["must be a mapping"]),
    "arm with a strange name": (changed("baseline: {}", "'../baseline': {}"), "arms", ["letters, digits"]),
    "excluded arm that is not there": (GOOD + "exclude: [{arm: ts}]\n", "exclude[0].arm = 'ts'", ["did you mean 'tst'?"]),
    "exclusion that matches nothing": (GOOD + "exclude: [{steps: 9}]\n", "exclude[0] = {'steps': 9}", ["leaves out nothing"]),
    "exclusion of everything": (GOOD + "exclude: [{model: 2M}]\n", "exclude = ", ["leaves no run"]),
    "included arm that is not there": (GOOD + "include: [{arm: base}]\n", "include[0].arm = 'base'", ["did you mean 'baseline'?"]),
    "included baseline with half a superposition": (GOOD + "include: [{arm: baseline, bag_size: 4}]\n", "include[0] = ", ["bag_size needs step_ratio"]),
    "catalogue model with another shape": (
        changed("[2M]", "{2M: {shape: {dim: 64, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 32, ffn_dim: 64}}}"),
        "models",
        ["give the new shape another name"],
    ),
    "heads that do not divide": (
        changed("[2M]", "{mine: {shape: {dim: 64, num_layers: 2, num_heads: 3, num_kv_heads: 2, head_dim: 32, ffn_dim: 64}}}"),
        "models.mine.shape",
        ["multiple of num_kv_heads"],
    ),
    "own model without a learning rate": (
        changed("[2M]", "{mine: {shape: {dim: 64, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 32, ffn_dim: 64}}}"),
        "learning_rate",
        ["is missing", "'mine'"],
    ),
    "extends nothing": (GOOD + "extends: nowhere.yaml\n", "extends = 'nowhere.yaml'", ["no such file"]),
    "extends a number": (GOOD + "extends: 3\n", "extends = 3", ["must be a file's path"]),
    "cyclic extends": (GOOD + "extends: broken.yaml\n", "extends = 'broken.yaml'", ["circle", "broken.yaml -> broken.yaml"]),
}  # fmt: skip

# Files that are no usable YAML have no key to name: a place in the file instead.
UNREADABLE: dict[str, tuple[bytes, list[str]]] = {
    "a list": (b"- 1\n- 2\n", ["must be a mapping", "a list"]),
    "a word": (b"hello\n", ["must be a mapping", "a str"]),
    "empty": (b"# nothing\n", ["must be a mapping", "empty"]),
    "no YAML": (b"steps: [1, 2\narms: {\n", ["line 2"]),
    "tabs": (b"arms:\n\tbaseline: {}\n", ["line 2"]),
    "two documents": (GOOD.encode() + b"---\nsteps: 3\n", ["line 8"]),
    "a key twice": (GOOD.encode() + b"steps: 3\n", ["line 8", "'steps' is written twice (first in line 3)"]),
    "an arm twice": (GOOD.replace("baseline", "tst").encode(), ["line 6", "'tst' is written twice"]),
    "not UTF-8": (GOOD.encode() + "description: Größe\n".encode("latin-1"), ["not UTF-8", "byte 2"]),
    "UTF-16": (GOOD.encode("utf-16"), ["not UTF-8"]),
    "a null byte": (GOOD.encode() + b"\x00", ["not YAML"]),
    "anchors that explode": (
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghi"),
        ["line 2", "alias '*a' is not allowed"],
    ),
    "an anchor inside itself": (b"a: &a [*a]\n", ["line 1", "alias"]),
    "a Python object": (b"steps: !!python/object/apply:os.getcwd []\n", ["line 1"]),
    "depth without end": (b"a: " + b"[" * 20000, ["nested too deeply"]),
    "a number with a leading zero": (
        changed("1200", "010").encode(),
        ["line 3", "'010' would be read as the number 8", "leading zero"],
    ),
    "a number of base 60": (
        changed("1200", "1:30").encode(),
        ["line 3", "'1:30' would be read as the number 90", "in quotes"],
    ),
    "a fraction of base 60": (
        GOOD.encode() + b"description: 1:30.5\n",
        ["line 8", "'1:30.5' would be read as the number 90.5"],
    ),
    "half of a surrogate pair": (
        GOOD.encode() + b'description: "\\ud83d"\n',
        ["line 8", "half of a surrogate pair"],
    ),
    "a list as a key": (b"? [a, b]\n: 1\n", ["line 1", "plain word"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_definition_gets_one_line_that_says_how_to_mend_it(name: str, tmp_path: Path) -> None:
    text, key, says = BROKEN[name]
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_study(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: {key}"), message
    assert len(message.splitlines()) == 1, message
    assert all(part in message for part in says), message


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_is_no_study_gets_one_line_that_names_the_place(name: str, tmp_path: Path) -> None:
    content, says = UNREADABLE[name]
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_study(file)
    message = str(caught.value)
    assert message.startswith(str(file)), message
    assert len(message.splitlines()) == 1, message
    assert all(part in message for part in says), message


@pytest.mark.parametrize("name", ["two words.yaml", "$(touch x).yaml", "-x.yaml", "größe.yaml", "line\n.yaml"])
def test_a_study_file_whose_name_is_none_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(
        UserError,
        match=r"a study has the name of its file, and cannot have this one; a name is .* rename the file",
    ):
        load_study(tmp_path / name)


def test_a_yml_file_is_told_its_right_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text(GOOD)
    with pytest.raises(UserError, match=r"mine\.yml: a study file's name ends in \.yaml: rename it to mine\.yaml"):
        load_study(tmp_path / "mine.yml")
    with pytest.raises(UserError, match=r"mine\.yaml: no such study file \(there is mine\.yml: rename it\)"):
        load_study(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", ["mine", "studies/mine", "studies/mine.yaml", "studies/mine.yml"])
def test_a_command_that_finds_a_yml_file_says_to_rename_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", ("tst_titan.plan.command",))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/mine.yml").write_text(GOOD)
    assert cli.main(["plan", name]) == 2
    assert "studies/mine.yml: a study file's name ends in .yaml: rename it to mine.yaml" in capsys.readouterr().err


def test_an_arm_may_be_named_no_and_an_emoji_written_as_json_is_one_character(tmp_path: Path) -> None:
    text = changed("baseline:", "no:") + 'description: "\\ud83d\\ude42 \\u00e9"\n'
    (tmp_path / "good.yaml").write_text(text)
    study = load_study(tmp_path / "good.yaml")
    assert list(study.definition.arms) == ["no", "tst"]
    assert study.definition.description == "\U0001f642 é"
    study.definition.description.encode()


def test_the_weights_of_a_mix_are_proportions(tmp_path: Path) -> None:
    def shares(mix: str) -> dict[str, float]:
        (tmp_path / "good.yaml").write_text(changed("source: python-stdlib", f"mix: {mix}"))
        return load_study(tmp_path / "good.yaml").definition.corpus.weights

    assert shares("{dclm: 0.3333, fineweb-edu: 0.6665}") == {
        "dclm": 0.3333 / 0.9998,
        "fineweb-edu": 0.6665 / 0.9998,
    }
    assert shares("{dclm: 3, fineweb-edu: 1}") == {"dclm": 0.75, "fineweb-edu": 0.25}
    # Shares that sum to 1 are those that are written, bit for bit: identities hold them.
    assert shares("{dclm: 0.1, fineweb-edu: 0.7, python-stdlib: 0.2}") == {
        "dclm": 0.1,
        "fineweb-edu": 0.7,
        "python-stdlib": 0.2,
    }


def test_a_source_may_have_a_list_of_paths_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def source(fields: str) -> tuple[str, str]:
        own = f"source: own, sources: {{own: {{kind: files, {fields}}}}}"
        (tmp_path / "good.yaml").write_text(changed("source: python-stdlib", own))
        own_source = load_study(tmp_path / "good.yaml").definition.corpus.sources["own"]
        return own_source.path, own_source.file_pattern

    assert source("path: a") == source("path: [a]") == ("a", "")
    assert source("path: [a, b], file_pattern: ['*.txt', 'x/*.md']") == ("a\nb", "*.txt\nx/*.md")


def test_the_definition_that_the_others_break_is_whole(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    assert [run.name for run in load_study(tmp_path / "good.yaml").runs] == [
        "2M-baseline-1200-seed0",
        "2M-tst-s4-r0.3-1200-seed0",
    ]


def test_every_mistake_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(changed("0.3", "1.3").replace("steps: 1200", "steps: 0"))
    with pytest.raises(UserError) as caught:
        load_study(tmp_path / "two.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_a_mistake_in_an_extended_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(changed("bag_size: 4", "bag_size: 0"))
    (tmp_path / "study.yaml").write_text("extends: base.yaml\nsteps: 2400\n")
    with pytest.raises(UserError, match=r"base\.yaml: arms\.tst\.bag_size = 0"):
        load_study(tmp_path / "study.yaml")


FOREIGN = {
    "a key": "hunter2-key: hunter2\n",
    "a key beside a study's": "steps: 7\nhunter2: hunter2\n",
    "a line": "hunter2 and more\n",
    "a list": "- hunter2\n",
    "no YAML": "a: *hunter2\n",
    "a tag": "!hunter2 a: b\n",
    "a key twice": "hunter2: 1\nhunter2: 2\n",
    "a number": "a: hunter2\nb: 0x: hunter2\n",
    "no text": "hunter2 \udcff",
    "nothing": "",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
def test_nothing_of_a_file_that_is_no_study_is_shown(text: str, absolute: bool, tmp_path: Path) -> None:
    """A colleague's study may extend any file that its reader may read: its first line stood in the error."""
    secret = tmp_path / "private" / "token"
    secret.parent.mkdir()
    secret.write_bytes(text.encode(errors="surrogateescape"))
    study = tmp_path / "studies" / "study.yaml"
    study.parent.mkdir()
    study.write_text(f"extends: {secret if absolute else '../private/token'}\n{GOOD}")
    with pytest.raises(UserError, match="private/token: is no study file") as caught:
        load_study(study)
    assert "hunter2" not in str(caught.value)


def test_a_study_elsewhere_can_be_extended_and_its_mistakes_are_named(tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "base.yaml"
    shared.parent.mkdir()
    shared.write_text(GOOD)
    study = tmp_path / "studies" / "study.yaml"
    study.parent.mkdir()
    study.write_text(f"extends: {shared}\nsteps: 2400\n")
    assert {run.steps for run in load_study(study).runs} == {2400}
    shared.write_text(changed("bag_size: 4", "bag_size: 0"))
    with pytest.raises(UserError, match=r"shared/base\.yaml: arms\.tst\.bag_size = 0"):
        load_study(study)


def test_the_command_ends_with_status_2_one_message_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", ("tst_titan.plan.command",))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "broken.yaml").write_text(changed("0.3", "1.0"))
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["plan", "studies/broken"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: studies/broken.yaml: arms.tst.step_ratio = 1.0: must be less than 1")
    assert "Traceback" not in captured.err
    assert sorted(tmp_path.rglob("*")) == before


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats()
    | st.sampled_from(["", "2M", "tst", "every 10%", "every 0%", "1e400", "10M", "every 999 steps", "studies", "a b"])
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
PLACES = (
    [(key,) for key in Study.model_fields if key != "extends"]
    + [("corpus", key) for key in Corpus.model_fields]
    + [("arms", "tst", key) for key in Arm.model_fields]
    + [("training", key) for key in Training.model_fields]
    + [
        ("models", "2M"),
        ("models", "own", "shape"),
        ("arms", "tst"),
        ("evaluate", "at"),
        ("evaluate", "tasks"),
    ]
    + [
        ("include", 0),
        ("exclude", 0),
        ("validation", "tokens"),
        ("corpus", "mix", "dclm"),
        ("corpus", "sources", "own"),
    ]
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=ODD)
def test_whatever_stands_anywhere_a_study_is_loaded_or_refused_in_words(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    data = yaml.safe_load(GOOD.replace("[2M]", "{2M: {}}"))
    at = data
    for part in place[:-1]:
        at = at.setdefault(part, [None] if part in ("include", "exclude") else {})
    at[place[-1]] = value
    file = tmp_path / "odd.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        study = load_study(file)
        make_plans([study], tmp_path / "results")
    except UserError as error:
        for line in str(error).splitlines():
            assert line.startswith(str(file)), line
            assert len(line) < 1000


def bomb(**changes: object) -> str:
    return yaml.safe_dump(yaml.safe_load(GOOD) | changes)


TST = {
    "bag_size": list(range(2, 18)),
    "step_ratio": [n / 400 for n in range(20, 300)],
    "bag_weighting": ["uniform", "power_law", "exponential"],
}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb(seeds=list(range(20_000))), "seeds: 20,000 values of a study of 40,000 runs: at most 10,000"),
        (bomb(arms={"tst": TST}), "arms.tst.step_ratio: 280 values of a study of 13,440 runs"),
        (bomb(arms={"tst": TST}, seeds=list(range(15_000)), include=[{"arm": "tst", "seeds": 1}]), "seeds: 15,000 values of a study of 201,6"),
        (changed("steps: 1200", "steps: " + "9" * 6000), "line 3, column 8: a number of 6,000 digits"),
        (changed("steps: 1200", "steps: 0x" + "f" * 50_000), "line 3, column 8: a number of 50,002 digits"),
        (changed("0.3", "9" * 5000), "line 6, column 34: a number of 5,000 digits"),
    ],
)  # fmt: skip
def test_a_study_that_would_never_end_stops_itself_alone_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    from tst_titan.plan import load_plans

    (tmp_path / "bomb.yaml").write_text(text)
    (tmp_path / "good.yaml").write_text(GOOD)
    plans, errors = load_plans(tmp_path, tmp_path / "results")
    assert list(plans) == ["good"]
    message = str(errors["bomb"])
    assert message.startswith(str(tmp_path / "bomb.yaml"))
    assert says in message
    assert len(message) < 1000


def test_a_larger_study_may_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.yaml").write_text(bomb(seeds=[0, 1, 2]))
    monkeypatch.setenv("TST_TITAN_MAX_RUNS", "6")
    assert len(load_study(tmp_path / "large.yaml").runs) == 6
    monkeypatch.setenv("TST_TITAN_MAX_RUNS", "5")
    with pytest.raises(UserError, match="at most 5 runs"):
        load_study(tmp_path / "large.yaml")
    monkeypatch.setenv("TST_TITAN_MAX_RUNS", "many")
    with pytest.raises(UserError, match="TST_TITAN_MAX_RUNS = 'many'"):
        load_study(tmp_path / "large.yaml")
