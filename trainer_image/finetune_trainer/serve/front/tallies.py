"""Counts of a rollout: the parallel streams from which the operator computes its evidence.

A bad event counts only if neither its sender nor its sticky key has had one of its kind in this
rollout. A sender is an API key, or without keys a client's address. So neither one loud user nor
one sender who makes up users is evidence. Of a sender's requests, a stream counts a limited number.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

SIGNALS = ("errors", "slow", "refusals", "invalidJson", "thumbsDown")
MAX_STREAMS = 32
MAX_SEEN = 100_000
"""Senders and sticky keys remembered in a rollout. Further ones are not counted."""


def _zeros() -> dict[str, int]:
    return dict.fromkeys(("requests", *SIGNALS), 0)


@dataclass(slots=True)
class Stream:
    """Counts at one weight.

    Attributes:
        since: Unix time of its first request.
    """

    active: dict[str, int] = field(default_factory=_zeros)
    candidate: dict[str, int] = field(default_factory=_zeros)
    since: float = field(default_factory=time.time)


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
    _seen: set[tuple[str, int | str]] = field(default_factory=set)
    _asked: Counter[tuple[float, bool, str]] = field(default_factory=Counter)

    def begin(self, rollout: str) -> None:
        """Start counting a rollout, unless it is the one that is counted."""
        if rollout != self.rollout:
            self.rollout = rollout
            self.streams = {}
            self._seen = set()
            self._asked = Counter()

    def count(
        self,
        *,
        rollout: str,
        weight: float,
        is_candidate: bool,
        number: int,
        sender: str,
        most: int,
        bad: Iterable[str],
    ) -> None:
        """Count a request and its bad signals. One of an earlier rollout changes nothing.

        Args:
            rollout: The request's rollout.
            weight: Percent of the traffic that the candidate has.
            is_candidate: Whether the candidate was asked.
            number: Stands for the sticky key.
            sender: Who sent it.
            most: Requests of one sender that count for each version at one weight.
            bad: The signals.
        """
        if rollout != self.rollout or not rollout:
            return
        if weight not in self.streams and len(self.streams) >= MAX_STREAMS:
            return
        stream = self.streams.setdefault(weight, Stream())
        counts = stream.candidate if is_candidate else stream.active
        asked = (weight, is_candidate, sender)
        if self._asked[asked] < most and len(self._asked) <= MAX_SEEN:
            self._asked[asked] += 1
            counts["requests"] += 1
        self._note(counts, bad, number, sender)

    def complain(
        self, *, rollout: str, is_candidate: bool, number: int, sender: str, time: float
    ) -> None:
        """Count a thumb down for an answer, in the stream in which that was given.

        Args:
            rollout: The rollout that runs.
            is_candidate: Whether the candidate gave the answer.
            number: Stands for the user who got it.
            sender: Who complains.
            time: Unix time of the answer.
        """
        # The id of an answer tells whole seconds.
        given = [stream for stream in self.streams.values() if int(stream.since) <= time]
        if rollout != self.rollout or not given:
            return
        stream = max(given, key=lambda each: each.since)
        counts = stream.candidate if is_candidate else stream.active
        self._note(counts, ["thumbsDown"], number, sender)

    def _note(self, counts: dict[str, int], bad: Iterable[str], number: int, sender: str) -> None:
        for signal in bad:
            events: set[tuple[str, int | str]] = {(signal, number), (signal, sender)}
            if not events & self._seen and len(self._seen) < MAX_SEEN:
                self._seen |= events
                counts[signal] += 1

    def report(self) -> list[dict[str, object]]:
        """Return the streams, as the operator reads them."""
        return [
            {"weight": int(weight), "active": stream.active, "candidate": stream.candidate}
            for weight, stream in self.streams.items()
        ]
