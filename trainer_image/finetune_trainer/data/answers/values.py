"""Reads a JSON value or a number from an answer."""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from typing import Any, Final

ABSENT: Final = object()
"""Stands for the value of a text that holds none."""

_FENCE = re.compile(r"```[A-Za-z0-9]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_NUMBER = re.compile(
    r"""(?<![\w.,]) (?:(?P<sign>[-+]) (?:[A-Z]{0,3}\$\ ?)?)?
    (?P<whole>
        [1-9]\d{0,2} (?:(?:,\d{3})+ | (?:,\d{4}){2,}) (?!,\d)  # 1,234,567 and 1,2345,6789
      | [1-9]\d? (?:,\d{2})+ ,\d{3} (?!,\d)  # 12,34,567
      | [1-9]\d{0,2} (?:(?:[.]\d{3}){2,} | [.]\d{3}(?=,\d)) (?![.]\d)  # 1.234.567 and 1.234,5
      | [1-9]\d{0,2} (?P<by>[\ ']) \d{3} (?:(?P=by)\d{3})*
      | \d+
      | (?=[.]\d)
    ) (?:[.,](?P<decimals>\d+))? (?P<exponent>[eE][-+]?\d{1,3})?+ (?![.,]?\d)""",
    re.VERBOSE,
)
"""A number; what is alike and goes on after its last digit, as a date, is none. ``$`` stands for
the sign of any currency, with up to three letters before it, as in ``R$``."""
_SIGNS = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'",
                        "\u066b": ".", "\u066c": ","})  # fmt: skip
"""Signs and their ASCII equivalents; the last two are Arabic."""


def read_json_value(text: str, *, decimals: bool = True) -> Any:
    """Return the JSON value of a text that is JSON from end to end, else :data:`ABSENT`.

    NaN and Infinity are no JSON. ``decimals`` reads numbers as :class:`~decimal.Decimal`, which
    equal by value. Source: RFC 8259.
    """
    number: dict[str, Any] = {"parse_float": Decimal, "parse_int": Decimal} if decimals else {}
    try:
        return json.loads(text.strip(), parse_constant=_refuse, **number)
    except (ValueError, ArithmeticError, RecursionError):
        return ABSENT


def without_fence(text: str) -> str:
    """Return the content of a Markdown fence around the whole text, else the text."""
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced else text


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def read_number(text: str) -> Decimal | None:
    """Return the last number of a text, or None.

    Thousands are separated by commas, points, apostrophes or narrow spaces; by commas alone also as
    in India (``12,34,567``) or by ten thousands (``1,2345,6789``). Of two kinds of marks the last
    is the decimal mark. A lone point is a decimal mark; a lone comma between one to three and three
    digits separates thousands. Other forms, as ``1,2,3``, a date or ``1.2.3``, hold no number. A
    currency sign may stand between a number and its sign. Digits may be of any script.
    """
    found = list(_NUMBER.finditer(_plain(text)))
    if not found:
        return None
    last = found[-1]
    whole = re.sub(r"\D", "", last["whole"])
    sign, decimals, exponent = (last[name] or "" for name in ("sign", "decimals", "exponent"))
    return Decimal(f"{sign}{whole}.{decimals}{exponent}")


def _plain(text: str) -> str:
    """Return the text with digits and signs of any script as those of ASCII, currencies as $."""
    return "".join(map(_plain_character, text.translate(_SIGNS)))


def _plain_character(character: str) -> str:
    match unicodedata.category(character):
        case "Nd":
            return str(unicodedata.digit(character))
        case "Sc":
            return "$"
    return character
