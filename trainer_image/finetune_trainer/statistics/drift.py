"""Whether a stream still has the means of a reference, at any number of looks. Pure.

**What is compared.** At each look every user gives one number from 0 to 1, the mean over the
answers to this user. The null hypothesis of a signal is: at each look, given all looks before it
and the number of its users, the mean of the users' expectations lies within the signal's limits
(:class:`Limits`), and the users of one look are independent. Nothing is assumed of users who come
back, of the order, of the shape of the distribution, or of changes between looks that stay within
the limits.

**One look.** A bet puts the share ``f`` of its money on large numbers. A user's number ``x`` turns
each unit of money into ``1 - f + f x / high``. That has the expectation
``1 - f + f E[x] / high``. The users are independent, and the geometric mean of their expectations
is at most the arithmetic one. So a look multiplies the money by 1 at most, in expectation (Waudby-
Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"). A second bet puts
its money on small numbers with ``(1 - x) / (1 - low)``.

**All looks.** The evidence ``M`` of a bet is the sum of the money of a bettor who starts anew at
each look: ``M = (M + 1) * growth`` (Shiryaev 1963; Roberts 1966). Under the null hypothesis
``M - number of looks`` is a supermartingale. The mean over bets, sides and signals is one as well.
So ``M`` is an e-detector (Shin, Ramdas and Rinaldo 2023, "E-detectors: a nonparametric framework
for sequential change detection"). An alarm at ``M >= c`` that sets ``M`` to 0 takes away ``c`` at
least. So in ``n`` looks ``n / c`` alarms at most are expected, and the mean number of looks from
one alarm to the next is ``c`` at least. It does not matter how signals depend on each other.

**A finite reference.** The true mean of the reference is not known. The limits are its two-sided
bounds (``bounded.py``), widened by a tolerance. If the reference has independent clusters from the
distribution that the stream has while nothing changes, the bounds of all signals together hold with
``certainty``. Given that they hold, the rate above holds. They fail for ``1 - certainty`` of the
references, and such a reference may cause alarms again and again. The mean time to an alarm over
all references is ``certainty * c`` at least, so ``c`` is divided by ``certainty``. Bounds of shares
of hits are exact. Those of other numbers held in simulations (``benchmarks/results/evidence.md``).

**Loud users.** ``num_loud`` users of a look may give any number, at every look. They move a look's
mean by their share of its users at most, and the limits of the look are that much wider. So they
cause no alarm beyond the rate. A look with no more users than that says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from finetune_trainer.statistics.confidence import (
    DEFAULT_CERTAINTY,
    Confidence,
    Floats,
)

STAKES = (1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the money that are bet: small ones find small changes, large ones find large changes.

The evidence is the mean over them (Shin, Ramdas and Rinaldo 2023, section 4, on mixtures).
"""
NUM_SIDES = 2
NUM_LOUD = 1
LEAST_ROOM = 1e-9
"""Least distance of a limit from the end that is bet on: nearer ones cannot be divided by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Means of a signal that are no drift; between 0 and 1."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"limits rise from 0 to 1, not from {self.low} to {self.high}")

    def with_loud(self, num_loud: int, num_users: int) -> Limits:
        """Return the limits of a look, some of whose users may give any number."""
        share = min(1.0, num_loud / num_users) if num_users > 0 else 1.0
        return Limits(low=self.low * (1 - share), high=self.high + (1 - self.high) * share)


def limits_of(
    reference: Confidence,
    *,
    num_signals: int,
    tolerance: float = 0.0,
    certainty: float = DEFAULT_CERTAINTY,
) -> Limits:
    """Return the limits of one of some signals.

    Args:
        reference: Bounds of the mean of the reference.
        num_signals: Signals whose bounds must hold together.
        tolerance: Change of the mean that causes no alarm.
        certainty: Least probability that the bounds of all signals hold.
    """
    interval = reference.interval(1 - (1 - certainty) / num_signals)
    return Limits(low=max(0.0, interval.low - tolerance), high=min(1.0, interval.high + tolerance))


def log_growths(numbers: Floats, limits: Limits) -> Floats:
    """Return the logarithm of what each number does to each bet, by side, stake and number.

    The first side bets on large numbers, the second one on small numbers.

    Args:
        numbers: Between 0 and 1; one per user, or each that occurs.
        limits: Those of the look.
    """
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() <= 1):
        raise ValueError(
            f"numbers of a signal lie between 0 and 1, not from {numbers.min()} to {numbers.max()}"
        )
    above = numbers / max(limits.high, LEAST_ROOM)
    below = (1 - numbers) / max(1 - limits.low, LEAST_ROOM)
    stakes = np.array(STAKES)[:, None]
    growths: Floats = np.log1p(stakes * (np.stack([above, below])[:, None, :] - 1))
    return growths


def log_growth_of_look(
    numbers: Floats, limits: Limits, *, num_loud: int = NUM_LOUD
) -> Floats | None:
    """Return the logarithm of what a look does to each bet, by side and stake.

    Args:
        numbers: One per user.
        limits: Those of the signal.
        num_loud: Users who may give any number.

    Returns:
        None for a look that has too few users to say anything.
    """
    if len(numbers) <= num_loud:
        return None
    growth: Floats = log_growths(numbers, limits.with_loud(num_loud, len(numbers))).sum(axis=-1)
    return growth


def no_evidence(num_signals: int) -> Floats:
    """Return the logarithm of the evidence before the first look, by signal, side and stake."""
    return np.full((num_signals, NUM_SIDES, len(STAKES)), -np.inf)


def add_look(log_evidence: Floats, log_growth: Floats) -> Floats:
    """Return the logarithm of the evidence after one more look."""
    return np.logaddexp(log_evidence, 0.0) + log_growth


def log_mean_of_bets(log_evidence: Floats) -> Floats:
    """Return the logarithm of each signal's evidence, the mean over its sides and stakes."""
    bets = log_evidence.reshape(*log_evidence.shape[:-2], -1)
    return _log_mean(bets)


def log_mean_of_signals(by_signal: Floats) -> Floats:
    """Return the logarithm of the evidence of all signals together."""
    return _log_mean(by_signal)


def log_alarm_bound(
    *,
    looks_per_year: float,
    false_alarms_per_year: float,
    certainty: float = DEFAULT_CERTAINTY,
) -> float:
    """Return the logarithm of the evidence at which the alarm rings.

    Args:
        looks_per_year: Most looks that a year can have. Looks that are left out only lower the
            rate.
        false_alarms_per_year: Most false alarms to expect in a year, above 0.
        certainty: As for :func:`limits_of`.
    """
    if not looks_per_year >= false_alarms_per_year > 0:
        raise ValueError(
            f"falseAlarmsPerYear lies between 0 and the {looks_per_year:g} looks of a year, not at "
            f"{false_alarms_per_year:g}; look more often, or allow fewer"
        )
    return math.log(looks_per_year / false_alarms_per_year / certainty)


def _log_mean(logarithms: Floats) -> Floats:
    mean: Floats = np.logaddexp.reduce(logarithms, axis=-1) - math.log(logarithms.shape[-1])
    return mean
