"""The token bucket: bursts pass, the rate holds, order is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.kube.ratelimit import TokenBucket, WriteDelay
from kit.processes.clock import FakeClock


def test_burst_passes_then_waits_grow_in_order():
    bucket = TokenBucket(FakeClock(), rate=10, burst=3)
    waits = [bucket.reserve() for _ in range(6)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


def test_try_take_never_goes_into_debt():
    clock = FakeClock()
    bucket = TokenBucket(clock, rate=1, burst=2)
    assert [bucket.try_take() for _ in range(4)] == [True, True, False, False]
    clock.advance(1.0)
    assert bucket.try_take()


def test_what_would_wait_too_long_takes_nothing():
    clock = FakeClock()
    bucket = TokenBucket(clock, rate=10, burst=3)
    assert bucket.reserve_within(1.0, count=3) == 0.0
    assert bucket.reserve_within(1.0, count=10) == pytest.approx(1.0)
    assert bucket.reserve_within(1.0) is None
    clock.advance(0.5)
    assert bucket.reserve_within(1.0, count=6) is None
    assert bucket.reserve_within(1.0, count=5) == pytest.approx(1.0)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_useless_limits_are_refused(rate, burst):
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(FakeClock(), rate=rate, burst=burst)


@given(
    gaps=st.lists(st.floats(0.0, 1.0), max_size=60),
    rate=st.floats(1.0, 100.0),
    burst=st.integers(1, 20),
)
def test_no_window_holds_more_than_burst_plus_rate(gaps, rate, burst):
    clock = FakeClock(monotonic=0.0)
    bucket = TokenBucket(clock, rate=rate, burst=burst)
    times = []
    for gap in gaps:
        clock.advance(gap)
        times.append(clock.monotonic() + bucket.reserve())
    for i, start in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= burst + rate * (times[j] - start) + 1 + 1e-6


def test_a_write_is_put_off_from_the_first_time_it_could_be_done():
    clock = FakeClock()
    delay = WriteDelay(clock, 2.0)
    assert delay.seconds_left("a") == 2.0
    clock.advance(1.5)
    assert (delay.seconds_left("a"), delay.seconds_left("b")) == (0.5, 2.0)
    delay.forget("a")
    assert delay.seconds_left("a") == 2.0
    assert WriteDelay(clock, 0.0).seconds_left("a") == 0.0
