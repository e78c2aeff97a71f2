"""Limits of this front: requests and tokens per minute, and requests under way. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from finetune_trainer.serve.errors import Refused

MAX_BUCKETS = 10_000
MAX_OPEN = 1024
"""Slots of all senders together. One of several endpoints takes half of them."""


Take = Callable[[int], None]
"""Takes a number of slots, or gives them back if it is negative. Raises Refused."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a bucket holds.

    Attributes:
        per_minute: What a full one holds, and what flows into it in a minute.
        level: What it holds; below 0 is a debt.
    """

    per_minute: int
    level: float

    @property
    def wait_seconds(self) -> float:
        """Until something may be taken; 0 for at once."""
        return 0.0 if self.level >= 1 else (1 - self.level) * 60 / self.per_minute

    @property
    def reset_seconds(self) -> float:
        """Until it is full."""
        return (self.per_minute - self.level) * 60 / self.per_minute


class Limits:
    """A bucket for each endpoint, name of a key, and kind of what is limited.

    More may be taken than is there: the bucket then has a debt, which what flows in pays first.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str, str], tuple[float, float]] = OrderedDict()

    def look(self, whose: tuple[str, str, str], *, per_minute: int, now: float) -> Left:
        """Return what a bucket holds at a monotonic time. A new one is full."""
        level, then = self._buckets.pop(whose, (float(per_minute), now))
        level = min(float(per_minute), level + (now - then) * per_minute / 60)
        self._buckets[whose] = (level, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return Left(per_minute, level)

    def spend(self, whose: tuple[str, str, str], amount: float) -> None:
        """Take an amount from a bucket that was looked at; a negative one gives back."""
        if (found := self._buckets.get(whose)) is not None:
            self._buckets[whose] = (found[0] - amount, found[1])


class Slots:
    """Places for requests under way, or for their bytes."""

    def __init__(self, num_slots: int = MAX_OPEN) -> None:
        self._num_slots = num_slots
        self._held = Counter[str]()

    @contextmanager
    def hold(self, whose: str, most: int, num: int = 1) -> Iterator[Take]:
        """Hold some of somebody's slots. The function that is yielded takes more, or gives back.

        Raises:
            Refused: They are all taken.
        """
        held = 0

        def take(more: int) -> None:
            nonlocal held
            has_room = self._held[whose] + more <= most
            if more > 0 and not (has_room and self._held.total() + more <= self._num_slots):
                message = "Too many or too large requests are open."
                raise Refused(503, "overloaded", message, retry_seconds=1)
            self._held[whose] += more
            held += more

        try:
            take(num)
            yield take
        finally:
            self._held[whose] -= held
            if not self._held[whose]:
                del self._held[whose]
