"""Rate limits: a token bucket for each key, and for each endpoint without keys. Pure."""

from __future__ import annotations

from collections import OrderedDict

MAX_BUCKETS = 10_000


class Limits:
    """Token buckets. A full bucket holds the requests of one minute."""

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
