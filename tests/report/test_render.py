from __future__ import annotations

import pytest

from ezsd.utils.format import duration, megabytes, number


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "not measured"), (0.34, "0.3 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (467, "7 min 47 s"),
     (3720, "1 h 02 min"), (360_000, "100 h 00 min")],
)  # fmt: skip
def test_seconds_are_written_for_people(seconds: float | None, expected: str) -> None:
    assert duration(seconds).replace("\xa0", " ") == expected


def test_numbers_have_thousands_a_true_minus_and_a_word_for_none() -> None:
    assert number(1234.56, 1) == "1,234.6"
    assert number(-2.0, 1) == "\N{MINUS SIGN}2.0"
    assert number(None) == megabytes(None) == "not measured"
    assert megabytes(84_999_422) == "85.0\xa0MB"
