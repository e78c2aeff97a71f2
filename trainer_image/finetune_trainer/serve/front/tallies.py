"""Counts of a rollout: the parallel streams from which the operator computes its evidence.

A bad event counts once for each sticky key and rollout, so that one loud user is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

SIGNALS = ("errors", "slow", "refusals", "invalidJson", "thumbsDown")
MAX_STREAMS = 32
MAX_BAD = 50_000
"""Bad events remembered in a rollout. Any more are not counted."""


def _zeros() -> dict[str, int]:
    return dict.fromkeys(("requests", *SIGNALS), 0)


@dataclass(slots=True)
class Stream:
    """Counts at one weight."""

    active: dict[str, int] = field(default_factory=_zeros)
    candidate: dict[str, int] = field(default_factory=_zeros)


@dataclass(slots=True)
class Tallies:
    """Counts of one endpoint.

    Attributes:
        rollout: The rollout that is counted; another one starts from zero.
        num_requests: Answered since this process started, whatever the rollout.
    """

    rollout: str = ""
    num_requests: int = 0
    streams: dict[float, Stream] = field(default_factory=dict)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def begin(self, rollout: str) -> None:
        """Start counting a rollout, unless it is the one that is counted."""
        if rollout != self.rollout:
            self.rollout = rollout
            self.streams = {}
            self._seen = set()

    def count(
        self, *, rollout: str, weight: float, is_candidate: bool, number: int, bad: Iterable[str]
    ) -> None:
        """Count a request and its bad signals. One of an earlier rollout changes nothing."""
        if rollout != self.rollout or not rollout:
            return
        if weight not in self.streams and len(self.streams) >= MAX_STREAMS:
            return
        stream = self.streams.setdefault(weight, Stream())
        counts = stream.candidate if is_candidate else stream.active
        counts["requests"] += 1
        for signal in bad:
            event = (signal, number)
            if event not in self._seen and len(self._seen) < MAX_BAD:
                self._seen.add(event)
                counts[signal] += 1

    def report(self) -> list[dict[str, object]]:
        """Return the streams, as the operator reads them."""
        return [
            {"weight": int(weight), "active": stream.active, "candidate": stream.candidate}
            for weight, stream in self.streams.items()
        ]
