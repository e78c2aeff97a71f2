"""Two models on the same rows: bounds of each one's mean score, and of the difference. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import NUM_DRAWS, confidence_of_mean
from finetune_trainer.statistics.confidence import Confidence, Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Base and tuned model by one score.

    Attributes:
        base: The base model's score.
        tuned: The tuned model's.
        gain: Tuned minus base, row by row.
    """

    base: Confidence
    tuned: Confidence
    gain: Confidence


def compare_means(
    base: Floats,
    tuned: Floats,
    clusters: NDArray[np.int64],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Compared:
    """Compare two models by the mean of a score from 0 to 1, row by row.

    ``clusters`` are counted from 0 without gaps.
    """

    def spread(scores: Floats, lowest: float) -> Confidence:
        return confidence_of_mean(scores, clusters, lowest=lowest, seed=seed, num_draws=num_draws)

    return Compared(
        base=spread(base, 0.0),
        tuned=spread(tuned, 0.0),
        gain=spread(tuned - base, -1.0),
    )
