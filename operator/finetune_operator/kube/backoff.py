"""Exponential back-off: how long to wait after the n-th failure in a row."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


def full_jitter(rng: random.Random, attempt: int, *, base: float, cap: float) -> float:
    """Return a delay between 0 and the exponential bound, in seconds.

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
    # Bound the exponent: a key that always fails must not overflow the float.
    return min(cap, base * 2.0 ** min(max(attempt, 1) - 1, 1000))


@dataclass(frozen=True, slots=True)
class Pauses:
    """Pauses after failures in a row, each longer than the one before.

    A retry that fails before its pause is over waits for the rest of that pause. Otherwise an
    outage of seconds would cause a pause of minutes.

    Attributes:
        number: Number of pauses, with the present one.
        until: End of the present pause, on the caller's clock.
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
            tick_seconds: A pause ends this much early, because timers may fire a tick before time.
        """
        if now + tick_seconds < self.until:
            return self
        number = self.number + 1
        return Pauses(number, now + seconds_of(number))
