"""How many rows would decide. Pure."""

from __future__ import annotations

import math

from finetune_trainer.statistics.bounded import lowest_bound_of_best
from finetune_trainer.statistics.confidence import tail_of

MOST = 1_000_000
"""Nobody holds out more: a goal that would need it cannot be decided."""


def count_for_best(threshold: float, certainty: float) -> int | None:
    """Return how many independent rows, all of them hits, bring the lower bound to a threshold.

    Args:
        threshold: A share.
        certainty: Of the two-sided interval.

    Returns:
        The number; None when no number does, as for a threshold of 1.
    """
    if threshold >= 1:
        return None
    if threshold <= 0:
        return 1
    number = max(1, math.ceil(math.log(tail_of(certainty)) / math.log(threshold) - 1e-9))
    return number if number <= MOST else None


def highest_gain_bound(number: int, certainty: float) -> float:
    """Return the lower bound of a difference that is 1 on all of these independent rows."""
    return 2 * lowest_bound_of_best(number, certainty) - 1


def count_for_gain(threshold: float, certainty: float) -> int | None:
    """Return how many independent rows, all of them gained, bring the bound to a threshold."""
    return count_for_best((threshold + 1) / 2, certainty)


def count_of_gains(certainty: float) -> int:
    """Return how many rows must be gained, and none lost, to show a gain at all.

    Source: McNemar's exact test.
    """
    return math.ceil(-math.log2(tail_of(certainty)) - 1e-9)


def count_to_decide(
    *, value: float, bound: float, threshold: float, number: int, at_limit: bool = False
) -> int | None:
    """Return about how many independent rows show that a score is beyond a threshold.

    Assumes that the score stays what it is: the bound then comes nearer with the root of the
    number of rows, and where the score is at the end of its scale with the number itself.

    Args:
        value: The score.
        bound: Its bound on the side of the threshold.
        threshold: What the bound must reach.
        number: Independent rows so far.
        at_limit: The score can be no better.

    Returns:
        The number in all, more than so far; None when the score itself is not beyond the threshold,
        or no feasible number would do.
    """
    room, wanted = abs(value - bound), abs(value - threshold)
    is_beyond = (value - threshold) * (value - bound) > 0
    if not is_beyond or not math.isfinite(room) or wanted == 0:
        return None
    ratio = room / wanted
    total = number * (ratio if at_limit else ratio * ratio)
    return max(number + 1, math.ceil(total)) if total <= MOST else None
