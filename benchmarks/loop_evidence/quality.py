"""How often the interval of live quality holds the truth, from a judge and few people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.prediction_powered import confidence_with_judge

Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]
NUM_JUDGED = 400
NUM_PEOPLE = (20, 25, 30, 120, 150)
"""Scores of five weeks are 25 or 150 where 5 or 30 a week are asked for."""
NUM_DRAWS = 1000
GOOD = 0.85


@dataclass(frozen=True, kw_only=True, slots=True)
class Covered:
    """Intervals of 95 % for one kind of judge.

    Attributes:
        words: The judge.
        num_people: Rows that people scored.
        held: Share of the intervals that held the truth.
        high_wrong: Share of those whose upper end was below it: what calls a model degraded.
        low_wrong: Share of those whose lower end was above it.
        width: Mean width.
        width_alone: The same from people's scores alone.
    """

    words: str
    num_people: int
    held: float
    high_wrong: float
    low_wrong: float
    width: float
    width_alone: float


def _hits(too_kind: float, too_strict: float) -> Callable[[np.random.Generator, int], Scores]:
    def draw(rng: np.random.Generator, number: int) -> Scores:
        people = rng.random(number) < GOOD
        turned = np.where(people, too_strict / GOOD, too_kind / (1 - GOOD))
        return people.astype(float), (people ^ (rng.random(number) < turned)).astype(float)

    return draw


def _grades(rng: np.random.Generator, number: int) -> Scores:
    people = np.round(4 * rng.beta(4, 1, number)) / 4
    judge = np.clip(people + rng.choice([-0.25, 0.0, 0.25], number, p=[0.1, 0.6, 0.3]), 0, 1)
    return people, judge


JUDGES = {
    "agrees always": _hits(0, 0),
    "passes 1 answer in 100 that is bad": _hits(0.01, 0),
    "passes 1 in 10": _hits(0.1, 0),
    "errs in 3 of 100 either way": _hits(0.03, 0.03),
    "errs in 1 of 10 either way": _hits(0.1, 0.1),
    "passes everything": _hits(1 - GOOD, 0),
    "gives grades from 1 to 5, a little kinder": _grades,
}


def coverages(num_tries: int) -> Iterator[Covered]:
    """Yield how often intervals hold the truth."""
    for words, draw in JUDGES.items():
        for number in NUM_PEOPLE:
            yield _cover(words, draw, number, num_tries)


def _cover(
    words: str, draw: Callable[[np.random.Generator, int], Scores], number: int, num_tries: int
) -> Covered:
    rng = np.random.default_rng(29)
    truth = GOOD if draw is not _grades else float(draw(rng, 10**6)[0].mean())
    ends = np.empty((num_tries, 2))
    alone = []
    for index in range(num_tries):
        people, beside = draw(rng, number)
        _, others = draw(rng, NUM_JUDGED)
        interval = confidence_with_judge(people, beside, others).interval()
        ends[index] = interval.low, interval.high
        if index < 50:
            mean = confidence_of_mean(people, np.arange(number), num_draws=NUM_DRAWS).interval()
            alone.append(mean.high - mean.low)
    low_wrong, high_wrong = (ends[:, 0] > truth).mean(), (ends[:, 1] < truth).mean()
    return Covered(
        words=words,
        num_people=number,
        held=float(1 - low_wrong - high_wrong),
        high_wrong=float(high_wrong),
        low_wrong=float(low_wrong),
        width=float((ends[:, 1] - ends[:, 0]).mean()),
        width_alone=float(np.mean(alone)),
    )
