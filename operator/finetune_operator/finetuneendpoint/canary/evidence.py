"""Whether a candidate is worse than the active version, from counts. Valid at any time.

A hash of the user (else of the conversation), the sender and the rollout's name gives a user to the
candidate with the probability ``w``, its weight. A user counts once for each kind of bad answer. So
if the candidate is not worse, who has bad answers and when does not depend on the versions, and
each counted one is the candidate's with the probability ``w``, independently of all others. What
else decides whether one counts (an outage, a full table) looks at both versions together.

For an odds ratio ``r`` a bad answer is the candidate's with ``q = w r / (w r + 1 - w)``. The bet
on ``k`` of ``n`` is worth ``E = (q / w)**k ((1 - q) / (1 - w))**(n - k)``. Each sender has a bet of
its own, worth ``DOUBT + (1 - DOUBT) E``. The product over the senders, averaged over odds ratios
and signals, is an e-value. If the candidate is not worse, it ever reaches ``1 / alpha`` with a
probability of at most ``alpha``, after any number of looks (Ville's inequality).

A sender can read which version answered, make up users, and fail as any of them. So:

- Worse is shown only if it is shown without any one sender. The e-value without the liar is valid
  whatever the liar does, and the smallest of all is not above it.
- Nobody's bet falls below ``DOUBT``. So a sender that fails with the active version hides no harm
  for long.

Where one sender speaks for all (a single key, or ``access.trustUsers``), its users decide.
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


DOUBT = 0.1
"""What a bet on a sender keeps aside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many users of one version had a bad answer of each kind."""

    errors: int = 0
    slow: int = 0
    refusals: int = 0
    invalid_json: int = 0
    thumbs_down: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in COUNTED})

    def of(self, signal: Signal) -> int:
        """Return the number of bad events of a kind."""
        return int(getattr(self, signal.name.lower()))


COUNTED = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Bad answers to one sender's users at one weight of the candidate.

    Attributes:
        sender: Number of the sender.
        weight: Percent of the users that the candidate had, from 1 to 100.
    """

    sender: int
    weight: int
    active: Counts
    candidate: Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Evidence that the candidate is worse, as natural logarithms of e-values.

    Attributes:
        by_signal: Of each signal.
        log_e: Of all signals together.
        confirmed: The same without the sender who adds most, if no sender is trusted alone.
    """

    by_signal: Mapping[Signal, float]
    log_e: float
    confirmed: float

    @property
    def strongest(self) -> Signal:
        """The signal that says most that the candidate is worse."""
        return max(self.by_signal, key=lambda signal: self.by_signal[signal])

    def shows_worse(self, certainty: float) -> bool:
        """Return whether worse is shown, with false alarms at most ``1 - certainty``."""
        return self.confirmed >= log_bound(certainty)


def log_bound(certainty: float) -> float:
    """Return the logarithm of the e-value that shows worse at a certainty below 1."""
    return -math.log1p(-certainty)


def weigh(streams: Iterable[Stream], *, trusts_senders: bool) -> Evidence:
    """Return the evidence of a rollout. The order and the number of streams do not matter."""
    at: dict[int, dict[int, tuple[Counts, Counts]]] = {}
    for stream in streams:
        weights = at.setdefault(stream.sender, {})
        active, candidate = weights.get(stream.weight, (Counts(), Counts()))
        weights[stream.weight] = (active + stream.active, candidate + stream.candidate)
    bets = {
        sender: {
            signal: log_bets({w: (a.of(signal), c.of(signal)) for w, (a, c) in weights.items()})
            for signal in Signal
        }
        for sender, weights in at.items()
    }
    all_bets = {
        signal: [sum(bet[signal][i] for bet in bets.values()) for i in range(len(ODDS_RATIOS))]
        for signal in Signal
    }
    by_signal = {signal: _log_mean_of(logs) for signal, logs in all_bets.items()}
    log_e = _log_mean((SHARES[signal], each) for signal, each in by_signal.items())
    if trusts_senders:
        return Evidence(by_signal=by_signal, log_e=log_e, confirmed=log_e)
    without = [
        _log_mean(
            (SHARES[signal], _log_mean_of(x - y for x, y in zip(logs, bet[signal], strict=True)))
            for signal, logs in all_bets.items()
        )
        for bet in bets.values()
    ]
    return Evidence(by_signal=by_signal, log_e=log_e, confirmed=min([log_e, *without]))


def log_bets(num_bad: Mapping[int, tuple[int, int]]) -> list[float]:
    """Return the logarithms of one sender's bets on one signal, one for each odds ratio.

    Args:
        num_bad: Users with a bad answer of the active version and of the candidate, by weight in
            percent. At 0 and at 100 nothing runs beside the other, so nothing is learnt.
    """
    compared = [(w, a, c) for w, (a, c) in num_bad.items() if 0 < w < 100 and a + c]
    if not compared:
        return [0.0] * len(ODDS_RATIOS)
    return [
        _log_mean(
            (
                (DOUBT, 0.0),
                (1 - DOUBT, sum(a * _LOSS[w][i] + c * _GAIN[w][i] for w, a, c in compared)),
            )
        )
        for i in range(len(ODDS_RATIOS))
    ]


def _log_mean_of(logs: Iterable[float]) -> float:
    """Return the logarithm of the e-value that the bets on all odds ratios have together."""
    return _log_mean((1 / len(ODDS_RATIOS), each) for each in logs)


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
