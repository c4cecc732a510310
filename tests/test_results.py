"""Where artifacts lie is said in one file, `tst_titan/results.py`: no other joins their names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkouts import REPOSITORY

from tst_titan.results import (
    CorpusFiles,
    EvaluationFiles,
    Logs,
    Results,
    SegmentFiles,
    checkpoint_index,
    checkpoint_name,
    checkpoint_steps,
    segment_of_checkpoint,
    step_of,
)

PACKAGE = REPOSITORY / "tst_titan"
# Names that others' folders have too, and where they are meant.
OTHERS = {
    ("evaluate/task_files.py", "tasks"): "lm-eval's own folder of tasks",
    ("workflow.py", "tasks"): "task definitions of the user's own, below the studies",
}
JOINING = ("joinpath", "with_name", "glob", "rglob", "removeprefix", "removesuffix")


def names_of_results() -> set[str]:
    """Every name that `results.py` joins, or keeps as a constant for joining."""
    tree = ast.parse((PACKAGE / "results.py").read_text(encoding="utf-8"))
    joined = {part.value for node in ast.walk(tree) if isinstance(node, ast.BinOp) for part in constants(node.right)}
    kept = {
        part.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for part in ast.walk(node.value)
        if isinstance(part, ast.Constant)
    }
    # An ending, such as ".json", is nobody's own.
    return {name for name in joined | kept if name in (".work", ".metadata") or name[0].isalpha()}


def constants(node: ast.AST) -> list[ast.Constant]:
    """The text in a name, plain or an f-string."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return [part for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def joins(text: str, names: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each place where one of `names` is made part of a path."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            operands = [node.left, node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in JOINING:
            operands = list(node.args)
        elif isinstance(node, ast.JoinedStr):
            # f"checkpoint/step-{step}" is a path wherever it stands; text for people has words around it.
            operands = [node] if isinstance(node.values[0], ast.Constant) and " " not in ast.unparse(node) else []
        else:
            continue
        for operand in operands:
            for part in constants(operand):
                found = {part.value, *part.value.split("/")} & names
                yield from ((node.lineno, name) for name in sorted(found))


NAMES = names_of_results()
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "results.py")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_other_module_joins_the_names_of_artifacts(module: Path) -> None:
    text = (PACKAGE / module).read_text(encoding="utf-8")
    found = [
        f"tst_titan/{module}:{line} joins {name!r}: tst_titan/results.py does"
        for line, name in joins(text, NAMES)
        if (module.as_posix(), name) not in OTHERS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        'folder / "done.json"',
        'results / "segments" / id',
        'results.joinpath("evaluations", id)',
        'folder.glob("*/done.json")',
        'done.with_name("settings.json")',
        'checkpoints / f"step-{step}"',
        'name = f"checkpoint/step-{step}"',
        'int(path.name.removeprefix("step-"))',
        'folder / f"grown-{tokens}"',
        'corpus / ".work"',
    ],
)
def test_such_a_join_is_found(text: str) -> None:
    assert list(joins(text, NAMES))


def test_the_names_are_those_of_the_files_page() -> None:
    page = (REPOSITORY / "docs" / "files.md").read_text(encoding="utf-8")
    for place in (
        Results(Path("results")).segment("SEGMENT_ID").folder,
        Results(Path("results")).corpus("CORPUS_ID").folder,
        Results(Path("results")).evaluation("SEGMENT_ID", "GROUP"),
        Results(Path("results")).export("SEGMENT_ID"),
    ):
        assert f"`{place}" in page
    for kind in (SegmentFiles, CorpusFiles, EvaluationFiles):
        for name, value in vars(kind).items():
            path = value.fget(kind(Path())) if isinstance(value, property) else None
            if isinstance(path, Path) and name not in ("downloads", "listed"):  # these lie in `.work/`
                assert f"`{path}" in page, f"docs/files.md does not name {path}"


def test_a_checkpoint_is_found_by_its_step_and_leads_to_its_segment(tmp_path: Path) -> None:
    files = Results(tmp_path).segment("tiny-tst/decay-9-10-0a")
    for name in ("step-10", "step-9", "step-x", "step-", "steps-3", "10"):
        (files.checkpoints / name).mkdir(parents=True)
    assert checkpoint_steps(files.checkpoints) == [9, 10]
    assert checkpoint_steps(tmp_path / "none") == []
    assert [step_of(Path(name)) for name in ("step-7", "step-x", "7")] == [7, None, None]
    assert files.folder / checkpoint_name(10) == files.checkpoint(10)
    assert segment_of_checkpoint(files.checkpoint(10)) == files
    assert checkpoint_index(files.checkpoint(10)).parent == files.checkpoint(10)


def test_every_place_of_a_builds_making_lies_below_a_part_that_clean_deletes() -> None:
    results, logs = Results(Path("results")), Logs()
    made = (
        results.segment("f/s").done,
        results.corpus("c").manifest,
        results.evaluation("f/s", "g"),
        results.export("f/s"),
    )
    assert all(any(path.is_relative_to(part) for part in results.parts) for path in made)
    assert all(
        any(path.is_relative_to(part) for part in logs.parts)
        for path in (logs.export("f/s"), logs.evaluation("f/s", "g"))
    )
