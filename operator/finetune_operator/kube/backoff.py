"""Exponential back-off: how long to wait after the n-th failure in a row."""

from __future__ import annotations

import random


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
