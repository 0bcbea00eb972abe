"""Formatting of numbers, durations and byte sizes."""

from __future__ import annotations

import pytest

from ezsd.utils.format import byte_size, counted, duration, number, plural


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "not measured"), (0.34, "0.3 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (467, "7 min 47 s"),
     (3720, "1 h 02 min"), (360_000, "100 h 00 min")],
)  # fmt: skip
def test_durations_have_two_units(seconds: float | None, expected: str) -> None:
    assert duration(seconds).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (89, "89 s"), (90, "1.5 min"), (1300, "22 min"), (7200, "2.0 h"), (200_000, "2.3 days")],
)
def test_rough_durations_have_one_unit(seconds: float, expected: str) -> None:
    assert duration(seconds, rough=True).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, "not measured"), (0, "0 MB"), (3e5, "0.3 MB"), (9.96e6, "10 MB"), (84_999_422, "85 MB"), (2.1e9, "2.1 GB"),
     (4e12, "4.0 TB")],
)  # fmt: skip
def test_byte_sizes_have_two_digits(count: float | None, expected: str) -> None:
    assert byte_size(count).replace("\xa0", " ") == expected


def test_numbers_have_thousands_separators_and_a_minus_sign() -> None:
    assert number(1234.56, 1) == "1,234.6"
    assert number(-2.0, 1) == "\N{MINUS SIGN}2.0"
    assert number(None) == "not measured"


@pytest.mark.parametrize("count, expected", [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes"), (1200, "1,200 boxes")])
def test_words_agree_with_their_count(count: int, expected: str) -> None:
    assert counted(count, "box", "boxes") == expected
    assert counted(count, "image") == expected.replace("box", "image").replace("imagees", "images")
    assert plural(count, "is", "are") == ("is" if count == 1 else "are")


def test_a_count_that_is_not_known_is_not_measured() -> None:
    assert counted(None, "box", "boxes") == "not measured boxes"
