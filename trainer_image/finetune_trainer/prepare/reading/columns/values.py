"""Writes numbers, booleans and JSON values of a row as text.

One value has one text in every file format, because answers are compared by their text. JSON is one
line with blanks after commas and colons; keys keep their order; 3.0 is 3; characters are escaped
only where JSON requires it.
"""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any

from finetune_trainer.data.rows import BadRow

_dump = json.JSONEncoder(ensure_ascii=False).encode

_MAX_EXACT = 2.0**53
"""Beyond this a float does not distinguish whole numbers."""


def write_value(value: object, name: str) -> str:
    """Return a value as text; text stays as it is. ``name`` is its field.

    Raises:
        BadRow: It holds bytes, a number that is not finite, or is nested too deeply.
    """
    try:
        plain = _plain(value, name)
    except RecursionError as error:
        raise BadRow("NotText", f"{name} is nested too deeply to be written as JSON") from error
    return plain if isinstance(plain, str) else _dump(plain)


def write_json(value: object, name: str, *, indent: int | None = None) -> str:
    """Return a value as JSON; None is null. ``indent`` puts levels on lines of their own.

    Raises:
        BadRow: As :func:`write_value`.
    """
    return json.dumps(_plain(value, name), ensure_ascii=False, indent=indent)


def is_missing(value: object) -> bool:
    """Whether a value is missing: null, or NaN in a table."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any, name: str) -> Any:
    """Convert a value for JSON; dates and decimals become text."""
    match value:
        case None | str() | bool() | int():
            return value
        case float() if math.isfinite(value):
            is_whole = value.is_integer() and abs(value) <= _MAX_EXACT
            return int(value) if is_whole else value
        case dict():
            return {str(key): _plain(item, name) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, name) for item in value]
        case Decimal() if value.is_finite():
            return f"{value:f}"
        case datetime.date() | datetime.time() | datetime.timedelta():  # a datetime is a date
            return str(value)
    if isinstance(value, float | Decimal):
        kind = "a number that is not finite"
    else:
        kind = (
            "binary data" if isinstance(value, bytes) else f"a value of type {type(value).__name__}"
        )
    raise BadRow("NotText", f"{name} holds {kind}, which cannot be written as text")
