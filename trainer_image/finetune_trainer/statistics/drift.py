"""Whether the users of two windows differ in the mean of a number from 0 to 1. Pure.

**What is compared.** Each user gives one number in each window. The users of a window are
independent draws, in an order that does not depend on their numbers. The null hypothesis: the two
means differ by at most a tolerance. Nothing is assumed of the shape of the distributions.

**The test.** Users are divided into as many groups as the smaller window has users. The groups of
both windows are paired: ``d`` is the difference of their means. A bet with the share ``f`` of its
money multiplies it by ``1 + f (d - tolerance) / (1 + tolerance)`` at each pair. Under the null
hypothesis each factor has the expectation 1 at most, so the money has it too (Waudby-Smith and
Ramdas 2024, "Estimating means of bounded random variables by betting"). The evidence is the mean
over several bets and both sides. By Markov's inequality it reaches ``c`` with the probability
``1 / c`` at most. A user of both windows raises one factor and lowers another, which makes the
expectation of their product smaller.

**Many looks.** With ``c`` as in :func:`log_alarm_bound`, the expected number of looks of a year
that find a change where none is, over all signals, is at most the number that was asked for. This
is a sum of expectations. It holds however looks and signals depend on each other, and includes the
chance of the reference.

**One loud user** multiplies the evidence of a look by less than 2. The bound is twice as high.
"""

from __future__ import annotations

import math

import numpy as np

from finetune_trainer.statistics.confidence import Floats

STAKES = np.array([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.9])
"""Shares of the money that are bet: small ones find small changes, large ones find large changes.
"""
NUM_STEPS = 30


def log_evidence(then: Floats, now: Floats, *, tolerance: float) -> Floats:
    """Return the logarithm of the evidence that the mean is higher now, and that it is lower.

    Args:
        then: Numbers of the reference, one per user.
        now: Numbers of a look, one per user.
        tolerance: Change of the mean that is none.
    """
    number = min(len(then), len(now))
    if number == 0:
        return np.zeros(2)
    rise = _means(now, number) - _means(then, number)
    return _log_mean(np.stack([_log_money(each, tolerance) for each in (rise, -rise)]))


def log_mean_of_sides(sides: Floats) -> float:
    """Return the logarithm of the mean of evidence for both sides."""
    return float(_log_mean(sides))


def smallest_changes(
    then: Floats, *, num_users: int, tolerance: float, log_bound: float
) -> tuple[float | None, float | None]:
    """Return the least rise and the least fall of the mean that looks find within a month.

    Users turn to the end of the scale until the mean has changed by so much. Nine of ten such
    changes are found (``benchmarks/results/loop.md``). None: no change to that side is found.

    Args:
        then: Numbers of the reference, one per user.
        num_users: Users of a look.
        tolerance: As for :func:`log_evidence`.
        log_bound: Of :func:`log_alarm_bound`.
    """
    sample = then[: min(len(then), num_users)]
    if len(sample) == 0:
        return None, None
    return _least_rise(sample, tolerance, log_bound), _least_rise(1 - sample, tolerance, log_bound)


def log_alarm_bound(
    *, looks_per_year: float, false_alarms_per_year: float, num_signals: int
) -> float:
    """Return the logarithm of the evidence of a signal at which it has changed.

    Args:
        looks_per_year: Most looks that a year can have.
        false_alarms_per_year: Most looks of a year that may find a change where none is, above 0.
        num_signals: Signals that are watched.
    """
    if not looks_per_year >= false_alarms_per_year > 0:
        raise ValueError(
            f"falseAlarmsPerYear lies between 0 and the {looks_per_year:g} looks of a year, not at "
            f"{false_alarms_per_year:g}; look more often, or allow fewer"
        )
    return math.log(2 * num_signals * looks_per_year / false_alarms_per_year)


def _least_rise(numbers: Floats, tolerance: float, log_bound: float) -> float | None:
    same = _log_money(np.roll(numbers, len(numbers) // 2) - numbers, tolerance)
    moved = _log_money(1 - numbers, tolerance)
    # Half of the evidence is of the other side. A deviation more is for the chance of the look.
    wanted = log_bound + math.log(2) + math.sqrt(2 * log_bound)
    if float(_log_mean(moved)) < wanted:
        return None
    low, high = 0.0, 1.0
    for _ in range(NUM_STEPS):
        share = (low + high) / 2
        is_found = float(_log_mean(same + share * (moved - same))) >= wanted
        low, high = (low, share) if is_found else (share, high)
    return high * float(1 - numbers.mean())


def _means(numbers: Floats, number: int) -> Floats:
    """Return the means of groups of neighbours, whose sizes differ by one at most."""
    edges = np.arange(number) * len(numbers) // number
    means: Floats = np.add.reduceat(numbers, edges) / np.diff(edges, append=len(numbers))
    return means


def _log_money(differences: Floats, tolerance: float) -> Floats:
    """Return the logarithm of what each bet on a rise has in the end."""
    gains = (differences - tolerance) / (1 + tolerance)
    money: Floats = np.log1p(STAKES[:, None] * gains).sum(axis=-1)
    return money


def _log_mean(logarithms: Floats) -> Floats:
    mean: Floats = np.logaddexp.reduce(logarithms, axis=-1) - math.log(logarithms.shape[-1])
    return mean
