"""How many rows would decide. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_trainer.statistics.bounded import lowest_bound_of_best
from finetune_trainer.statistics.confidence import tail_of
from finetune_trainer.statistics.paired import MIN_GRADED_CLUSTERS

MOST = 1_000_000
"""Nobody holds out more: a goal that would need it cannot be decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What is known of scores between 0 and 1 before there are any.

    Attributes:
        may_be_graded: Rows may score alike without being hits or misses. From some clusters on such
            scores are resampled, and nothing bounds how near to the score their bound can be.
        is_mean: The score is the mean of the rows'. What is none has its difference bounded from
            the bounds of each model, which for hits are nearer than those of pairs.
    """

    may_be_graded: bool = False
    is_mean: bool = True


HITS = Scale()


def count_for_best(threshold: float, certainty: float, scale: Scale = HITS) -> int | None:
    """Return the least independent rows whose scores may bring the lower bound to a threshold.

    Of hits and misses that is with every one a hit.

    Args:
        threshold: A score.
        certainty: Of the two-sided interval.
        scale: What the rows may score.

    Returns:
        The number; None when no number does, as for a threshold of 1.
    """
    if threshold >= 1:
        return None
    if threshold <= 0:
        return 1
    number = max(1, math.ceil(math.log(tail_of(certainty)) / math.log(threshold) - 1e-9))
    if scale.may_be_graded:
        return min(number, MIN_GRADED_CLUSTERS)
    return number if number <= MOST else None


def highest_gain_bound(number: int, certainty: float, scale: Scale = HITS) -> float:
    """Return the lower bound of a difference that is 1 on all of these independent rows."""
    return 1 - _spread_of_gain(scale) * (1 - lowest_bound_of_best(number, certainty))


def count_for_gain(threshold: float, certainty: float, scale: Scale = HITS) -> int | None:
    """Return the least independent rows whose gains may bring the bound to a threshold."""
    return count_for_best(1 - (1 - threshold) / _spread_of_gain(scale), certainty, scale)


def _spread_of_gain(scale: Scale) -> float:
    """Return how much wider a difference is than a share: of pairs, or of two models apart."""
    return 2.0 if scale.is_mean else math.sqrt(2)


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
    number of rows, and where the score is at the end of its scale as a share's does.

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
    total = number * (_ratio_at_limit(room, wanted) if at_limit else (room / wanted) ** 2)
    return max(number + 1, math.ceil(total)) if total <= MOST else None


def _ratio_at_limit(room: float, wanted: float) -> float:
    """Return how many times the rows bring a bound this near that is so far from the best score.

    A share that is all hits has its bound at a root of the tail: the logarithm falls as rows rise.
    """
    if room < 1:
        return math.log1p(-room) / math.log1p(-wanted)
    return room / wanted
