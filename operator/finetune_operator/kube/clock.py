"""Injected time: one protocol, the machine's own time, and that of the API server.

Two clocks because they answer different questions. ``monotonic`` measures how long something
took or has been silent; it never jumps. ``now`` is what people read in timestamps; it may jump in
either direction and is never used to decide whether a lease or a back-off has run out.

Deadlines compare the present with timestamps that the cluster has written. A machine whose clock is
an hour off would end jobs for running too long, so the operator takes the present from the API
server's answers (:class:`ServerClock`).
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
    """The API server's wall clock, as its answers tell it, and this machine's monotonic one.

    Until the first answer it is this machine's wall clock. From then on it runs with the monotonic
    clock, so that a jump of the machine's wall clock is not noticed here at all, and is corrected
    by no more than an answer proves wrong: where the two clocks agree within the second that
    answers are precise to, nothing changes.

    Args:
        local: This machine's clocks.
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
        """Learn from an answer.

        Args:
            date: Its ``Date`` header (RFC 9110, 6.6.1: whole seconds, cut off); None or one that
                cannot be read tells nothing.
            asked: When the request was sent, monotonic.
        """
        if date is None or date == self._last_heard:
            return
        self._last_heard = date
        try:
            told = parsedate_to_datetime(date).astimezone(UTC)
        except ValueError:
            return
        # The answer was written at some moment between the request and now.
        earliest = told - timedelta(seconds=self._local.monotonic())
        latest = told + timedelta(seconds=1.0 - asked)
        self._at_zero = min(max(self._at_zero, earliest), latest)


def to_timestamp(moment: datetime) -> str:
    """Format as ``metav1.Time``: RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_micro_timestamp(moment: datetime) -> str:
    """Format as ``metav1.MicroTime``: RFC 3339, UTC, microseconds (Lease and Event times)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """Parse a ``metav1.Time`` or ``MicroTime``.

    Raises:
        ValueError: The text is not RFC 3339.
    """
    return datetime.fromisoformat(text)
