"""Counts of a rollout, from which the operator computes its evidence.

A user's bad answer counts once for each kind in a rollout. It is noted in a cell, which a hash of
sender and user chooses, so that the operator can join what several fronts have noted. During an
outage nothing counts: it says nothing of one version, and would use up everybody's one time.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from finetune_api.protocol.serving import (
    NUM_SENDERS,
    NUM_USERS,
    OF_CANDIDATE,
    SENDER_SHARES,
    USER_SHARES,
    add_cell,
    write_cells,
)

SIGNALS = {
    "errors": "Errors",
    "slow": "Slow",
    "refusals": "Refusals",
    "invalidJson": "InvalidJson",
    "thumbsDown": "ThumbsDown",
}
"""Signals by the names that they have in metrics."""
MAX_STREAMS = 32
MAX_SEEN = 100_000
"""Users and senders whose requests are counted one by one. Further ones do not count."""
RECENT = 20
"""Answers of both versions by which an outage is recognised."""


@dataclass(slots=True)
class Side:
    """Requests of one version at one weight: those that count, all, and different users."""

    requests: int = 0
    asked: int = 0
    users: int = 0

    def report(self) -> dict[str, int]:
        """Return the counts, as the operator reads them."""
        return {"requests": self.requests, "asked": self.asked, "users": self.users}


@dataclass(slots=True)
class Stream:
    """Counts at one weight.

    Attributes:
        since: Unix time of its first request.
    """

    active: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    since: float = field(default_factory=time.time)


@dataclass(slots=True)
class Tallies:
    """Counts of one endpoint.

    Attributes:
        rollout: The rollout that is counted; another one starts from zero.
        num_requests: Answered since this process started, whatever the rollout.
        events: Marks by cell, for each signal.
    """

    rollout: str = ""
    num_requests: int = 0
    streams: dict[float, Stream] = field(default_factory=dict)
    events: dict[str, dict[int, int]] = field(default_factory=dict)
    _asked: Counter[tuple[float, bool, str, int | None]] = field(default_factory=Counter)
    _recent: deque[tuple[str | int, Collection[str]]] = field(
        default_factory=lambda: deque(maxlen=RECENT)
    )

    def begin(self, rollout: str) -> None:
        """Start counting a rollout, unless it is the one that is counted."""
        if rollout != self.rollout:
            self.rollout = rollout
            self.streams = {}
            self.events = {}
            self._asked = Counter()
            self._recent.clear()

    def count(
        self,
        *,
        rollout: str,
        weight: float,
        is_candidate: bool,
        sender: str,
        user: int,
        needed: int,
        is_only_sender: bool,
        bad: Collection[str],
    ) -> None:
        """Count a request and its bad signals. One of an earlier rollout changes nothing.

        Args:
            rollout: The request's rollout.
            weight: Percent of the users that the candidate has.
            is_candidate: Whether the candidate was asked.
            sender: Who sent it.
            user: Stands for the user behind the sender.
            needed: Requests that the candidate needs at each weight.
            is_only_sender: Whether no other sender is possible.
            bad: The signals.
        """
        if rollout != self.rollout or not rollout:
            return
        if weight not in self.streams and len(self.streams) >= MAX_STREAMS:
            return
        whose = user if is_only_sender else sender
        outage = self._in_outage(weight, whose)
        self._recent.append((whose, bad))
        if "errors" in outage:
            return
        stream = self.streams.setdefault(weight, Stream())
        side = stream.candidate if is_candidate else stream.active
        of_sender, of_user = (
            (weight, is_candidate, sender, None),
            (weight, is_candidate, sender, user),
        )
        most_of_sender = needed if is_only_sender else -(-needed // SENDER_SHARES)
        side.asked += 1
        if of_user in self._asked or len(self._asked) < MAX_SEEN:
            side.users += of_user not in self._asked
            most_of_user = -(-needed // USER_SHARES)
            if self._asked[of_user] < most_of_user and self._asked[of_sender] < most_of_sender:
                self._asked[of_sender] += 1
                side.requests += 1
            self._asked[of_user] += 1
        self._note(set(bad) - outage, sender, user, weight, is_candidate)

    def complain(
        self, *, rollout: str, is_candidate: bool, sender: str, user: int, time: float
    ) -> None:
        """Count a thumb down for an answer, at the weight at which that was given.

        Args:
            rollout: The rollout that runs.
            is_candidate: Whether the candidate gave the answer.
            sender: Who complains.
            user: Stands for the user who got the answer.
            time: Unix time of the answer.
        """
        # The id of an answer tells whole seconds.
        given = [(w, each) for w, each in self.streams.items() if int(each.since) <= time]
        if rollout == self.rollout and given:
            weight, _ = max(given, key=lambda each: each[1].since)
            self._note({"thumbsDown"}, sender, user, weight, is_candidate)

    def _in_outage(self, weight: float, whose: str | int) -> set[str]:
        """Return the signals that more requests have than the candidate can have caused.

        A signal must also be on most requests of all but the sender that has it most often. Else
        that sender hides harm to others by many bad answers. If all requests are of one sender,
        the signal is an outage for that sender only. An only sender's users stand for senders.
        Answers of both versions count, and only those before the request.

        Args:
            weight: Percent of requests that the candidate gets.
            whose: Sender (or user) of the request.
        """
        share, found = (1 + weight / 100) / 2, set()
        for signal in {each for _, bad in self._recent for each in bad}:
            counts = Counter(each for each, bad in self._recent if signal in bad)
            worst, number = counts.most_common(1)[0]
            num_others = sum(each != worst for each, _ in self._recent)
            is_of_most = counts.total() - number > num_others * share
            if (is_of_most if num_others else whose == worst) and counts.total() > RECENT * share:
                found.add(signal)
        return found

    def _note(
        self, bad: Collection[str], sender: str, user: int, weight: float, is_candidate: bool
    ) -> None:
        mark = int(weight) + OF_CANDIDATE * is_candidate
        if not bad or not 0 < int(weight) < 100:
            return
        cell = cell_of(self.rollout, sender, user)
        for signal in bad:
            add_cell(self.events.setdefault(signal, {}), cell, mark)

    def report(self) -> dict[str, object]:
        """Return streams and events, as the operator reads them."""
        return {
            "streams": [
                {
                    "weight": int(weight),
                    "active": stream.active.report(),
                    "candidate": stream.candidate.report(),
                }
                for weight, stream in self.streams.items()
            ],
            "events": [
                {"signal": SIGNALS[signal], "cells": write_cells(cells)}
                for signal, cells in self.events.items()
            ],
        }


def cell_of(rollout: str, sender: str, user: int) -> int:
    """Return the cell of a sender's user: other rollouts mix them anew."""
    first = _hash(rollout, sender.encode())
    second = _hash(rollout, b"%d/%d" % (first, user))
    return first % NUM_SENDERS * NUM_USERS + second % NUM_USERS


def _hash(rollout: str, text: bytes) -> int:
    salt = hashlib.blake2b(rollout.encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(text, key=salt, digest_size=8).digest(), "big")
