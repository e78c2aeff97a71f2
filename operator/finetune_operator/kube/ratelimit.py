"""A token bucket that hands out waiting times instead of permissions.

Reserving may take the bucket below zero; the caller sleeps the returned time. That keeps arrival
order, needs no queue of waiters and costs nothing while the bucket is not empty.
"""

from __future__ import annotations

from finetune_operator.kube.clock import Clock


class TokenBucket:
    """Limit a rate while letting bursts through.

    Event loop only; never blocks.

    Args:
        clock: Source of monotonic time.
        rate: Tokens added per second.
        burst: Most tokens the bucket holds; it starts full.
    """

    __slots__ = ("_burst", "_clock", "_rate", "_tokens", "_updated")

    def __init__(self, clock: Clock, *, rate: float, burst: float) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"need rate > 0 and burst >= 1, got rate={rate}, burst={burst}")
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = clock.monotonic()

    def reserve(self) -> float:
        """Take one token; return the seconds to wait before acting, 0.0 if none."""
        self._refill()
        self._tokens -= 1.0
        return 0.0 if self._tokens >= 0.0 else -self._tokens / self._rate

    def reserve_within(self, seconds: float, *, count: int = 1) -> float | None:
        """Take ``count`` tokens, and return the seconds to wait for the last of them.

        Returns:
            None if that were more than ``seconds``; then nothing is taken.
        """
        self._refill()
        wait = max(0.0, (count - self._tokens) / self._rate)
        if wait > seconds:
            return None
        self._tokens -= count
        return wait

    def try_take(self) -> bool:
        """Take one token if there is one; never go below zero."""
        self._refill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now


class Pace:
    """Keeps the writes of one object apart. Event loop only.

    Args:
        clock: Monotonic time.
        seconds: Least time between two writes; 0 for none.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._written: dict[str, float] = {}

    def wrote(self, uid: str) -> None:
        """Note that an object is written now."""
        if self._seconds:
            self._written[uid] = self._clock.monotonic()

    def seconds_left(self, uid: str) -> float:
        """Return for how long the next write has to wait; 0 or less if it need not."""
        written = self._written.get(uid)
        return 0.0 if written is None else written + self._seconds - self._clock.monotonic()

    def forget(self, uid: str) -> None:
        """Drop the memory of an object that is gone or has ended."""
        self._written.pop(uid, None)
