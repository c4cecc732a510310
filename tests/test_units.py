"""Numbers with units: written by people, and for them."""

import pytest

from tst_titan.units import duration, parse_count, short, short_bytes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("200000", 200_000),
        ("200k", 200_000),
        ("200 K", 200_000),
        ("1.5B", 1_500_000_000),
        (" 2T", 2_000_000_000_000),
        ("0.000001M", 1),
        # Not what a float makes of it.
        ("1.000000000007T", 1_000_000_000_007),
    ],
)
def test_a_count_is_read_exactly(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "k", "1.5", "1.23456k", "-1k", "1e6", "1_000", "1MM", "1 m", "1.k"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a whole number such as 200000, 200k, 10M or 1\.5B"):
        parse_count(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (512, "512"),
        (32_000, "32.0k"),
        (2_334_720, "2.33M"),
        (41.9e9, "41.9B"),
        (1.99e12, "1.99T"),
        (999_900, "1000k"),
        (-2_500, "-2.50k"),
    ],
)
def test_a_large_number_is_shown_with_three_digits(number: float, text: str) -> None:
    assert short(number) == text


def test_bytes_are_decimal() -> None:
    assert [short_bytes(n) for n in (12, 3_050, 3.05e9, 2e12)] == ["12 B", "3.05 kB", "3.05 GB", "2.00 TB"]


def test_what_is_shown_is_read_back_to_its_three_digits() -> None:
    for number in (1_000, 32_000, 2_334_720, 41_900_000_000, 7):
        assert parse_count(short(number)) == pytest.approx(number, rel=5e-3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (245, "4m 05s"), (12_000, "3h 20m"), (187_200, "2d 4h")],
)
def test_a_time_is_shown_by_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
