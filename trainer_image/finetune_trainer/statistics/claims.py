"""Tests of pairs, and many claims at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def doubt_of_equality(num_gained: int, num_lost: int) -> float:
    """Return the two-sided p-value that two models are right equally often on the same rows.

    Rows that only one model has right count. Source: McNemar 1947, exact.
    """
    from scipy.special import bdtr

    number = num_gained + num_lost
    if number == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(num_gained, num_lost), number, 0.5)))


def correct_for_many(doubts: Sequence[float]) -> list[float]:
    """Return p-values corrected for several dependent claims.

    With claims accepted at ``1 - certainty``, the probability of any error is at most that. Source:
    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(doubts)), key=lambda i: doubts[i])
    corrected = [1.0] * len(doubts)
    greatest = 0.0
    for rank, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(doubts) - rank) * doubts[index]))
        corrected[index] = greatest
    return corrected


def count_ahead(doubts: Sequence[float], allowed: float) -> int:
    """Return how many other claims are accepted before one more, at no cost to it.

    :func:`correct_for_many` accepts that one if its doubt is at most ``allowed`` divided by the
    number of all claims minus these.
    """
    number = len(doubts) + 1
    for rank, doubt in enumerate(sorted(doubts)):
        if (number - rank) * doubt > allowed:
            return rank
    return len(doubts)


def share_of_look(number: int) -> float:
    """Return the share of the doubt for look ``number``, from 1, at the same rows.

    The shares of all looks sum to 1, so the total error stays within the doubt.
    """
    return 6 / (math.pi * number) ** 2
