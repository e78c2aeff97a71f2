"""Injected time: one protocol, one implementation that reads the machine.

Two clocks because they answer different questions. ``monotonic`` measures how long something
took or has been silent; it never jumps. ``now`` is what people read in timestamps; it may jump in
either direction and is never used to decide whether a lease or a back-off has run out.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
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
