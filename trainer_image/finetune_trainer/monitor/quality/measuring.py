"""Mean score of a version's answers in live traffic, from those that were drawn. Pure.

An answer that people were asked about and did not score counts as good for the upper end of the
interval, and as bad for the lower end. So people who score only the bad ones, or only the good
ones, make the interval wide and not wrong.

Each week weighs as much as the number of its answers that people are asked about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from finetune_trainer.monitor.quality.sampling import DrawnAnswer, DrawnWeek
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.confidence import Confidence, Floats
from finetune_trainer.statistics.prediction_powered import confidence_with_judge

MIN_PEOPLE = 5
"""Answers with people's scores. With fewer, no interval is stated."""
MIN_JUDGED = 2
"""Answers with the judge's score alone for each that people are asked about. With fewer the judge
would make the interval wider."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A mean score with its interval.

    Attributes:
        num_people: Answers that people have scored.
        num_judged: Answers that the judge has scored; 0 where people's scores alone count.
    """

    low: float
    value: float
    high: float
    num_people: int
    num_judged: int


def measure(weeks: Sequence[DrawnWeek], now: datetime, certainty: float) -> Measured | None:
    """Return the mean score that people would give; None with too few scores of people.

    The judge is used where it has scored all answers that people were asked about, and enough
    others in each week. Neither depends on what people say.
    """
    counted = [week for week in weeks if week.counts(now)]
    asked = [each for week in counted for each in week.asked]
    num_people = sum(each.score is not None for each in asked)
    if num_people < MIN_PEOPLE:
        return None
    alone = _judged_alone(counted)
    is_judged = bool(alone) and all(each.judged is not None for each in asked)

    def mean(unscored: float) -> Confidence:
        people = np.array([unscored if each.score is None else each.score for each in asked])
        if is_judged:
            return confidence_with_judge(people, _judged(asked), _judged(alone))
        return confidence_of_mean(people, np.arange(len(people)))

    return Measured(
        low=mean(0.0).interval(certainty).low,
        value=mean(0.5).value,
        high=mean(1.0).interval(certainty).high,
        num_people=num_people,
        num_judged=len(asked) + len(alone) if is_judged else 0,
    )


def _judged_alone(weeks: Sequence[DrawnWeek]) -> list[DrawnAnswer]:
    """Return answers that only the judge has scored, as many for each asked one in every week.

    Otherwise a week would weigh more in the judge's mean than in that of people.
    """
    judged = [[each for each in week.others if each.judged is not None] for week in weeks]
    sizes = [len(week.asked) for week in weeks]
    ratio = min((len(each) / size for each, size in zip(judged, sizes, strict=True)), default=0.0)
    if ratio < MIN_JUDGED:
        return []
    pairs = zip(judged, sizes, strict=True)
    return [each for found, size in pairs for each in found[: math.floor(ratio * size + 1e-9)]]


def _judged(answers: Sequence[DrawnAnswer]) -> Floats:
    return np.array([each.judged for each in answers], dtype=np.float64)
