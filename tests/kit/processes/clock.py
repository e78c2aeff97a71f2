"""Clocks for tests: one that is set by hand, one that follows the event loop (looptime)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Stands still until told otherwise; wall and monotonic time can drift apart."""

    def __init__(self, now: datetime = START, monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic

    def now(self) -> datetime:
        """Return the wall time set."""
        return self._now

    def monotonic(self) -> float:
        """Return the monotonic time set."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    def step_wall(self, seconds: float) -> None:
        """Let the wall clock jump, as NTP does; the monotonic clock does not notice."""
        self._now += timedelta(seconds=seconds)


class LoopClock:
    """Follows the running loop's time, so that looptime moves it; the wall may be skewed."""

    def __init__(self, *, skew_seconds: float = 0.0) -> None:
        self.skew_seconds = skew_seconds

    def now(self) -> datetime:
        """Return the start plus the loop's time plus the skew."""
        return START + timedelta(seconds=self.monotonic() + self.skew_seconds)

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()
