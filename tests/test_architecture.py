"""docs/architecture.md: each path, name and artifact in it is there, and every room is on it."""

import ast
import re
from pathlib import Path

import pytest
from checkouts import REPOSITORY
from test_layers import ALONE, ROOMS

from tst_titan.results import Results

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
DRAWING, TABLE = PAGE.partition("## Where to change what")[::2]
PATHS = sorted(set(re.findall(r"\b(?:tst_titan|tests|workflow|docs)/[\w/.]*\w/?", PAGE)))
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TABLE.splitlines()
    if line.startswith("| ") and "`" in line
]


def names_of(file: Path) -> set[str]:
    """What a module defines: functions, classes, assigned names."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names.update(part.id for part in ast.walk(target) if isinstance(part, ast.Name)) if target else None
    return names


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_in_the_tree(path: str) -> None:
    assert (REPOSITORY / path).is_dir() if path.endswith("/") else (REPOSITORY / path).is_file(), (
        f"docs/architecture.md names {path}"
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_names_files_with_what_they_define_and_a_test(row: list[str]) -> None:
    _, look, test = row
    assert re.fullmatch(r"`tests/\w+\.py`", test)
    files = re.findall(r"`(\S+\.py)`(?: \((.*?)\))?", look)
    assert files or re.search(r"`\S+/`", look)
    for file, names in files:
        wanted = set(re.findall(r"`(\w+)`", names))
        if wanted:
            missing = wanted - names_of(REPOSITORY / file)
            assert not missing, f"docs/architecture.md: {file} has no {', '.join(sorted(missing))}"


def test_every_room_is_on_the_page() -> None:
    assert not [room for room in (*ROOMS, *ALONE) if f"tst_titan/{room}/" not in DRAWING]


def test_the_rooms_stand_in_the_order_in_which_they_may_import() -> None:
    hops = re.findall(r"^ \d \w+ +tst_titan/(\w+)/", DRAWING, flags=re.M)
    assert hops == [room for room in ROOMS if room in hops]
    assert len(hops) == 8


def test_each_artifact_lies_where_the_drawing_says() -> None:
    results = Results(Path("results"))
    segment = results.segment("SEGMENT_ID")
    places = {
        str(results.corpus("CORPUS_ID").manifest),
        str(segment.done),
        str(segment.metrics),
        f"{segment.checkpoints}/step-N/",
        str(results.evaluation("SEGMENT_ID", "GROUP")),
        f"{results.export('SEGMENT_ID')}/",
    }
    assert set(re.findall(r"\bresults/\S+", DRAWING)) == places
