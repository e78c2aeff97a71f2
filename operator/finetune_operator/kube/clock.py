"""Injected time: the machine's own time, and that of the API server.

``monotonic`` measures durations and never jumps. ``now`` is for timestamps; it may jump and never
decides about leases or back-off. Deadlines compare the present with timestamps of the cluster, so
they use the API server's time (:class:`ServerClock`): the clock of this machine may be an hour off.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol


class Clock(Protocol):
    """The time as a component may know it."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        return time.monotonic()


class ServerClock:
    """The API server's wall clock, taken from its answers, and a monotonic one.

    Until the first answer it is this machine's wall clock. From then on it runs with the monotonic
    clock. Answers correct it only where they differ by more than their precision, a second.
    """

    def __init__(self, local: Clock) -> None:
        self._local = local
        self._at_zero = local.now() - timedelta(seconds=local.monotonic())
        self._last_heard = ""

    def now(self) -> datetime:
        """Return the API server's wall-clock time, aware, in UTC."""
        return self._at_zero + timedelta(seconds=self._local.monotonic())

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        return self._local.monotonic()

    def hear(self, date: str | None, *, asked: float) -> None:
        """Take the server's time from an answer.

        Args:
            date: Its ``Date`` header (RFC 9110, 6.6.1: whole seconds, cut off); ignored if None or
                malformed.
            asked: Monotonic time of the request.
        """
        if date is None or date == self._last_heard:
            return
        self._last_heard = date
        try:
            told = parsedate_to_datetime(date).astimezone(UTC)
        except ValueError:
            return
        # The server wrote the answer between the request and now.
        earliest = told - timedelta(seconds=self._local.monotonic())
        latest = told + timedelta(seconds=1.0 - asked)
        self._at_zero = min(max(self._at_zero, earliest), latest)


def to_timestamp(moment: datetime) -> str:
    """Format as ``metav1.Time``: RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_micro_timestamp(moment: datetime) -> str:
    """Format as ``metav1.MicroTime``: RFC 3339, UTC, microseconds (Lease and Event times)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
