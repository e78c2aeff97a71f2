"""Numbers in answers: read as people write them, compared within a tolerance."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.answers.values import read_number
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
        ("1.5", "1.5"),
        ("0.5", "0.5"),
        (".25", "0.25"),
        ("-.5", "-0.5"),
        ("1.5%", "1.5"),
        ("1.5e3", "1500"),
        ("1234,567", "1234.567"),
        ("1 234,567", "1234.567"),
        ("1,234e2", "123400"),
        ("₹1,23,456", "123456"),
        ("₹1,23,45,678.90 in all", "12345678.90"),
        ("१,२३,४५६", "123456"),
        ("12,34,567", "1234567"),
        ("1,2345,6789", "123456789"),
        ("1,2345", "1.2345"),
        ("-$5.00", "-5.00"),
        ("-€1,200", "-1200"),
        ("\u2212$5", "-5"),
        ("-€ 1.200,50", "-1200.50"),
        ("-R$ 1.234,56", "-1234.56"),
        ("$ -5", "-5"),
        ("US-$5", "5"),
        ("between $3-$5", "5"),
        ("from $3 - $5", "5"),
        # Neither one number nor its parts.
        ("12,34,56", None),
        ("1,234,56", None),
        ("1,2,3", None),
        ("1990,2000,2010", None),
        ("31.12.2024", None),
        ("version 1.2.3", None),
        ("1,234.567.8", None),
        ("1e5.5", None),
        ("it costs 5 since 31.12.2024", "5"),
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


@given(
    st.sampled_from(["", "-", "+"]),
    st.integers(min_value=0, max_value=10**9),
    st.text("0123456789", max_size=6),
)
def test_a_lone_point_is_a_decimal_mark_before_any_number_of_digits(
    sign: str, whole: int, decimals: str
) -> None:
    number = f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
    assert read_number(number) == Decimal(number)
    if len(decimals) != 3:
        assert read_number(number.replace(".", ",")) == Decimal(number)


@given(st.integers(min_value=10**8, max_value=10**11 - 1), st.text("0123456789", max_size=6))
def test_a_number_is_the_same_in_every_grouping(number: int, decimals: str) -> None:
    behind = f".{decimals}" if decimals else ""
    expected = Decimal(f"{number}{behind}")
    western = f"{number:,}"
    indian = f"{group(str(number // 1000), 2)},{number % 1000:03}"
    for grouped in (western, indian, group(str(number), 4), western.replace(",", " ")):
        assert read_number(f"{grouped}{behind}") == expected
    assert read_number(f"{western}{behind}".translate(str.maketrans(",.", ".,"))) == expected


def group(digits: str, size: int) -> str:
    """Part digits by commas, from their end."""
    first = len(digits) % size or size
    return ",".join(
        [digits[:first], *(digits[i : i + size] for i in range(first, len(digits), size))]
    )


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
