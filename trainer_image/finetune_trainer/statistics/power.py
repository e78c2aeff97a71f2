"""How likely independent rows show that a better model is better, and how many rows are enough.

A fixed seed draws gained, lost and tied rows many times. The bound is that of ``bounded.py``: the
exact one of a share, or a weighted sum of gamma variables by its saddlepoint. Scores between 0 and
1 vary at most as hits do, so the chance holds for all. Source: Lugannani and Rice 1980.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from finetune_trainer.statistics.bounded import NUM_DRAWS
from finetune_trainer.statistics.confidence import LEAST_OVER, tail_of

MARGIN = 0.05
"""By how much a model is truly better than asked, of which it shall be likely that it is found so:
half of what is left to the best score where that is less."""
POWER = 0.9
"""How likely."""
NUM_RUNS = 4000
"""Simulated evaluations: the chance errs by one per cent at most, by two standard deviations."""
MOST = 1 << 40
"""Rows beyond which none are counted."""


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


def chance_of_gain(number: int, threshold: float, gained: float, lost: float, tail: float) -> float:
    """Return how likely a paired gain's lower bound reaches a threshold.

    Args:
        number: Independent rows.
        threshold: Value that the bound must reach.
        gained: Probability that only the second model is right on a row.
        lost: Probability that only the first one is.
        tail: Probability with which the bound may be wrong.
    """
    from scipy.special import bdtrc, ndtr

    if threshold <= -1:
        return 1.0  # whatever the scores are
    tied = max(0.0, 1 - gained - lost)
    drawn = np.random.default_rng(0).multinomial(number, [gained, lost, tied], size=NUM_RUNS)
    factors = np.array([1 - threshold, -1 - threshold, -threshold])
    shapes = drawn + np.array([0, 1, 0])
    # Where the mean is not above the threshold, the doubt is near one half or more.
    shapes = shapes[shapes @ factors > 1e-3 * np.sqrt(shapes @ factors**2)]
    hits, misses = shapes[:, 0], shapes[:, 1] - 1
    share = (1 + threshold) / 2
    exact = bdtrc(hits - 1, hits + misses, share)
    # The saddlepoint is the root of a quadratic equation at which that increases.
    linear = shapes @ (factors * (factors - factors.sum()))
    square = factors.prod() * (number + 1)
    mean = shapes @ factors
    saddle = -2 * mean / (linear + np.sqrt(linear**2 - 4 * square * mean))
    left = 1 - np.multiply.outer(saddle, factors)
    root = -np.sqrt(2 * (shapes * np.log(left)).sum(axis=1))
    slope = saddle * np.sqrt((shapes * (factors / left) ** 2).sum(axis=1))
    density = np.exp(-(root**2) / 2) / math.sqrt(2 * math.pi)
    near = ndtr(root) + density * (1 / root - 1 / slope)
    has_two = (shapes[:, 2] == 0) | (abs(threshold) <= LEAST_OVER)
    doubt = np.maximum(np.where(has_two, exact, near), share**number)
    return float((doubt <= tail).sum() / NUM_RUNS)


def chance_of_share(number: int, threshold: float, truth: float, tail: float) -> float:
    """Return how likely a share's lower bound reaches a threshold: a hit gains, a miss loses."""
    return chance_of_gain(number, 2 * threshold - 1, truth, 1 - truth, tail)


def count_for(chance: Callable[[int], float], power: float = POWER, *, most: int = MOST) -> int:
    """Return about from how many rows on a chance is high enough; more than ``most`` for none.

    Args:
        chance: Probability of success by the number of rows.
        power: Least probability of success.
        most: Rows beyond which none are tried.
    """
    least, enough = 0, 1
    while chance(enough) < power:
        least, enough = enough, 2 * enough
        if enough > most:
            return enough
    while enough - least > 1:
        middle = (least + enough) // 2
        least, enough = (middle, enough) if chance(middle) < power else (least, middle)
    return enough


def widest_gain(gain: float, *, at_least: float = 0.0) -> tuple[float, float]:
    """Return the true scores before and after a gain at which it varies most.

    The score after is ``at_least``.
    """
    after = min(1.0, max(0.0, at_least, (1 + gain) / 2))
    return min(1.0, max(0.0, after - gain)), after
