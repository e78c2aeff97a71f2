"""Numbers in answers: read as people write them, compared within a tolerance."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.answer_values import read_number
from finetune_trainer.evaluate.metrics.numbers import number_close


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("The total is 1,234.50 EUR.", "1234.50"),
        ("1.234,50 €", "1234.50"),
        ("1 234 567", "1234567"),
        ("1'234.5", "1234.5"),
        ("1,234", "1234"),
        ("1.234", "1.234"),
        ("0,125", "0.125"),
        ("12,5 %", "12.5"),
        ("1.234.567", "1234567"),
        ("first 3, then -7", "-7"),
        ("\u221212", "-12"),
        ("٣٫١٤", "3.14"),  # noqa: RUF001
        ("१२३", "123"),
        ("６", "6"),  # noqa: RUF001
        ("6.02e23 of them", "6.02e23"),
        (".5", "0.5"),
        ("step 4. Done", "4"),
        ("v2 and x3", None),
        ("none", None),
        ("", None),
    ],
)
def test_last_number_of_a_text(text: str, number: str | None) -> None:
    assert read_number(text) == (None if number is None else Decimal(number))


@given(st.text())
def test_any_text_has_a_number_or_none(text: str) -> None:
    number = read_number(text)
    assert number is None or number.is_finite()


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, max_value=10**12, min_value=0))
def test_number_is_read_back_with_thousands_parted(number: Decimal) -> None:
    assert read_number(f"It is {number:,} in all.") == number


@pytest.mark.parametrize(
    ("absolute", "relative", "said", "close"),
    [
        ("0", "0", "100.0", 1),
        ("0", "0", "100.1", 0),
        ("0.1", "0", "100.1", 1),
        ("0", "0.01", "101", 1),
        ("0", "0.01", "101.01", 0),
        ("2", "0.01", "98", 1),
        ("5", "1", "no number", 0),
    ],
)
def test_close_is_within_the_wider_tolerance(
    absolute: str, relative: str, said: str, close: int
) -> None:
    measured = number_close(Decimal(absolute), Decimal(relative), [said], [["100"]])
    assert measured.rows.tolist() == [close]
