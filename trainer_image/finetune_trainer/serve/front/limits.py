"""Limits of this front: requests per minute, and requests under way. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.serve.errors import Refused

MAX_BUCKETS = 10_000
MAX_OPEN = 1024
"""Slots of all senders together."""


class Limits:
    """A token bucket for each key, and for each endpoint without keys.

    A full bucket holds the requests of one minute.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def wait_of(self, sender: tuple[str, str], *, per_minute: int, now: float) -> float:
        """Take a token; return 0, or the seconds until the next one if there is none.

        ``sender`` is the endpoint with the digest of the key; ``now`` is monotonic.
        """
        tokens, then = self._buckets.pop(sender, (float(per_minute), now))
        tokens = min(float(per_minute), tokens + (now - then) * per_minute / 60)
        wait = 0.0 if tokens >= 1 else (1 - tokens) * 60 / per_minute
        self._buckets[sender] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait


class Slots:
    """Places for requests under way."""

    def __init__(self, num_slots: int = MAX_OPEN) -> None:
        self._num_slots = num_slots
        self._held = Counter[str]()

    @contextmanager
    def hold(self, whose: str, most: int) -> Iterator[None]:
        """Hold one of somebody's slots.

        Raises:
            Refused: They are all taken.
        """
        if self._held[whose] >= most or self._held.total() >= self._num_slots:
            raise Refused(503, "overloaded", "Too many requests are open.", retry_seconds=1)
        self._held[whose] += 1
        try:
            yield
        finally:
            self._held[whose] -= 1
            if not self._held[whose]:
                del self._held[whose]
