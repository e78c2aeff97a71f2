"""The present is what the API server says it is, whatever this machine's clock does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from finetune_operator.kube.clock import ServerClock
from kit.processes.clock import START, FakeClock


def answer(local: FakeClock, clock: ServerClock, server: datetime, *, took: float = 0.0) -> None:
    """Let the server answer with its time, so many seconds after it was asked."""
    asked = local.monotonic()
    local.advance(took)
    whole = server.replace(microsecond=0)
    clock.hear(format_datetime(whole, usegmt=True), asked=asked)


def error_of(clock: ServerClock, server: datetime) -> float:
    return (clock.now() - server).total_seconds()


def test_it_is_this_machines_time_until_the_server_answers() -> None:
    local = FakeClock()
    clock = ServerClock(local)
    local.advance(90)
    assert clock.now() == START + timedelta(seconds=90)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() == local.monotonic()


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_a_machine_that_is_an_hour_off_has_the_servers_time(hours: int) -> None:
    local = FakeClock(START + timedelta(hours=hours))
    clock = ServerClock(local)
    answer(local, clock, START)
    assert abs(error_of(clock, START)) <= 1
    local.advance(600)
    assert abs(error_of(clock, START + timedelta(seconds=600))) <= 1


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_jump_of_this_machines_clock_is_not_noticed(jump: int) -> None:
    local = FakeClock()
    clock = ServerClock(local)
    answer(local, clock, START)
    local.step_wall(jump)
    assert clock.now() == START
    local.advance(10)
    answer(local, clock, START + timedelta(seconds=10))
    assert clock.now() == START + timedelta(seconds=10)


@pytest.mark.parametrize("part", [0.0, 0.4, 0.999])
def test_clocks_that_agree_are_left_alone_to_the_microsecond(part: float) -> None:
    local = FakeClock(START + timedelta(seconds=part))
    clock = ServerClock(local)
    for _ in range(20):
        before = clock.now()
        answer(local, clock, before)
        assert clock.now() == before
        local.advance(0.37)


def test_a_slow_answer_corrects_no_more_than_it_proves() -> None:
    local = FakeClock(START + timedelta(seconds=5))
    clock = ServerClock(local)
    answer(local, clock, START + timedelta(seconds=29), took=30)  # written at the end of the wait
    assert error_of(clock, START + timedelta(seconds=30)) == pytest.approx(5)
    answer(local, clock, START + timedelta(seconds=30))
    assert abs(error_of(clock, START + timedelta(seconds=30))) <= 1


def test_the_servers_own_jump_is_followed() -> None:
    local = FakeClock()
    clock = ServerClock(local)
    answer(local, clock, START)
    answer(local, clock, START - timedelta(hours=1))
    assert abs(error_of(clock, START - timedelta(hours=1))) <= 1


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Jan 2026 00:00:00 GMT"])
def test_what_cannot_be_read_tells_nothing(date: str | None) -> None:
    local = FakeClock()
    clock = ServerClock(local)
    clock.hear(date, asked=local.monotonic())
    assert clock.now() == START
