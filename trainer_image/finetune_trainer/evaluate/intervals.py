"""Intervals around scores: bootstrap over groups of rows, widened where it would collapse. Pure.

Rows of one group (one customer, one conversation) are not independent, so groups are drawn, not
rows. A bootstrap of shares knows no score that was not drawn: 20 right out of 20 would be certain.
Shares are therefore at least as uncertain as Wilson's interval over the number of groups, and their
difference as Newcombe's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

Resampled = Callable[[NDArray[np.int64]], float]
"""A score as a function of the rows it is taken over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap(
    metrics: Sequence[Resampled],
    groups: Sequence[NDArray[np.int64]],
    *,
    num_samples: int,
    seed: int,
) -> tuple[list[Interval], Interval | None]:
    """Resample groups of rows with replacement, the same groups for every metric.

    Args:
        metrics: Score functions over the same rows, for example of base and tuned model.
        groups: Row indices of each group; together all rows.
        num_samples: Resamples.
        seed: Seed of the resampling.

    Returns:
        One interval per metric, and the paired interval of last minus first when there are two.

    Source: Efron and Tibshirani 1993, percentile intervals; Field and Welsh 2007, clusters.
    """
    everything = np.sort(np.concatenate(groups))
    rng = np.random.default_rng(seed)
    draws = np.empty((num_samples, len(metrics)))
    for sample in range(num_samples):
        drawn = rng.integers(0, len(groups), len(groups))
        rows = np.concatenate([groups[i] for i in drawn])
        draws[sample] = [metric(rows) for metric in metrics]
    values = [metric(everything) for metric in metrics]
    intervals = [_percentiles(value, draws[:, i]) for i, value in enumerate(values)]
    if len(metrics) != 2:
        return intervals, None
    return intervals, _percentiles(values[1] - values[0], draws[:, 1] - draws[:, 0])


def widen_shares(
    base: Interval, tuned: Interval, gain: Interval, *, num_groups: int
) -> tuple[Interval, Interval, Interval]:
    """Make intervals of scores between 0 and 1 at least as wide as their count allows.

    A mean of values between 0 and 1 varies no more than a share of hits does, so this holds for
    any such score; for shares it is what the count of independent groups supports.

    Args:
        base: The base model's score.
        tuned: The tuned model's.
        gain: Tuned minus base.
        num_groups: Independent groups behind the scores.

    Returns:
        The three intervals, none narrower than before.

    Source: Wilson 1927; Newcombe 1998, method 10 without the correlation term, which only widens
        it where the two models are right on the same rows.
    """
    low_b, high_b = wilson(base.value, num_groups)
    low_t, high_t = wilson(tuned.value, num_groups)
    difference = gain.value
    below = math.hypot(tuned.value - low_t, high_b - base.value)
    above = math.hypot(high_t - tuned.value, base.value - low_b)
    return (
        _widen(base, low_b, high_b),
        _widen(tuned, low_t, high_t),
        _widen(gain, max(-1.0, difference - below), min(1.0, difference + above)),
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share out of ``count`` independent trials.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    squared = Z_95 * Z_95
    center = (share + squared / (2 * count)) / (1 + squared / count)
    spread = share * (1 - share) / count + squared / (4 * count * count)
    half = Z_95 * math.sqrt(max(0.0, spread)) / (1 + squared / count)
    return max(0.0, center - half), min(1.0, center + half)


def _widen(interval: Interval, low: float, high: float) -> Interval:
    return Interval(value=interval.value, low=min(interval.low, low), high=max(interval.high, high))


def _percentiles(value: float, draws: NDArray[np.float64]) -> Interval:
    return Interval(
        value=value, low=float(np.percentile(draws, 2.5)), high=float(np.percentile(draws, 97.5))
    )
