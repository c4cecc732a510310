"""Rows of `metrics.jsonl` as every reader sees them: whole, cut by a killed job, or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from tst_titan.errors import UserError
from tst_titan.metrics_rows import last_training_rows, read_columns, read_rows


def row(step: int, **fields: object) -> bytes:
    return json.dumps({"step": step, "loss": 1 / (step + 1), **fields}).encode() + b"\n"


def validation(step: int) -> bytes:
    return json.dumps({"step": step, "validation_loss": 2.0, "validation_tokens": 64}).encode() + b"\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("cut", [1, 10, 20])
def test_a_line_that_a_killed_job_left_half_written_counts_for_no_reader(file: Path, cut: int) -> None:
    file.write_bytes(row(1) + validation(1) + row(2) + row(3)[:-cut])
    assert [each["step"] for each in read_rows(file)] == [1, 1, 2]
    assert [each["step"] for each in last_training_rows(file, 2)] == [1, 2]
    found = read_columns(file)
    assert found.cut
    assert not found.bad_lines
    assert found.columns["step"].tolist() == [1, 1, 2]


def test_where_there_is_no_file_there_are_no_rows(file: Path) -> None:
    assert list(read_rows(file)) == []
    assert last_training_rows(file, 3) == []
    file.touch()
    assert list(read_rows(file)) == []
    assert last_training_rows(file, 3) == []
    assert len(read_columns(file).columns["step"]) == 0


def test_a_damaged_line_is_named_where_all_rows_are_needed_and_passed_over_at_the_end(file: Path) -> None:
    file.write_bytes(row(1) + b'{"step": 2, "lo\n' + b"[3]\n" + b"\xff\n" + row(4) + b"5\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is no row"):
        list(read_rows(file))
    assert [each["step"] for each in last_training_rows(file, 2)] == [1, 4]
    found = read_columns(file)
    assert found.bad_lines == (2, 3, 4, 6)
    assert found.columns["step"].tolist() == [1, 4]


def test_the_last_rows_are_found_however_long_rows_are_and_however_many_validations_follow(
    file: Path,
) -> None:
    long = {"experts": ["x" * 1000] * 40}
    file.write_bytes(b"".join(row(step, **long) for step in range(1, 6)) + validation(5) * 2000)
    assert [each["step"] for each in last_training_rows(file, 3)] == [3, 4, 5]
    assert [each["step"] for each in last_training_rows(file, 9)] == [1, 2, 3, 4, 5]


def test_the_last_rows_of_a_long_file_cost_its_end_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open("wb") as out:
        out.write(row(1))
        out.truncate(1 << 34)  # 16 GiB, a hole on the disk
        out.seek(0, 2)
        out.write(b"\n" + row(2))
    assert [each["step"] for each in last_training_rows(file, 3)] == [2]


def test_columns_of_a_damaged_file_are_those_of_the_whole_one_without_its_lines(file: Path) -> None:
    rows = [row(step, flops=1e20 + step, phase="constant") + validation(step) for step in range(1, 200)]
    file.write_bytes(b"".join(rows))
    fast = read_columns(file)
    file.write_bytes(b"".join(rows) + b"nothing\n")
    slow = read_columns(file)
    assert slow.bad_lines == (2 * len(rows) + 1,)
    for name, values in fast.columns.items():
        np.testing.assert_array_equal(values, slow.columns[name])
    assert np.isnan(fast.columns["loss"]).sum() == len(rows)
