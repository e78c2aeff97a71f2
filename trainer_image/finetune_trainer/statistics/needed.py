"""How many rows would decide. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from typing import overload

from finetune_trainer.statistics.bounded import confidence_of_share, lowest_bound_of_best
from finetune_trainer.statistics.confidence import Floats, tail_of

MOST = 1_000_000
"""Nobody holds out more: a goal that would need it cannot be decided."""
WANTED_HALF_WIDTH = 0.10
MOST_WANTED = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What is known of scores between 0 and 1 before there are any.

    Attributes:
        is_mean: The score is the mean of the rows'. What is none, as macro F1 and BLEU, is bounded
            label by label or word by word; refused of it is only what no F1 of one label, all of
            whose rows are right, could show.
    """

    is_mean: bool = True


HITS = Scale()


def count_for_best(threshold: float, certainty: float, scale: Scale = HITS) -> int | None:
    """Return the least independent rows whose scores may bring the lower bound to a threshold.

    That is with every one as good as can be.

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
    share = threshold if scale.is_mean else threshold / (2 - threshold)
    number = max(1, math.ceil(math.log(tail_of(certainty)) / math.log(share) - 1e-9))
    return number if number <= MOST else None


def highest_bound(number: int, certainty: float, scale: Scale = HITS) -> float:
    """Return the lower bound of a score that is 1 on all of these independent rows."""
    share = lowest_bound_of_best(number, certainty)
    return share if scale.is_mean else f1_of(share)


def highest_gain_bound(number: int, certainty: float, scale: Scale = HITS) -> float:
    """Return the lower bound of a difference that is 1 on all of these independent rows.

    Of what is no mean it is that of the second model, which the difference cannot exceed.
    """
    best = highest_bound(number, certainty, scale)
    return 2 * best - 1 if scale.is_mean else best


def count_for_gain(threshold: float, certainty: float, scale: Scale = HITS) -> int | None:
    """Return the least independent rows whose gains may bring the bound to a threshold."""
    return count_for_best((1 + threshold) / 2 if scale.is_mean else threshold, certainty, scale)


@overload
def f1_of(share: float) -> float: ...
@overload
def f1_of(share: Floats) -> Floats: ...
def f1_of(share: float | Floats) -> float | Floats:
    """Return the F1 of a label from its hits' share of the rows that have it or are given it."""
    return 2 * share / (1 + share)


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


@cache
def widest_half(num_groups: int) -> float:
    """Return half the width of the widest 95 % interval of a score between 0 and 1.

    Args:
        num_groups: Independent held-out prompts.

    Source: Clopper and Pearson 1934, at a share of one half; the evaluation has the same bounds.
    """
    if num_groups <= 0:
        return 0.5
    interval = confidence_of_share(num_groups / 2, num_groups).interval()
    return (interval.high - interval.low) / 2


@cache
def count_wanted(half_width: float = WANTED_HALF_WIDTH) -> int:
    """Return how many independent held-out prompts make no interval wider than this."""
    return bisect_left(range(MOST_WANTED), -half_width, key=lambda number: -widest_half(number))
