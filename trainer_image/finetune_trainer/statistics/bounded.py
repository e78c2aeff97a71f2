"""Exact bounds of means of scores with limits: shares of hits, their differences. Pure.

Rows get random weights, and one worst-case row is added: a miss for a lower bound, a hit for an
upper one. For hits and misses these are Clopper and Pearson's bounds; that of a paired difference
is above 0 where McNemar's exact test rejects. Rows of one cluster are dependent: their mean counts
as one row, whatever their number, for no bound holds where sizes of clusters are drawn too and
large ones may be worse. Sources: Clopper and Pearson 1934; Gaffke 2005;
Learned-Miller and Thomas 2020; Rubin 1981, the Bayesian bootstrap.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.confidence import Confidence, Floats, levels_of, tail_of

NUM_DRAWS = 10_000
MAX_DRAWN = 4_000_000
"""Random numbers held at once."""


def confidence_of_share(
    num_hits: float, number: float, *, num_levels: int = NUM_DRAWS
) -> Confidence:
    """Return exact bounds of a share of independent rows; hits need not be whole.

    Source: Clopper and Pearson 1934.
    """
    from scipy.special import betaincinv

    levels = levels_of(num_levels)
    missed = number - num_hits
    lower = betaincinv(num_hits, missed + 1, levels) if num_hits > 0 else np.zeros(num_levels)
    upper = betaincinv(num_hits + 1, missed, levels) if missed > 0 else np.ones(num_levels)
    return Confidence(value=num_hits / number, lower=lower, upper=upper)


def confidence_of_mean(
    scores: Floats,
    clusters: NDArray[np.int64],
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Confidence:
    """Return bounds of a mean over clusters, each of which counts once, from the limits of scores.

    Args:
        scores: One score per row, between the limits.
        clusters: Cluster of each row, counted from 0 without gaps.
        lowest: Least possible score.
        highest: Greatest possible score.
        seed: Of the weights.
        num_draws: Random weights to draw.
    """
    sums = np.bincount(clusters, weights=scores)
    means: Floats = (sums / np.bincount(clusters)).astype(np.float64)
    is_share = np.isin(means, (lowest, highest)).all()
    if is_share and highest > lowest:
        share = confidence_of_share(
            float((means == highest).sum()), len(means), num_levels=num_draws
        )
        span = highest - lowest
        return Confidence(
            value=lowest + span * share.value,
            lower=lowest + span * share.lower,
            upper=lowest + span * share.upper,
        )
    return _weigh(means, lowest=lowest, highest=highest, seed=seed, num_draws=num_draws)


def lowest_bound_of_best(number: int, certainty: float) -> float:
    """Return the lower bound of a share when all of these independent rows are hits."""
    return float(tail_of(certainty) ** (1 / number)) if number > 0 else 0.0


@cache
def bounds_of_best(number: int) -> Floats:
    """Return the lower bounds of a share, for every tail, when all of these rows are hits."""
    return confidence_of_share(number, number).lower if number else np.zeros(NUM_DRAWS)


def _weigh(
    scores: Floats, *, lowest: float, highest: float, seed: int, num_draws: int
) -> Confidence:
    # Rows that are alike share one weight, the sum of theirs.
    alike, counts = np.unique(scores, return_counts=True)
    rng = np.random.default_rng(seed)
    lower, upper = np.empty(num_draws), np.empty(num_draws)
    step = max(1, MAX_DRAWN // len(counts))
    for start in range(0, num_draws, step):
        part = slice(start, min(num_draws, start + step))
        drawn = part.stop - part.start
        size = (drawn, len(counts))
        # Of shape 1 they are the same numbers, in a third of the time.
        weights = (
            rng.standard_exponential(size)
            if (counts == 1).all()
            else rng.standard_gamma(counts, size=size)
        )
        extra = rng.standard_exponential(drawn)
        totals = weights @ alike
        rows = weights.sum(axis=1) + extra
        lower[part] = (totals + extra * lowest) / rows
        upper[part] = (totals + extra * highest) / rows
    value = float(scores.sum() / len(scores))
    return Confidence(value=value, lower=np.sort(lower), upper=np.sort(upper))
