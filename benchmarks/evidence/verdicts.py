"""How often a tuned model that equals its base is called better."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from benchmarks.evidence.coverage import (
    NUM_DRAWS,
    PATTERNS,
    SEED,
    Floats,
    Ints,
    draw_clusters,
    draw_pairs,
)

from finetune_trainer.statistics.bounded import confidence_of_mean

LEVEL = 0.05
COUNTS = (30, 100, 300)
Drawn = Callable[[Ints, np.random.Generator], tuple[Floats, Floats]]


def false_verdicts(num_jobs: int) -> Iterator[tuple[str, str, int, float]]:
    """Yield score, pattern of clusters, count, and the share of jobs called better."""
    for score, draw in _SCORES.items():
        for pattern in PATTERNS:
            for count in COUNTS:
                rng = np.random.default_rng(SEED + count)
                better = 0
                for job in range(num_jobs):
                    clusters = draw_clusters(pattern, count, rng)
                    base, tuned = draw(clusters, rng)
                    gain = confidence_of_mean(
                        tuned - base,
                        clusters,
                        lowest=-1.0,
                        seed=job,
                        num_draws=NUM_DRAWS,
                    )
                    better += gain.interval(1 - LEVEL).low > 0
                yield score, pattern, count, better / num_jobs


def _graded(clusters: Ints, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return scores such as ROUGE-L, of models whose answers differ."""
    level = rng.beta(2.0, 2.0, int(clusters.max()) + 1)[clusters]
    first, second = (
        np.clip(level + rng.normal(0.0, 0.15, len(clusters)), 0.0, 1.0) for _ in range(2)
    )
    return first, second


_SCORES: dict[str, Drawn] = {
    "hits at 0.5": lambda clusters, rng: draw_pairs(0.5, 0.5, clusters, rng),
    "hits at 0.9": lambda clusters, rng: draw_pairs(0.9, 0.9, clusters, rng),
    "graded": _graded,
}
