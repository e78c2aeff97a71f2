"""How often near bounds are wrong where groups, such as conversations, have unequal sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.evidence.coverage import NUM_DRAWS, SEED, Floats, Ints

from finetune_trainer.statistics.bounded import MAX_DRAWN
from finetune_trainer.statistics.paired import compare_means

COUNTS = (30, 100, 300)
SIZES = ("lognormal", "Pareto 1.3")
MOST_ROWS = 300
WITHIN = 0.7
"""Share of the rows that have the luck of their group."""
RATES = {
    "long ones worse": (0.95, 0.8, 0.4),
    "long ones better": (0.8, 0.9, 0.98),
    "all alike": (0.9, 0.9, 0.9),
}
"""What the tuned model is right in: groups of at most 4 rows, of at most 20, and of more."""
BASE = 0.6
BELOW = 0.1
"""How far below the truth the goal lies whose power is told."""
NUM_TRUE = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Unequal:
    """One line.

    Attributes:
        words: Sizes, and how the score depends on them.
        count: Groups.
        tuned_wrong: Share of lower ends of the score that are above it.
        gain_wrong: The same of the gain over the base.
        tuned_power: Share of goals :data:`BELOW` below the score that are shown.
        gain_power: The same of the gain.
        by_rows_wrong: Share of lower ends that are above it where each row counts once.
    """

    words: str
    count: int
    tuned_wrong: float
    gain_wrong: float
    tuned_power: float
    gain_power: float
    by_rows_wrong: float


def unequal_groups(num_tests: int) -> Iterator[Unequal]:
    """Yield the errors and the power of near bounds."""
    for sizes in SIZES:
        for words, rates in RATES.items():
            rng = np.random.default_rng(SEED)
            base, tuned, clusters = _draw(NUM_TRUE, sizes, rates, rng)
            truths = [_mean(scores, clusters) for scores in (tuned, tuned - base)]
            by_rows = float(tuned.mean())
            for count in COUNTS:
                rng = np.random.default_rng(SEED + count)
                lows, old = np.empty((num_tests, 2)), np.empty(num_tests)
                for test in range(num_tests):
                    drawn = _draw(count, sizes, rates, rng)
                    found = compare_means(*drawn, seed=test, num_draws=NUM_DRAWS)
                    lows[test] = found.tuned.interval().low, found.gain.interval().low
                    old[test] = _low_by_rows(drawn[1], drawn[2], rng)
                wrong = (lows > np.array(truths) + 1e-9).mean(axis=0)
                power = (lows >= np.array(truths) - BELOW).mean(axis=0)
                yield Unequal(
                    words=f"{sizes} sizes, {words}",
                    count=count,
                    tuned_wrong=float(wrong[0]),
                    gain_wrong=float(wrong[1]),
                    tuned_power=float(power[0]),
                    gain_power=float(power[1]),
                    by_rows_wrong=float((old > by_rows + 1e-9).mean()),
                )


def _draw(
    count: int, sizes: str, rates: tuple[float, ...], rng: np.random.Generator
) -> tuple[Floats, Floats, Ints]:
    """Return hits of base and tuned model, and the group of each row."""
    drawn = 1 + rng.pareto(1.3, count) if sizes != SIZES[0] else np.exp(rng.normal(0.8, 1.2, count))
    size = np.clip(drawn, 1, MOST_ROWS).astype(np.int64)
    clusters = np.repeat(np.arange(count), size)
    own = rng.random(len(clusters))
    luck = np.where(rng.random(len(clusters)) < WITHIN, rng.random(count)[clusters], own)
    rate = np.where(size <= 4, rates[0], np.where(size <= 20, rates[1], rates[2]))
    # Half of the rows have the same luck for both models.
    before = np.where(rng.random(len(clusters)) < 0.5, luck, rng.random(len(clusters)))
    return (before < BASE).astype(np.float64), (luck < rate[clusters]).astype(np.float64), clusters


def _mean(scores: Floats, clusters: Ints) -> float:
    return float((np.bincount(clusters, weights=scores) / np.bincount(clusters)).mean())


def _low_by_rows(scores: Floats, clusters: Ints, rng: np.random.Generator) -> float:
    """Return the lower end as it was: weighted groups, and a worst one of mean size."""
    sums, sizes = np.bincount(clusters, weights=scores), np.bincount(clusters)
    assert NUM_DRAWS * len(sizes) <= MAX_DRAWN
    weights = rng.standard_exponential((NUM_DRAWS, len(sizes)))
    extra = rng.standard_exponential(NUM_DRAWS) * sizes.mean()
    return float(np.quantile((weights @ sums) / (weights @ sizes + extra), 0.025))
