"""Exponential back-off: how long to wait after the n-th failure in a row."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


def full_jitter(rng: random.Random, attempt: int, *, base: float, cap: float) -> float:
    """Return a delay between 0 and the exponential bound, for peers that must not align.

    Args:
        rng: Source of randomness.
        attempt: Failures in a row so far, from 1.
        base: Bound after the first failure, in seconds.
        cap: Largest bound, in seconds.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rng.uniform(0.0, exponential(attempt, base=base, cap=cap))


def exponential(attempt: int, *, base: float, cap: float) -> float:
    """Return ``base * 2**(attempt - 1)`` seconds, at most ``cap``."""
    # 2.0**1000 is still a float; the exponent is bounded so that a poison key never overflows.
    return min(cap, base * 2.0 ** min(max(attempt, 1) - 1, 1000))


@dataclass(frozen=True, slots=True)
class Pauses:
    """Pauses after failures in a row, each longer than the one before.

    What is tried again before its pause is over, because an event came or another write failed, and
    fails again, waits for the rest of that pause: an outage of seconds would otherwise become a
    pause of minutes.

    Attributes:
        number: How many there were, the present one included.
        until: When the present one is over, on the clock of whoever waits.
    """

    number: int = 0
    until: float = 0.0

    def after_failure(
        self, now: float, seconds_of: Callable[[int], float], *, tick_seconds: float = 0.0
    ) -> Pauses:
        """Return the pauses with that of one more failure.

        Args:
            now: The present, on the same clock.
            seconds_of: Returns the length of the n-th pause, from 1.
            tick_seconds: A pause is over so much early: timers may fire a clock tick before time.
        """
        if now + tick_seconds < self.until:
            return self
        number = self.number + 1
        return Pauses(number, now + seconds_of(number))
