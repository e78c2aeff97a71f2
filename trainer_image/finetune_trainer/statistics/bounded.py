"""Exact bounds of means of scores with limits: shares of hits, their differences. Pure.

Rows get random weights, and one worst-case row is added: a miss for a lower bound, a hit for an
upper one. For hits and misses these are Clopper and Pearson's bounds; that of a paired difference
is above 0 where McNemar's exact test rejects. Sources: Clopper and Pearson 1934; Gaffke 2005;
Learned-Miller and Thomas 2020; Rubin 1981, the Bayesian bootstrap.
"""

from __future__ import annotations

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
    """Return bounds of a mean over rows, from the limits of its scores.

    Args:
        scores: One score per row, between the limits.
        clusters: Cluster of each row, counted from 0 without gaps.
        lowest: Least possible score.
        highest: Greatest possible score.
        seed: Of the weights.
        num_draws: Random weights to draw.
    """
    sizes = np.bincount(clusters).astype(np.float64)
    sums: Floats = np.bincount(clusters, weights=scores).astype(np.float64)
    is_share = len(sizes) == len(scores) and np.isin(scores, (lowest, highest)).all()
    if is_share and highest > lowest:
        share = confidence_of_share(
            float((scores == highest).sum()), len(scores), num_levels=num_draws
        )
        span = highest - lowest
        return Confidence(
            value=lowest + span * share.value,
            lower=lowest + span * share.lower,
            upper=lowest + span * share.upper,
        )
    return _weigh(sums, sizes, lowest=lowest, highest=highest, seed=seed, num_draws=num_draws)


def lowest_bound_of_best(number: int, certainty: float) -> float:
    """Return the lower bound of a share when all of these independent rows are hits."""
    return float(tail_of(certainty) ** (1 / number)) if number > 0 else 0.0


def _weigh(
    sums: Floats, sizes: Floats, *, lowest: float, highest: float, seed: int, num_draws: int
) -> Confidence:
    # Clusters that are alike share one weight, the sum of theirs.
    alike, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    extra_size = float(sizes.mean())
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
        extra = rng.standard_exponential(drawn) * extra_size
        totals = weights @ alike[0]
        rows = weights @ alike[1] + extra
        lower[part] = (totals + extra * lowest) / rows
        upper[part] = (totals + extra * highest) / rows
    value = float(sums.sum() / sizes.sum())
    return Confidence(value=value, lower=np.sort(lower), upper=np.sort(upper))
