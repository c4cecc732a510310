"""What is private, replaced or unsettled in torchtitan, lm-eval, transformers, Snakemake and its Slurm executor is
touched in one file each.

`tests/test_train_contract.py` looks up torchtitan's.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checkouts import REPOSITORY
from packaging.requirements import Requirement
from test_train_contract import attributes_set_in

from tst_titan.cluster import executor, snakemake_internals
from tst_titan.evaluate import upstream

sys.path.insert(0, str(REPOSITORY / "constraints"))
import resolve
import snakemake.api  # noqa: F401  (its other modules cannot be imported before it)

LIBRARIES = {
    "torchtitan", "lm_eval", "transformers", "datasets", "snakemake", "snakemake_executor_plugin_slurm",
    "snakemake_interface_common",
}  # fmt: skip
PACKAGE = REPOSITORY / "tst_titan"
# The files that may.
UPSTREAM = {
    "train.titan.upstream", "train.titan.torch_private", "train.titan.device", "evaluate.upstream", "cluster.executor",
    "cluster.snakemake_internals",
}  # fmt: skip
# What lies elsewhere all the same, and why.
ELSEWHERE = {
    ("evaluate.lm", "_loglikelihood_tokens"): "lm-eval asks every model for it",
    (
        "evaluate.through_export",
        "_loglikelihood_tokens",
    ): "bounds lm-eval's own; its module is imported where it is used alone",
    (
        "evaluate.qwen3_moe_biased",
        "_keep_in_fp32_modules_strict",
    ): "exports bring this file along: it stands alone",
}
MODULES = sorted(
    module
    for room in ("train/titan", "evaluate", "cluster")
    for path in (PACKAGE / room).glob("*.py")
    if (module := ".".join(path.relative_to(PACKAGE).with_suffix("").parts)) not in UPSTREAM
    and not module.endswith("__init__")
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_own(value: ast.expr) -> bool:
    """Whether an attribute of `value` is the class's own: of self, cls or super()."""
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def reached(text: str) -> Iterator[str]:
    """Private names of others that a module imports, or reads of what is not itself."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
            words = [*node.module.split("."), *(name.name for name in node.names)]
            yield from (f"{node.module}: {word}" for word in words if is_private(word))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield from {ast.unparse(node)} - {"os._exit"}


def inherited(cls: type, name: str) -> str | None:
    """The class of a library's that `cls` has a private `name` from."""
    for base in cls.__mro__[1:]:
        library = base.__module__.split(".")[0] in LIBRARIES
        if library and (name in vars(base) or name in attributes_set_in(textwrap.dedent(inspect.getsource(base)))):
            return f"{base.__module__}.{base.__name__}"
    return None


def overridden(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Private names that the classes of a module have from a library's and use, or take by accident; and whose."""
    for node in ast.parse(inspect.getsource(module)).body:
        cls = getattr(module, node.name) if isinstance(node, ast.ClassDef) else None
        if not isinstance(cls, type):
            continue
        names = {item.name for item in ast.walk(node) if isinstance(item, ast.FunctionDef)}
        names |= {item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute) and is_own(item.value)}
        names |= {
            target.id
            for line in node.body
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
        for name in sorted(filter(is_private, names)):
            if owner := inherited(cls, name):
                yield name, owner


@pytest.mark.parametrize("name", MODULES)
def test_no_other_file_touches_a_private_name_of_theirs(name: str) -> None:
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    assert not set(reached(path.read_text(encoding="utf-8")))
    module = importlib.import_module(f"tst_titan.{name}")
    found = {
        f"{name}: {private} is {owner}'s" for private, owner in overridden(module) if (name, private) not in ELSEWHERE
    }
    assert not found


def test_such_a_name_is_found() -> None:
    text = """
from lm_eval.tasks._index import Entry
from torchtitan.trainer import _hidden
import os
model._skip_lm_head = True
self._own = super()._own + other._not_own
os._exit(1)
"""
    assert set(reached(text)) == {
        "lm_eval.tasks._index: _index", "torchtitan.trainer: _hidden", "model._skip_lm_head", "other._not_own",
    }  # fmt: skip


def test_a_private_name_that_a_subclass_takes_is_found() -> None:
    from tst_titan.train.titan import upstream as torchtitan

    found = set(overridden(torchtitan))
    base = "torchtitan.components.checkpointer.dcp.CheckpointManager"
    assert {("_load", base), ("_should_save", base)} <= found
    assert ("_get_state_dict", "torchtitan.components.checkpointer.base.ModelWrapper") in found


@pytest.mark.parametrize(
    "path",
    [REPOSITORY / "Snakefile", *sorted((REPOSITORY / "workflow/rules").glob("*.smk"))],
    ids=lambda path: path.name,
)
def test_the_snakefile_asks_snakemake_through_one_file(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if re.search(r"\bworkflow\.\w", re.sub(r'"[^"]*"|#.*', "", line))]


def look_up(path: str) -> bool:
    """Whether `module:name.name` is there, as an attribute or one that a class gives its instances."""
    module, _, names = path.partition(":")
    value: Any = importlib.import_module(module)
    *owners, name = names.split(".")
    for owner in owners:
        value = getattr(value, owner)
    if hasattr(value, name):
        return True
    return inspect.isclass(value) and name in attributes_set_in(textwrap.dedent(inspect.getsource(value)))


@pytest.mark.parametrize("path", upstream.NAMES | executor.NAMES | snakemake_internals.NAMES)
def test_what_may_move_is_where_it_is_taken_from(path: str) -> None:
    assert look_up(path), f"{path} is not there any more"


def test_a_name_that_is_gone_is_told() -> None:
    assert not look_up("snakemake.workflow:Workflow.needrun_jobs")


def test_the_slurm_executor_may_be_what_was_tested_and_no_more() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    stated = [Requirement(line) for line in tomllib.loads(text)["project"]["dependencies"]]
    (plugin,) = (requirement for requirement in stated if requirement.name == executor.PLUGIN)
    assert plugin == Requirement(f"{executor.PLUGIN}{executor.VERSIONS}")
    tested = resolve.pins(REPOSITORY / "constraints" / "tested.txt")[executor.PLUGIN]
    major, minor, _ = tested.split(".")
    assert tested in plugin.specifier
    assert f"{major}.{int(minor) + 1}.0" not in plugin.specifier
    assert f"{major}.{int(minor) - 1}.9" not in plugin.specifier
