"""Limits of rates and of writes. They return waiting times, and the caller waits."""

from __future__ import annotations

from finetune_operator.kube.clock import Clock


class TokenBucket:
    """Limit a rate with bursts; event loop only, never blocks.

    A reservation may take the bucket below zero; the caller sleeps the returned time. This keeps
    the order of arrival without a queue of waiters.

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
        """Take ``count`` tokens; return the seconds to wait for the last of them.

        Returns:
            None if that is more than ``seconds``; then no token is taken.
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


class WriteDelay:
    """Puts off the writes of an object, so that those of a short time become one.

    Event loop only.

    Args:
        clock: Monotonic time.
        seconds: Delay from the first write that was put off; 0 puts nothing off.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._since: dict[str, float] = {}

    def seconds_left(self, uid: str) -> float:
        """Return for how much longer the write of an object is put off; 0 or less if it is due."""
        if not self._seconds:
            return 0.0
        now = self._clock.monotonic()
        return self._since.setdefault(uid, now) + self._seconds - now

    def forget(self, uid: str) -> None:
        """Begin anew: the object was written, or no write of it may wait."""
        self._since.pop(uid, None)
