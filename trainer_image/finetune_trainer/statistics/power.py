"""How many independent rows make it likely that a model better than asked is found so. Pure.

A bound holds whatever the number of rows is; what few rows cost is the chance that a good model
reaches it. Counted here is how many rows a model takes whose true score is beyond the threshold by
a margin. Scores between 0 and 1 vary at most as hits and misses of the same mean do, so what is
enough for these is enough for all.
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
    """Return the tail that the bound of one of several claims may leave, whatever the others do.

    Of a claim's bounds there are only so many, which make its doubt a little coarser.

    Args:
        certainty: Of the claim.
        number: Claims that are corrected together.
        num_levels: Bounds that a score has.

    Returns:
        The tail; None where no bounds could be sure enough.

    Source: Holm 1979, of which this is the first and hardest step.
    """
    allowed = (1 - certainty) / number
    if 1 / num_levels > allowed + 1e-9:
        return None
    reached = (math.floor(allowed * num_levels / 2 + 1e-6) + 0.5) / num_levels
    return min(tail_of(certainty) / number, reached)


@cache
def count_for_share(threshold: float, truth: float, tail: float, power: float = POWER) -> int:
    """Return from how many independent rows on a share's lower bound is likely to be high enough.

    Args:
        threshold: What the lower bound must reach, below 1.
        truth: Probability of a hit, above the threshold.
        tail: Probability with which the bound is wrong.
        power: How likely it shall be, at least.

    Returns:
        The number; it is enough, and so is every greater one.

    Source: the binomial distribution of the hits, and Clopper and Pearson's bound of them.
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
