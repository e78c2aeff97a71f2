"""Tests of pairs, and many claims at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def doubt_of_equality(num_gained: int, num_lost: int) -> float:
    """Return the two-sided p-value of two models being right equally often on the same rows.

    Args:
        num_gained: Rows that only the second model has right.
        num_lost: Rows that only the first one has right.

    Source: McNemar 1947; the exact version, from the binomial distribution.
    """
    from scipy.special import bdtr

    number = num_gained + num_lost
    if number == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(num_gained, num_lost), number, 0.5)))


def correct_for_many(doubts: Sequence[float]) -> list[float]:
    """Return p-values that stay honest although so many claims were looked at.

    Whichever claims are held true because theirs is at most ``1 - certainty``: the probability that
    any of them is wrong is at most that, however the claims depend on each other.

    Args:
        doubts: p-value of each claim.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(doubts)), key=lambda i: doubts[i])
    corrected = [1.0] * len(doubts)
    greatest = 0.0
    for rank, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(doubts) - rank) * doubts[index]))
        corrected[index] = greatest
    return corrected


def count_ahead(doubts: Sequence[float], allowed: float) -> int:
    """Return how many of the other claims are held true before one more, which costs it nothing.

    That one is held true by :func:`correct_for_many` exactly where its doubt is at most ``allowed``
    divided by the number of all claims less these.

    Args:
        doubts: p-value of each other claim.
        allowed: What the one's corrected p-value may be.
    """
    number = len(doubts) + 1
    for rank, doubt in enumerate(sorted(doubts)):
        if (number - rank) * doubt > allowed:
            return rank
    return len(doubts)


def share_of_look(number: int) -> float:
    """Return the share of the doubt that one of many looks at the same rows may use.

    The shares of all looks, however many there will be, sum to 1. So the probability that any of
    them shows what is not so is at most the doubt, however the looks depend on each other.

    Args:
        number: Which look it is, from 1.
    """
    return 6 / (math.pi * number) ** 2
