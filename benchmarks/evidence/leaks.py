"""How often a candidate at its goal is published in ten cycles if sealed prompts come back.

The product's own verdict decides by the number of hits. A prompt that comes back near a sealed one
and is trained on is answered right nearly always.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.evidence.coverage import SEED
from benchmarks.evidence.looks import TRUTH, make_job

from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.verdict.certainty import raise_certainty, withhold_unshown
from finetune_trainer.verdict.goal import Measurement, certainty_of, check_goal

NUM_CYCLES = 10
NUM_SEALED, NUM_NEW = 200, 40
"""Rows that the first cycle seals, and held-out rows that each further one adds."""
RETURNING = 0.05
"""Share of the sealed prompts that users ask again in a cycle."""
KNOWN = 0.98
"""What a candidate is right in of prompts that it was trained on."""
LEAKS = (0.0, 0.2, 0.73, 1.0)
CYCLES = (1, 2, 5, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """One line.

    Attributes:
        share: Of the prompts that come back, what is trained on.
        num_cycles: Cycles.
        published: Share of schedules of which at least one candidate is published.
        optimism: How much too high the last one reads on the sealed rows.
    """

    share: float
    num_cycles: int
    published: float
    optimism: float


def published_by_leaks(num_schedules: int) -> Iterator[Leak]:
    """Yield how often a candidate is published whose truth is just the goal."""
    least = [_least_hits(NUM_SEALED + NUM_NEW * cycle, cycle + 1) for cycle in range(NUM_CYCLES)]
    for share in LEAKS:
        rng = np.random.default_rng(SEED)
        known = np.zeros((num_schedules, NUM_SEALED), dtype=bool)
        published = np.zeros(num_schedules, dtype=bool)
        for cycle in range(NUM_CYCLES):
            if cycle:
                known |= rng.random(known.shape) < RETURNING * share
            rate = np.where(known, KNOWN, TRUTH)
            hits = (rng.random(known.shape) < rate).sum(axis=1)
            new = rng.binomial(NUM_NEW * cycle, TRUTH, num_schedules)
            published |= hits + new >= least[cycle]
            if cycle + 1 in CYCLES:
                yield Leak(
                    share=share,
                    num_cycles=cycle + 1,
                    published=float(published.mean()),
                    optimism=float(rate.mean()) - TRUTH,
                )


def _least_hits(number: int, look: int) -> int:
    """Return the fewest hits with which a look meets the goal; one more than all if none does."""
    job = make_job()
    job = job.model_copy(update={"spec": raise_certainty(job.spec, look)})
    low, high = int(TRUTH * number), number + 1
    while low < high:
        middle = (low + high) // 2
        tuned = confidence_of_share(middle, number).interval(certainty_of(job.spec.goal))
        found = Measurement(base=tuned, tuned=tuned, gain=tuned, num_prompts=number)
        if withhold_unshown(job, *check_goal(job.spec.goal, found))[0]:
            high = middle
        else:
            low = middle + 1
    return low
