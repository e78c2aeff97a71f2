"""What an answer holds beside words: a JSON value, or a number."""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Any, Final

ABSENT: Final = object()
"""Stands for the value of a text that holds none."""

_FENCE = re.compile(r"```[A-Za-z0-9]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_NUMBER = re.compile(
    r"""(?<![\w.,]) [-+]?
    (?: \d{1,3} (?P<by>[\ ,.'])\d{3} (?:(?P=by)\d{3})* (?:[.,]\d+)?
      | \d+ (?:[.,]\d+)?
      | [.]\d+
    ) (?:[eE][-+]?\d{1,3})? (?!\d)""",
    re.VERBOSE,
)
_SIGNS = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'",
                        "\u066b": ".", "\u066c": ","})  # fmt: skip
"""Signs that stand for those of ASCII; the last two are Arabic."""


def read_json_value(text: str, *, decimals: bool = True) -> Any:
    """Return the JSON value of a text that is JSON from end to end, else :data:`ABSENT`.

    Args:
        text: The text; NaN and Infinity, which Python would take, are no JSON.
        decimals: Read all numbers as :class:`~decimal.Decimal`, which equal by value.

    Source: RFC 8259.
    """
    number: dict[str, Any] = {"parse_float": Decimal, "parse_int": Decimal} if decimals else {}
    try:
        return json.loads(text.strip(), parse_constant=_refuse, **number)
    except (ValueError, ArithmeticError, RecursionError):
        return ABSENT


def without_fence(text: str) -> str:
    """Return what stands in a Markdown fence that is the whole text, else the text."""
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced else text


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def read_number(text: str) -> Decimal | None:
    """Return the last number of a text, or None.

    Thousands may be parted by commas, points, apostrophes or narrow spaces; of two kinds of marks
    the last one is the decimal mark. A lone point is a decimal mark, and a lone comma before
    three digits parts thousands. Digits may be those of any script.
    """
    found = list(_NUMBER.finditer(_plain(text)))
    if not found:
        return None
    try:
        return Decimal(_with_point(found[-1].group()))
    except InvalidOperation:
        return None


def _with_point(number: str) -> str:
    """Return a number with a point as decimal mark and no other marks."""
    mantissa, letter, exponent = number.lower().partition("e")
    mantissa = mantissa.replace(" ", "").replace("'", "")
    comma, point = mantissa.rfind(","), mantissa.rfind(".")
    if comma >= 0 and point >= 0:
        other = "," if point > comma else "."
        mantissa = mantissa.replace(other, "").replace(",", ".")
    elif mantissa.count(",") + mantissa.count(".") > 1 or _parts_thousands(mantissa, comma):
        mantissa = mantissa.replace(",", "").replace(".", "")
    return mantissa.replace(",", ".") + letter + exponent


def _parts_thousands(mantissa: str, comma: int) -> bool:
    return comma == len(mantissa) - 4 and mantissa.lstrip("+-")[:2] != "0,"


def _plain(text: str) -> str:
    """Return the text with digits and signs of any script as those of ASCII."""
    text = text.translate(_SIGNS)
    return "".join(
        str(unicodedata.digit(character)) if unicodedata.category(character) == "Nd" else character
        for character in text
    )
