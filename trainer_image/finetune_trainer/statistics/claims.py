"""Many claims at once. Pure."""

from __future__ import annotations

from collections.abc import Sequence


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
