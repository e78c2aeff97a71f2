"""Bounds of a score for every certainty at once, and what follows from them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DEFAULT_CERTAINTY = 0.95
SLACK = 1e-9
"""Figures are floats: 0.9 reached as 0.8999999999 is reached."""
LEAST_OVER = 2 * SLACK
"""Least difference that counts as above 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A score with the two ends of its interval."""

    value: float
    low: float
    high: float

    def negated(self) -> Interval:
        """Return the interval of the score times minus one."""
        return Interval(value=-self.value, low=-self.high, high=-self.low)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """A score, and its bounds for every tail.

    Attributes:
        value: The score as measured.
        lower: Its lower bounds, ascending: a share ``t`` of them lies below the bound that is wrong
            with probability ``t`` at most.
        upper: As many upper bounds, from the other end.
    """

    value: float
    lower: Floats
    upper: Floats

    def interval(self, certainty: float = DEFAULT_CERTAINTY) -> Interval:
        """Return the two-sided interval that holds the truth with this certainty."""
        tail = tail_of(certainty)
        low, high = float(_at(self.lower, tail)), float(_at(self.upper, 1 - tail))
        return Interval(value=self.value, low=min(low, self.value), high=max(high, self.value))

    def doubt_above(self, threshold: float) -> float:
        """Return the two-sided p-value of the claim that the truth is at least this.

        It is at most ``1 - certainty`` where the interval's lower end reaches the threshold.
        """
        return _doubt_of(self.lower >= threshold)

    def doubt_below(self, threshold: float) -> float:
        """Return the p-value, two-sided, of the claim that the truth is at most this."""
        return _doubt_of(self.upper <= threshold)

    def doubt_of_none(self) -> float:
        """Return the p-value, two-sided, of the truth being 0; bounds at 0 speak for it."""
        return min(_doubt_of(self.lower > 0), _doubt_of(self.upper < 0))


def _doubt_of(holds: NDArray[np.bool_]) -> float:
    """Return the two-sided p-value of a claim, from whether it holds at each bound.

    NaN fails the claim. No p-value is below the outermost tail. A single bound is certain.
    """
    doubt = 2 * float(np.mean(~holds))
    return min(1.0, max(doubt, 1 / len(holds) if len(holds) > 1 else 0.0))


def difference_of(first: Confidence, second: Confidence) -> Confidence:
    """Return bounds of second minus first from the bounds of each, as if independent.

    Positively correlated scores make them too wide, never too narrow. Source: Newcombe 1998, method
    10 without the correlation term.
    """
    value = second.value - first.value
    levels = levels_of(max(len(first.lower), len(second.lower)))
    low_1, low_2 = (_at(c.lower, levels) for c in (first, second))
    high_1, high_2 = (_at(c.upper, levels) for c in (first, second))
    # A lower bound of the difference takes the upper bound of what is taken away.
    # Tails of more than one half have none.
    below = np.hypot(_above(second.value - low_2), _above(high_1[::-1] - first.value))
    above = np.hypot(_above(high_2 - second.value), _above(first.value - low_1[::-1]))
    return Confidence(value=value, lower=value - below, upper=value + above)


def _above(distances: Floats) -> Floats:
    positive: Floats = np.maximum(distances, 0.0)
    return positive


def _at(bounds: Floats, levels: float | Floats) -> Floats:
    if len(bounds) == 1:  # may be infinite, which cannot be interpolated
        return np.full(np.shape(levels), bounds[0])
    # Quantiles by Hazen's rule; the bounds ascend already, so nothing needs to be sorted.
    return np.asarray(np.interp(levels, levels_of(len(bounds)), bounds))


def levels_of(number: int) -> Floats:
    """Return as many levels between 0 and 1, evenly spread."""
    levels: Floats = (np.arange(number) + 0.5) / number
    return levels


def tail_of(certainty: float) -> float:
    """Return the probability at either end of a two-sided interval."""
    if not 0 < certainty < 1 or math.isnan(certainty):
        raise ValueError(f"a certainty lies between 0 and 1, not at {certainty}")
    return (1 - certainty) / 2
