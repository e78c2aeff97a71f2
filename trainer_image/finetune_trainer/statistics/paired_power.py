"""How many independent pairs of rows make a gain likely to be found. Pure.

A pair of hits or misses is gained, lost or tied. The weights of each kind sum to a gamma variable
(``bounded.py``); the saddlepoint gives the tail of their sum. Source: Lugannani and Rice 1980,
"Saddle point approximation for the distribution of the sum of independent random variables".
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from finetune_trainer.statistics.confidence import Floats
from finetune_trainer.statistics.power import (
    MOST_EXACT,
    POWER,
    Ints,
    count_for_share,
    quantile_of,
    spread_of,
)

STEPS = 30
"""Of a bisection between the ends of a range."""
SADDLE_ERROR = 1.05
"""What a doubt may be more than the saddlepoint says; with no row lost it is 4 % at most."""
REACH = 6.0
"""Standard deviations within which counts are summed: beyond lies less than one in a million."""


@cache
def count_for_gain(
    threshold: float, before: float, after: float, tail: float, power: float = POWER
) -> int:
    """Return the independent rows that make a paired gain's lower bound likely to be high enough.

    Both models are assumed right on the same rows by chance, the case with the most variance; see
    :func:`count_for_wins` for its opposite.

    Args:
        threshold: Value that the lower bound must reach, below 1.
        before: True score of the first model.
        after: That of the second one; more than the threshold above the first.
        tail: Probability with which the bound is wrong.
        power: Least probability of success.
    """
    if threshold <= -1:
        return 1  # whatever the scores are
    room = after - before - threshold
    widths = (quantile_of(tail) + quantile_of(1 - power)) * math.hypot(
        spread_of(before), spread_of(after)
    )
    about = (widths / room) ** 2 + (1 + after - before) / room
    if about > MOST_EXACT:
        return math.ceil(about)
    least, most = 0, max(2, math.ceil(about))
    while chance_of_gain(most, threshold, before, after, tail) < power:
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        if chance_of_gain(middle, threshold, before, after, tail) < power:
            least = middle
        else:
            most = middle
    return most


def count_for_wins(threshold: float, after: float, tail: float, power: float = POWER) -> int:
    """Return the same where one model wins what the other loses, without ties.

    The gain is twice the share of wins, less one; the first model's score is ``1 - after``.
    Arguments as for :func:`count_for_gain`.
    """
    return count_for_share((1 + threshold) / 2, after, tail, power)


def chance_of_gain(
    number: int, threshold: float, before: float, after: float, tail: float
) -> float:
    """Return how likely a gain's lower bound reaches a threshold; see :func:`count_for_gain`."""
    from scipy.special import bdtr, bdtrc

    gained, lost = after * (1 - before), before * (1 - after)
    losses = _range_of(number, lost)
    fewest = _fewest_gained(number, losses, threshold, tail)
    # Of those that are not lost, so many are gained.
    rest = number - losses
    share = min(1.0, gained / (1 - lost)) if lost < 1 else 0.0
    enough = np.where(fewest > rest, 0.0, bdtrc(np.minimum(fewest, rest) - 1, rest, share))
    enough = np.where(fewest <= 0, 1.0, enough)
    upper = bdtr(losses, number, lost)
    lower = np.where(losses > 0, bdtr(np.maximum(losses - 1, 0), number, lost), 0.0)
    return float(((upper - lower) * enough).sum())


def widest_gain(gain: float, *, at_least: float = 0.0) -> tuple[float, float]:
    """Return the true scores before and after a gain at which it varies most.

    The score after is ``at_least``.
    """
    after = min(1.0, max(0.0, at_least, (1 + gain) / 2))
    return min(1.0, max(0.0, after - gain)), after


def _range_of(number: int, share: float) -> Ints:
    reach = REACH * spread_of(share) * math.sqrt(number) + 3
    low = max(0, math.floor(number * share - reach))
    high = min(number, math.ceil(number * share + reach))
    return np.arange(low, high + 1)


def _fewest_gained(number: int, losses: Ints, threshold: float, tail: float) -> Ints:
    """Return the fewest gained rows, with so many lost, whose bound reaches the threshold."""
    rest = number - losses
    low, high = np.full(len(losses), -1), rest + 1  # never enough, and taken to be
    while (high - low > 1).any():
        middle = (low + high) // 2
        doubt = SADDLE_ERROR * _doubt(middle, rest - middle, losses, threshold)
        is_enough = doubt <= tail
        high = np.where(is_enough & (middle >= 0), middle, high)
        low = np.where(is_enough & (middle >= 0), low, middle)
    return high


def _doubt(gained: Ints, tied: Ints, lost: Ints, threshold: float) -> Floats:
    from scipy.special import ndtr

    factors = np.array([1 - threshold, -threshold, -1 - threshold])[:, None]
    shapes = np.stack([np.maximum(gained, 0), np.maximum(tied, 0), lost + 1]).astype(np.float64)
    place = _saddle(factors, shapes)
    left = 1 - factors * place
    height = -(shapes * np.log(left)).sum(0)
    curve = (shapes * (factors / left) ** 2).sum(0)
    normal = np.sign(place) * np.sqrt(np.maximum(-2 * height, 0.0))
    slope = place * np.sqrt(curve)
    is_flat = np.abs(normal) < 1e-3  # about the middle, far from any tail
    safe = np.where(is_flat, 1.0, normal), np.where(is_flat, 1.0, slope)
    density = np.exp(-(normal**2) / 2) / math.sqrt(2 * math.pi)
    below = ndtr(normal) + np.where(is_flat, 0.0, density * (1 / safe[0] - 1 / safe[1]))
    doubt: Floats = np.where((factors * shapes).sum(0) <= 0, 1.0, below)
    return doubt


def _saddle(factors: Floats, shapes: Floats) -> Floats:
    """Return where the cumulant function of a weighted sum of gamma variables is flat."""
    ends = np.where(shapes > 0, factors, 0.0)
    with np.errstate(divide="ignore"):
        low = 1 / np.minimum(ends.min(0), -1e-12)
        high = 1 / np.maximum(ends.max(0), 1e-12)
    for _ in range(STEPS):
        middle = (low + high) / 2
        is_rising = (shapes * factors / (1 - factors * middle)).sum(0) > 0
        low, high = np.where(is_rising, low, middle), np.where(is_rising, middle, high)
    found: Floats = (low + high) / 2
    return found
