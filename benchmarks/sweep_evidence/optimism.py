"""Whether the score that a sweep reports of its winner is what the winner is worth.

All trials are equal: each row is as hard for one as for the next, and what differs is luck. So what
the winner is reported above the common truth is optimism of the selection, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_operator.finetunesweep.search.ranking import winner
from finetune_operator.finetunesweep.search.trials import Trial, TrialState

SEED = 20261126
NUM_TRIALS = 8
NUM_ROWS = 200
NUM_REPLICATES = 2
HARDNESS = (4.0, 1.0)
"""Parameters of the beta distribution of a row's chance of a right answer: 0.8 on average."""
TRUTH = HARDNESS[0] / sum(HARDNESS)

Hits = NDArray[np.float64]
WAYS = (
    "chosen on validation, test once",
    "best three on validation, the best of them on test",
    "chosen on test",
    "chosen on validation, validation reported",
    "chosen on validation, mean with two replicates",
    "chosen on validation, mean of the two replicates alone",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimism:
    """How far a reported share of right answers is above the truth.

    Attributes:
        way: How the winner was chosen, and what was reported of it.
        mean: Mean over sweeps of the reported score minus the truth.
        half_width: Half of its 95 % interval.
    """

    way: str
    mean: float
    half_width: float

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds 0."""
        return abs(self.mean) <= self.half_width


def optimism(num_sweeps: int) -> Iterator[Optimism]:
    """Yield the optimism of each way over simulated sweeps."""
    rng = np.random.default_rng(SEED)
    found = np.array([_reported_scores(rng) for _ in range(num_sweeps)]) - TRUTH
    for way, own in zip(WAYS, found.T, strict=True):
        half_width = 1.96 * own.std(ddof=1) / math.sqrt(num_sweeps)
        yield Optimism(way=way, mean=float(own.mean()), half_width=float(half_width))


def _reported_scores(rng: np.random.Generator) -> tuple[float, ...]:
    """Return what each of the ways reports of one sweep."""
    validation, test = (_draw_scores(rng, NUM_TRIALS + NUM_REPLICATES) for _ in range(2))
    chosen = _choose(validation[:NUM_TRIALS])
    best_three = np.argsort(-validation[:NUM_TRIALS], kind="stable")[:3]
    replicates = validation[NUM_TRIALS:]
    return (
        float(test[chosen]),
        float(test[best_three].max()),
        float(test[_choose(test[:NUM_TRIALS])]),
        float(validation[chosen]),
        float((validation[chosen] + replicates.sum()) / (1 + NUM_REPLICATES)),
        float(replicates.mean()),
    )


def _draw_scores(rng: np.random.Generator, num_models: int) -> Hits:
    """Return the share of rows that each model has right, of rows they all share."""
    chances = rng.beta(*HARDNESS, NUM_ROWS)
    hits: Hits = (rng.random((num_models, NUM_ROWS)) < chances).mean(axis=1)
    return hits


def _choose(scores: Hits) -> int:
    trials = [
        Trial(number=number, assignment={}, state=TrialState.COMPLETE, score=-float(score))
        for number, score in enumerate(scores)
    ]
    standing = winner(trials)
    assert standing is not None
    return standing.number
