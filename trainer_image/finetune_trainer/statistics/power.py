"""How many independent rows make it likely that a better model is found better.

Pure. Scores between 0 and 1 vary at most as hits do, so the count holds for all.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.confidence import Floats, tail_of

MARGIN = 0.05
"""By how much a model is truly better than asked, of which it shall be likely that it is found so:
half of what is left to the best score where that is less."""
POWER = 0.9
"""How likely."""
MOST_EXACT = 200_000
"""Rows up to which the number is counted; beyond, it is that of the normal approximation."""

Ints = NDArray[np.int64]


def better_than(threshold: float) -> float:
    """Return the true score, or gain, of a model that is better than asked by the margin."""
    return threshold + min(MARGIN, max(0.0, 1 - threshold) / 2)


def tail_of_many(certainty: float, number: int, *, num_levels: int = NUM_DRAWS) -> float | None:
    """Return the tail for the bound of one of several corrected claims, in the worst case.

    ``num_levels`` bounds make a claim's doubt coarser. None where no bounds suffice. Source: Holm
    1979, its first step.
    """
    allowed = (1 - certainty) / number
    if 1 / num_levels > allowed + 1e-9:
        return None
    reached = (math.floor(allowed * num_levels / 2 + 1e-6) + 0.5) / num_levels
    return min(tail_of(certainty) / number, reached)


@cache
def count_for_share(threshold: float, truth: float, tail: float, power: float = POWER) -> int:
    """Return the rows from which a share's lower bound is likely to be high enough.

    Args:
        threshold: Value that the lower bound must reach, below 1.
        truth: Probability of a hit, above the threshold.
        tail: Probability with which the bound is wrong.
        power: Least probability of success.

    Returns:
        A number that is enough, as every greater one. Source: binomial distribution, Clopper and
            Pearson.
    """
    if threshold <= 0:
        return 1
    about = _count_about(
        truth - threshold,
        spread_of(threshold) * quantile_of(tail),
        spread_of(truth) * quantile_of(1 - power),
    )
    if about > MOST_EXACT:
        return math.ceil(about)
    # Hits are whole, so the chance falls and rises from one number to the next.
    last = math.ceil(1.25 * about) + 200
    numbers = np.arange(1, last + 1)
    failing = np.flatnonzero(_chance_of_share(numbers, threshold, truth, tail) < power)
    return int(failing[-1]) + 2 if len(failing) else 1


def chance_of_share(number: int, threshold: float, truth: float, tail: float) -> float:
    """Return how likely a share's lower bound reaches a threshold; see :func:`count_for_share`."""
    return float(_chance_of_share(np.array([number]), threshold, truth, tail)[0])


def _chance_of_share(numbers: Ints, threshold: float, truth: float, tail: float) -> Floats:
    from scipy.special import bdtrc, bdtrik

    # The fewest hits whose bound reaches the threshold: as many are likelier than the tail nowhere
    # below it. Both neighbours are tried, for what is found between whole numbers is not exact.
    least = np.ceil(bdtrik(1 - tail, numbers, threshold)) + 1
    for step in (-1, 0, 1):
        tried = np.clip(np.nan_to_num(least) + step, 0, numbers + 1)
        holds = np.where(tried > numbers, False, bdtrc(tried - 1, numbers, threshold) <= tail)
        if step == -1:
            found = np.where(holds, tried, np.inf)
        else:
            found = np.where(np.isinf(found) & holds, tried, found)
    hits = np.where(np.isinf(found), numbers + 1, found)
    chances: Floats = np.where(
        hits > numbers, 0.0, bdtrc(np.minimum(hits, numbers) - 1, numbers, truth)
    )
    return chances


def _count_about(room: float, *widths: float) -> float:
    return (sum(widths) / room) ** 2


def spread_of(share: float) -> float:
    """Return the standard deviation of a hit or miss, which no score of that mean exceeds."""
    return math.sqrt(max(0.0, share * (1 - share)))


def quantile_of(tail: float) -> float:
    """Return how many standard deviations leave this tail; 0 where it is half or more."""
    from scipy.special import ndtri

    return max(0.0, -float(ndtri(tail)))
