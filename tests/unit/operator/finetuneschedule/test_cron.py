"""Times of a cron table: over changes of clocks, forwards, and the last one that was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.finetuneschedule.cron import MAX_MISSED, Times

BERLIN = "Europe/Berlin"
TABLES = ["*/7 * * * *", "30 2 * * *", "0,30 1-3 * * *", "0 */2 * * *", "15 3 1 * *", "0 3 * * SUN"]
ZONES = ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        # In spring 02:30 does not exist on March 29th: 03:00 CEST is 01:00 UTC.
        (utc(2026, 3, 28, 12), [utc(2026, 3, 29, 1), utc(2026, 3, 30, 0, 30)]),
        # In autumn 02:30 comes twice on October 25th: the first, CEST, is 00:30 UTC.
        (utc(2026, 10, 24, 12), [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]),
        # Between both, the second 02:30 is no further one.
        (utc(2026, 10, 25, 1, 10), [utc(2026, 10, 26, 1, 30), utc(2026, 10, 27, 1, 30)]),
    ],
)
def test_a_time_at_a_change_of_clocks_comes_once(since: datetime, expected: list[datetime]) -> None:
    times = Times(table="30 2 * * *", zone=BERLIN).after(since)
    assert [next(times), next(times)] == expected


def test_a_quarter_is_one_line() -> None:
    times = Times(table="0 3 1 */3 *", zone=BERLIN).after(utc(2026, 1, 2))
    assert [next(times) for _ in range(3)] == [
        utc(2026, 4, 1, 1),
        utc(2026, 7, 1, 1),
        utc(2026, 10, 1, 1),
    ]


@given(
    table=st.sampled_from(TABLES),
    zone=st.sampled_from(ZONES),
    since=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    minutes=st.integers(0, 2 * 24 * 60),
)
@settings(max_examples=60)
def test_the_last_missed_time_is_the_last_of_all(
    table: str, zone: str, since: datetime, minutes: int
) -> None:
    times = Times(table=table, zone=zone)
    begin = since.replace(tzinfo=UTC)
    now = begin + timedelta(minutes=minutes)
    passed = list(takewhile(lambda each: each <= now, times.after(begin)))
    assert passed == sorted(set(passed))
    found = times.missed(begin, now)
    if not passed:
        assert found is None
        return
    assert found is not None
    assert found.last == passed[-1]
    assert found.num == min(len(passed), MAX_MISSED + 1)


@pytest.mark.parametrize("moment", [utc(2026, 10, 25, 0, 45), utc(2026, 10, 25, 1, 45)])
@pytest.mark.parametrize("table", ["*/10 * * * *", "0,20,40 * * * *", "*/15 1-4 * * *"])
def test_of_very_many_missed_times_the_last_is_found_within_a_change_of_clocks(
    table: str, moment: datetime
) -> None:
    times = Times(table=table, zone=BERLIN)
    begin = moment - timedelta(days=40)
    found = times.missed(begin, moment)
    assert found is not None
    assert found.is_too_many
    near = takewhile(lambda each: each <= moment, times.after(moment - timedelta(days=2)))
    assert found.last == list(near)[-1]
