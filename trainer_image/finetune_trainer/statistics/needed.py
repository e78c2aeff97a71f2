"""How many rows would decide. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache

from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.statistics.confidence import tail_of

MOST = 1_000_000
"""Nobody holds out more: a goal that would need it cannot be decided."""
WANTED_HALF_WIDTH = 0.10
MOST_WANTED = 100_000


def count_for_best(threshold: float, certainty: float) -> int | None:
    """Return the least independent rows of which all are hits whose bound reaches a threshold.

    ``certainty`` is of the two-sided interval. None when no number does, as for a threshold of 1.
    """
    if not 0 < threshold < 1:
        return 1 if threshold <= 0 else None
    number = max(1, math.ceil(math.log(tail_of(certainty)) / math.log(threshold) - 1e-9))
    return number if number <= MOST else None


def count_of_gains(certainty: float) -> int:
    """Return the gained rows, without a lost one, that show a gain.

    Source: McNemar's exact test.
    """
    return math.ceil(-math.log2(tail_of(certainty)) - 1e-9)


def count_to_decide(
    *, value: float, bound: float, threshold: float, number: int, at_limit: bool = False
) -> int | None:
    """Return about how many independent rows show that a score is beyond a threshold.

    Assumes a constant score: the bound narrows with the root of the rows, or as a share's at the
    end of the scale.

    Args:
        value: The score.
        bound: Its bound on the side of the threshold.
        threshold: Value that the bound must reach.
        number: Independent rows so far.
        at_limit: The score can be no better.

    Returns:
        The number in all; None when no feasible number would do.
    """
    room, wanted = abs(value - bound), abs(value - threshold)
    is_beyond = (value - threshold) * (value - bound) > 0
    if not is_beyond or not math.isfinite(room) or wanted == 0:
        return None
    total = number * (_ratio_at_limit(room, wanted) if at_limit else (room / wanted) ** 2)
    return max(number + 1, math.ceil(total)) if total <= MOST else None


def _ratio_at_limit(room: float, wanted: float) -> float:
    """Return rows needed divided by rows present, for a score at its limit.

    The bound of a share of all hits is a root of the tail.
    """
    if room < 1:
        return math.log1p(-room) / math.log1p(-wanted)
    return room / wanted


@cache
def widest_half(num_groups: int) -> float:
    """Return half the width of the widest 95 % interval of a score between 0 and 1.

    Source: Clopper and Pearson 1934, at a share of one half.
    """
    if num_groups <= 0:
        return 0.5
    interval = confidence_of_share(num_groups / 2, num_groups).interval()
    return (interval.high - interval.low) / 2


@cache
def count_wanted(half_width: float = WANTED_HALF_WIDTH) -> int:
    """Return how many independent held-out prompts make no interval wider than this."""
    return bisect_left(range(MOST_WANTED), -half_width, key=lambda number: -widest_half(number))
