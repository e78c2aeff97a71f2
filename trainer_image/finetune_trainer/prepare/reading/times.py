"""Read when a row arose: dates and times as tables and logs write them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from finetune_trainer.data.rows import BadRow

_LARGEST_SECONDS = 100_000_000_000
"""Numbers above this are milliseconds: as seconds they would lie beyond the year 5000."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_time(fields: Mapping[str, Any], column: str | None) -> int | None:
    """Return when a row arose, in microseconds since 1970, or None when no column is set.

    ISO 8601 (``2026-11-25``, ``2026-11-25T10:00:00+01:00``) and seconds or milliseconds since 1970
    are read; a time without a zone is taken for UTC.

    Raises:
        BadRow: ``MissingTime``, ``BadTime``: the row has no value there, or one that is no time.
    """
    if column is None:
        return None
    value = fields.get(column)
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "":
        raise BadRow("MissingTime", f"columns.time: column {column!r} is empty in this row")
    found = _to_microseconds(value)
    if found is None:
        raise BadRow(
            "BadTime",
            f"columns.time: the value of column {column!r} is no time; write 2026-11-25, "
            "2026-11-25T10:00:00Z, or seconds since 1970",
        )
    return found


def _to_microseconds(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return _from_number(value)
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // (datetime.resolution)
    return _from_number(str(value)) if isinstance(value, int | float | Decimal) else None


def _from_number(text: str) -> int | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number) > 1000 * _LARGEST_SECONDS:
        return None
    return int(number * (1000 if abs(number) > _LARGEST_SECONDS else 1_000_000))
