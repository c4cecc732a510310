"""docs/faults.md names a test for each fault: all of them are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "faults.md"
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
FAULTS = [row for row in ROWS if not row.startswith(("| fault", "| ---"))]


def test_the_page_has_faults() -> None:
    assert len(FAULTS) > 30


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_every_fault_names_tests_that_are_there(row: str) -> None:
    named = re.findall(r"`(?:(test_\w+\.py)(?:::)?)?(test_\w+)?`", row.split("|")[3])
    assert named
    file = ""
    for in_file, test in named:
        file = in_file or file
        text = (TESTS / file).read_text(encoding="utf-8")
        if test:
            assert f"def {test}(" in text, f"{file} has no {test}"
