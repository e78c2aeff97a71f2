"""Whether a candidate is worse than the active version, from counts. Valid at any time.

A request goes to the candidate with the probability ``w``, its weight, whatever it asks. So if the
candidate is not worse, a bad event (an error, a slow answer) is the candidate's with a probability
of at most ``w``, however often bad events happen. Each signal bets on larger shares: for an odds
ratio ``r`` the share is ``q = w r / (w r + 1 - w)``, and the bet on ``k`` of ``n`` bad events is
worth ``(q / w)**k ((1 - q) / (1 - w))**(n - k)``. The mean over the odds ratios and the signals is
an e-value. If the candidate is not worse, it ever reaches ``1 / alpha`` with a probability of at
most ``alpha``, after any number of looks (Ville's inequality).

The front keeps to what is assumed about the counts:

- A hash of the sticky key (a user, else a conversation) and of the rollout's name chooses the
  version. So versions of different sticky keys are independent. The weight does not depend on them.
- A bad event counts only if neither its sender (an API key, or without keys a client's address) nor
  its sticky key has had one of its kind in this rollout.

If the candidate is not worse, who has bad events and when does not depend on the versions. Then
the rule picks the events that count without regard to the versions, and each has a sticky key of
its own. So each is the candidate's with the probability ``w``, although a sender's sticky keys have
different versions. What the rule drops costs only time.

A sender can read which version answered, and fail with a chosen sticky key. That breaks the rule
for one event of each kind. At a weight of 5 % one such sender raises the e-value to 5 at most, and
to 38 through two fronts, because each front process remembers its own senders. The bound at the
default certainty is 100. So evidence is as good as the keys: without keys, as good as the clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum


class Signal(StrEnum):
    """A kind of bad event; its member's name is that of the field of ``Counts``."""

    ERRORS = "Errors"
    SLOW = "Slow"
    REFUSALS = "Refusals"
    INVALID_JSON = "InvalidJson"
    THUMBS_DOWN = "ThumbsDown"


ODDS_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Alternatives that are bet on: the candidate's odds of a bad event over the active version's."""
SHARES = {
    Signal.ERRORS: 0.5,
    Signal.SLOW: 0.125,
    Signal.REFUSALS: 0.125,
    Signal.INVALID_JSON: 0.125,
    Signal.THUMBS_DOWN: 0.125,
}
"""Part of the stake that each signal has. They add up to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Requests of one version, and how many of its users had a bad event of each kind."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    refusals: int = 0
    invalid_json: int = 0
    thumbs_down: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in COUNTED})

    def or_later(self, other: Counts) -> Counts:
        """Return the later of two readings of counts that only grow."""
        return Counts(**{name: max(getattr(self, name), getattr(other, name)) for name in COUNTED})

    def of(self, signal: Signal) -> int:
        """Return the number of bad events of a kind."""
        return int(getattr(self, signal.name.lower()))


COUNTED = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What one front process counted at one weight of the candidate.

    Attributes:
        front: Boot id of the process.
        weight: Percent of the traffic that the candidate had, from 1 to 100.
    """

    front: str
    weight: int
    active: Counts
    candidate: Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Evidence that the candidate is worse.

    Attributes:
        by_signal: Natural logarithm of each signal's e-value.
    """

    by_signal: Mapping[Signal, float]

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value of all signals together."""
        return _log_mean((SHARES[signal], log_e) for signal, log_e in self.by_signal.items())

    @property
    def strongest(self) -> Signal:
        """The signal that says most that the candidate is worse."""
        return max(self.by_signal, key=lambda signal: self.by_signal[signal])

    def shows_worse(self, certainty: float) -> bool:
        """Return whether worse is shown, with false alarms at most ``1 - certainty``."""
        return self.log_e >= log_bound(certainty)


def log_bound(certainty: float) -> float:
    """Return the logarithm of the e-value that shows worse at a certainty below 1."""
    return -math.log1p(-certainty)


def weigh(streams: Iterable[Stream]) -> Evidence:
    """Return the evidence of a rollout. The order and the number of streams do not matter."""
    at_weight: dict[int, tuple[Counts, Counts]] = {}
    for stream in streams:
        active, candidate = at_weight.get(stream.weight, (Counts(), Counts()))
        at_weight[stream.weight] = (active + stream.active, candidate + stream.candidate)
    return Evidence(
        by_signal={
            signal: log_e_value(
                {w: (a.of(signal), c.of(signal)) for w, (a, c) in at_weight.items()}
            )
            for signal in Signal
        }
    )


def log_e_value(num_bad: Mapping[int, tuple[int, int]]) -> float:
    """Return the logarithm of one signal's e-value.

    Args:
        num_bad: Bad events of the active version and of the candidate, by weight in percent. At 0
            and at 100 nothing runs beside the other, so nothing is learnt.
    """
    compared = [(w, a, c) for w, (a, c) in sorted(num_bad.items()) if 0 < w < 100 and a + c]
    if not compared:
        return 0.0
    return _log_mean(
        (1 / len(ODDS_RATIOS), sum(a * _LOSS[w][i] + c * _GAIN[w][i] for w, a, c in compared))
        for i in range(len(ODDS_RATIOS))
    )


def _log_mean(terms: Iterable[tuple[float, float]]) -> float:
    """Return the logarithm of the weighted mean of ``exp(x)``."""
    pairs = list(terms)
    top = max(x for _, x in pairs)
    return top + math.log(sum(share * math.exp(x - top) for share, x in pairs))


def _share(weight: float, odds_ratio: float) -> float:
    return weight * odds_ratio / (weight * odds_ratio + 1 - weight)


_GAIN = {
    w: tuple(math.log(_share(w / 100, r) / (w / 100)) for r in ODDS_RATIOS) for w in range(1, 100)
}
"""What a bad event of the candidate adds to the logarithm, by weight and odds ratio."""
_LOSS = {
    w: tuple(math.log((1 - _share(w / 100, r)) / (1 - w / 100)) for r in ODDS_RATIOS)
    for w in range(1, 100)
}
"""What a bad event of the active version adds: less than 0."""
