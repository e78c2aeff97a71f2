"""How often intervals hold the truth, by simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import confidence_of_mean, confidence_of_share
from finetune_trainer.statistics.confidence import Interval

COUNTS = (20, 50, 300)
RATES = (0.02, 0.5, 0.98)
WITHIN = 0.3
"""Correlation of rows of one cluster."""
SEED = 20261126
NUM_DRAWS = 2000
PATTERNS = ("rows alone", "clusters of 1 to 9 rows", "rows in clusters of 5")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How often an interval held the truth.

    Attributes:
        held: Share of intervals that held it.
        low_wrong: Share whose lower end was above it: what a gate on the lower bound risks.
        high_wrong: Share whose upper end was below it.
        width: Mean width.
    """

    held: float
    low_wrong: float
    high_wrong: float
    width: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of the tables."""

    pattern: str
    count: int
    truth: str
    coverage: Coverage


def shares(num_tests: int) -> Iterator[Case]:
    """Yield the coverage of a share of hits, by pattern of clusters, count and rate."""
    for pattern in PATTERNS:
        for count in COUNTS:
            for rate in RATES:
                if pattern == PATTERNS[0]:
                    coverage = _count_outcomes(count, rate)
                else:
                    coverage = _simulate_shares(pattern, count, rate, num_tests)
                yield Case(pattern=pattern, count=count, truth=f"{rate}", coverage=coverage)


def reachable(count: int, rate: float) -> tuple[float, float]:
    """Return the coverages next to 95 % that an interval over this many rows can have at all.

    An interval is decided by the number of hits, so it holds the rate for a run of numbers of hits
    around the expected one or does not; nothing lies between two such runs.
    """
    from scipy.stats import binom

    chances = binom.pmf(np.arange(count + 1), count, rate)
    sums = {
        round(float(chances[first:last].sum()), 6)
        for first in range(count + 1)
        for last in range(first + 1, count + 2)
        if first <= count * rate <= last - 1
    }
    return max(s for s in sums if s < 0.95), min(s for s in sums if s >= 0.95)


def gains(num_tests: int) -> Iterator[Case]:
    """Yield the coverage of a paired difference of shares of hits."""
    for pattern in PATTERNS:
        for count in COUNTS:
            for base, tuned in ((0.02, 0.02), (0.5, 0.5), (0.5, 0.7), (0.98, 0.98)):
                intervals = _simulate_gains(pattern, count, base, tuned, num_tests)
                yield Case(
                    pattern=pattern,
                    count=count,
                    truth=f"{base} to {tuned}",
                    coverage=summarize(intervals, tuned - base),
                )


def measurements(num_tests: int) -> Iterator[Case]:
    """Yield the coverage of the difference of graded scores, such as ROUGE-L."""
    for pattern in PATTERNS:
        for count in COUNTS:
            rng = np.random.default_rng(SEED + count)
            found = []
            for _ in range(num_tests):
                clusters = draw_clusters(pattern, count, rng)
                level = rng.normal(0.0, 0.1, int(clusters.max()) + 1)[clusters]
                base = rng.beta(1.5, 3.0, len(clusters))  # skewed, a third at most
                gain = np.clip(rng.gamma(1.0, 0.1, len(clusters)) + level, -base, 1 - base)
                found.append((gain, clusters))
            truth = float(np.mean(np.concatenate([gain for gain, _ in found])))
            intervals = [
                confidence_of_mean(gain, clusters, lowest=-1.0, num_draws=NUM_DRAWS).interval()
                for gain, clusters in found
            ]
            yield Case(
                pattern=pattern,
                count=count,
                truth=f"{truth:+.3f}",
                coverage=summarize(intervals, truth),
            )


def draw_clusters(pattern: str, count: int, rng: np.random.Generator) -> Ints:
    """Return the cluster of each row."""
    if pattern == PATTERNS[0]:
        return np.arange(count)
    if pattern == PATTERNS[1]:
        return np.repeat(np.arange(count), rng.integers(1, 10, count))
    return np.arange(count) // 5


def draw_hits(rate: float, clusters: Ints, rng: np.random.Generator) -> Floats:
    """Return hits and misses, those of one cluster correlated."""
    number = int(clusters.max()) + 1
    if number == len(clusters):
        return (rng.random(number) < rate).astype(np.float64)
    strength = (1 - WITHIN) / WITHIN
    chances = rng.beta(rate * strength, (1 - rate) * strength, number)
    return (rng.random(len(clusters)) < chances[clusters]).astype(np.float64)


def draw_pairs(
    base: float, tuned: float, clusters: Ints, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return hits of two models of which half of the rows have the same luck."""
    hits_base, hits_tuned = (draw_hits(rate, clusters, rng) for rate in (base, tuned))
    if base == tuned:
        same = rng.random(len(clusters)) < 0.5
        hits_tuned = np.where(same, hits_base, hits_tuned)
    return hits_base, hits_tuned


def _count_outcomes(count: int, rate: float) -> Coverage:
    from scipy.stats import binom

    intervals = [
        confidence_of_share(hits, count, num_levels=NUM_DRAWS).interval()
        for hits in range(count + 1)
    ]
    return summarize(intervals, rate, binom.pmf(np.arange(count + 1), count, rate))


def _simulate_shares(pattern: str, count: int, rate: float, num_tests: int) -> Coverage:
    rng = np.random.default_rng(SEED + count)
    intervals = []
    for _ in range(num_tests):
        clusters = draw_clusters(pattern, count, rng)
        hits = draw_hits(rate, clusters, rng)
        seed = int(rng.integers(2**31))
        intervals.append(
            confidence_of_mean(hits, clusters, seed=seed, num_draws=NUM_DRAWS).interval()
        )
    return summarize(intervals, rate)


def _simulate_gains(
    pattern: str, count: int, base: float, tuned: float, num_tests: int
) -> list[Interval]:
    rng = np.random.default_rng(SEED + count)
    intervals = []
    for _ in range(num_tests):
        clusters = draw_clusters(pattern, count, rng)
        before, after = draw_pairs(base, tuned, clusters, rng)
        seed = int(rng.integers(2**31))
        gain = confidence_of_mean(
            after - before, clusters, lowest=-1.0, seed=seed, num_draws=NUM_DRAWS
        )
        intervals.append(gain.interval())
    return intervals


def summarize(intervals: list[Interval], truth: float, chances: Floats | None = None) -> Coverage:
    """Return how often intervals held the truth, each as likely as the others or as given."""
    weights = np.full(len(intervals), 1 / len(intervals)) if chances is None else chances
    low = np.array([interval.low for interval in intervals])
    high = np.array([interval.high for interval in intervals])
    low_wrong = float(weights[low > truth + 1e-12].sum())
    high_wrong = float(weights[high < truth - 1e-12].sum())
    return Coverage(
        held=1 - low_wrong - high_wrong,
        low_wrong=low_wrong,
        high_wrong=high_wrong,
        width=float((weights * (high - low)).sum()),
    )
