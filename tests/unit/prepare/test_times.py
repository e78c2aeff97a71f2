"""Times of rows are read as tables and logs write them, or refused with a remedy."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.times import read_time

NOON = 1_795_608_000_000_000  # 2026-11-25T12:00:00Z


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-25T12:00:00Z", NOON),
        (" 2026-11-25 13:00:00+01:00 ", NOON),
        ("2026-11-25T12:00:00.000001", NOON + 1),
        ("2026-11-25", NOON - 12 * 3_600_000_000),
        (date(2026, 11, 25), NOON - 12 * 3_600_000_000),
        (datetime(2026, 11, 25, 12), NOON),
        (datetime(2026, 11, 25, 14, tzinfo=timezone(timedelta(hours=2))), NOON),
        (1795608000, NOON),
        (1795608000.5, NOON + 500_000),
        ("1795608000", NOON),
        (1795608000000, NOON),
        (0, 0),
        (-86400, -86_400_000_000),
    ],
)
def test_a_time_is_read(value: Any, expected: int) -> None:
    assert read_time({"when": value}, "when") == expected


@pytest.mark.parametrize("value", ["yesterday", True, [1], {"a": 1}, "nan", float("inf"), "1e99"])
def test_what_is_no_time_is_refused_without_quoting_it(value: Any) -> None:
    with pytest.raises(BadRow) as caught:
        read_time({"when": value}, "when")
    assert caught.value.reason == "BadTime"
    assert "yesterday" not in caught.value.message


@pytest.mark.parametrize("fields", [{}, {"when": None}, {"when": "  "}])
def test_a_row_without_time_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRow) as caught:
        read_time(fields, "when")
    assert caught.value.reason == "MissingTime"


def test_nothing_is_read_where_no_column_is_named() -> None:
    assert read_time({"when": "yesterday"}, None) is None


@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.datetimes(timezones=st.just(UTC))))
def test_any_value_is_read_or_refused(value: Any) -> None:
    try:
        found = read_time({"when": value}, "when")
    except BadRow:
        return
    assert isinstance(found, int)
    assert abs(found) < 2**62
