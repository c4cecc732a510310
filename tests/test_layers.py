"""Data flows one way, study to report: no file imports from a later room, and engines are imported where they
belong."""

import ast
import sys
from collections.abc import Iterator

import pytest
from checkouts import REPOSITORY

PACKAGE = REPOSITORY / "tst_titan"
# In the order that data passes them. What is imported by all (files, errors, names) lies beside them and imports none.
ROOMS = ("study", "plan", "cluster", "data", "train", "evaluate", "collect", "compare", "report")
# Rooms that import nothing of the package but their own, so that each can be read, tested and used alone.
ALONE = {"superposition": {"torch"}, "compare": {"numpy", "pandas", "scipy"}}
# Modules beside the rooms that know of all: the command, and what the Snakefile asks.
ABOVE = {"before_jobs", "build", "cli", "configuration", "clean", "needless", "prune", "workflow"}

STANDARD = sys.stdlib_module_names


def imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module == "tst_titan":
                yield from (f"tst_titan.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def forbidden(module: str, imported: str) -> str:
    """Why `module` (``train.launch``) may not import `imported` (``tst_titan.report.page``); empty where it may."""
    room, (first, *rest) = module.split(".")[0], imported.split(".")
    if first == "torchtitan" and not module.startswith("train.titan"):
        return "torchtitan is imported below train/titan/ alone"
    if room in ALONE:
        own = first == "tst_titan" and rest and rest[0] == room
        if not own and first not in ALONE[room] and first not in STANDARD:
            return f"{room}/ imports {', '.join(sorted(ALONE[room]))} and its own alone"
        return ""
    if first != "tst_titan" or not rest or rest[0] not in ROOMS or room in ABOVE:
        return ""
    if room not in ROOMS:
        return f"{room} lies below all rooms"
    return f"{rest[0]} comes after {room}" if ROOMS.index(rest[0]) > ROOMS.index(room) else ""


MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_later_room(module: str) -> None:
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    found = {
        f"{module} imports {name}: {why}"
        for name in imports(path.read_text(encoding="utf-8"))
        if (why := forbidden(module, name))
    }
    assert not found


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("collect.runs", "tst_titan.compare.variants"),
        ("train.launch", "tst_titan.report"),
        ("files", "tst_titan.study.load"),
        ("train.launch", "torchtitan.trainer"),
        ("compare.grids", "tst_titan.files"),
        ("compare.grids", "pyarrow"),
        ("superposition.loss", "tst_titan.errors"),
    ],
)
def test_such_an_import_is_found(module: str, imported: str) -> None:
    assert forbidden(module, imported)


SLURM_COMMANDS = {"sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"}


def runs_slurm_itself(text: str) -> bool:
    """Whether a module names a command of Slurm's and starts processes, instead of asking `cluster.slurm`."""
    constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    return "subprocess" in imports(text) and not SLURM_COMMANDS.isdisjoint(
        value for value in constants if isinstance(value, str)
    )


def test_one_file_runs_slurms_commands() -> None:
    """Two did, one of them without the environment in which a job finds its cluster."""
    assert runs_slurm_itself('import subprocess\nsubprocess.run(["squeue", "--me"])')
    paths = {module: PACKAGE.joinpath(*module.split(".")).with_suffix(".py") for module in MODULES}
    found = {name for name, path in paths.items() if runs_slurm_itself(path.read_text(encoding="utf-8"))}
    assert not found


# Every function is read at one glance, and every file in one go. A function's docstring does not count: no split
# shortens it.
LONGEST_FUNCTION, LONGEST_FILE = 50, 350


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return 0 if ast.get_docstring(function) is None else lines_of(function.body[0])


def too_long(text: str) -> list[str]:
    """Functions of a module, and the module itself, that are longer than that, in lines."""
    found = [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := lines_of(node) - docstring_lines(node)) > LONGEST_FUNCTION
    ]
    num_lines = len(text.splitlines())
    return found + ([f"{num_lines} lines"] if num_lines > LONGEST_FILE else [])


@pytest.mark.parametrize("module", MODULES)
def test_no_function_and_no_file_is_too_long_to_read(module: str) -> None:
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    assert not too_long(path.read_text(encoding="utf-8"))


def test_what_is_too_long_is_found() -> None:
    text = "def long():\n" + "    pass\n" * LONGEST_FUNCTION
    assert too_long(text) == ["long: 51 lines"]
    documented = 'def long():\n    """Many\n\n\n    lines."""\n' + "    pass\n" * (LONGEST_FUNCTION - 1)
    assert too_long(documented) == []
    assert too_long(documented + "    pass\n") == ["long: 51 lines"]
    assert too_long("\n" * 351) == ["351 lines"]


def test_every_room_is_known() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == {*ROOMS, *ALONE, "published"}
