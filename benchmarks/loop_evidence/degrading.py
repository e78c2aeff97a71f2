"""Endpoints whose answers are scored: intervals, wrong calls of a drop, and weeks until a real one.

Answers of a week are drawn as the monitor draws them, people score each day what they are asked
about, and a look a day measures with the product's own ``measure``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.monitor.quality import measuring
from finetune_trainer.monitor.quality.sampling import (
    JUDGED_PER_ASKED,
    NUM_WEEKS,
    WEEK,
    DrawnAnswer,
    DrawnWeek,
)
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.confidence import Confidence, Floats

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GOAL = 0.9
CERTAINTY = 0.95
PER_WEEK = 30
WEEKS_OF_YEAR = 52
NUM_BEFORE = 10
"""Weeks before a drop."""
NUM_AFTER = 26
"""Weeks after which a drop counts as not found."""
SHOWN = (1, NUM_WEEKS)
MARGINS = (0.0, 0.02, 0.05)
GOOD, BAD = 0.95, 0.85

Judge = Callable[[np.random.Generator, NDArray[np.bool_]], Floats]


def _errs(too_kind: float, too_strict: float) -> Judge:
    """Return a judge by its errors: the share of bad answers passed, and of good ones failed."""

    def score(rng: np.random.Generator, is_good: NDArray[np.bool_]) -> Floats:
        turned = rng.random(len(is_good)) < np.where(is_good, too_strict, too_kind)
        return (is_good ^ turned).astype(np.float64)

    return score


JUDGES: dict[str, Judge | None] = {
    "people alone": None,
    "passes 2 bad answers of 10, fails 2 good ones of 100": _errs(0.2, 0.02),
    "passes half of the bad ones, fails 5 good ones of 100": _errs(0.5, 0.05),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Covered:
    """Intervals at the end of a week.

    Attributes:
        num_weeks: Weeks that count in it.
        held: Share of the intervals that held the truth.
        high_wrong: Share of those whose upper end was below it.
        low_wrong: Share of those whose lower end was above it.
        width: Mean width.
    """

    words: str
    quality: float
    num_weeks: int
    held: float
    high_wrong: float
    low_wrong: float
    width: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Year:
    """Years without change.

    Attributes:
        degraded: Times in a year that ``Degraded`` becomes true, on average.
        days: Days of a year on which it is.
        rang: Share of the years with one.
    """

    words: str
    quality: float
    degraded: float
    days: float
    rang: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """How soon a drop is found.

    Attributes:
        found: Share that is found in half a year.
        median: Weeks until then in half of the cases; infinite if not found.
        late: The same in nine of ten cases.
    """

    words: str
    found: float
    median: float
    late: float


def coverages(number: int) -> Iterator[Covered]:
    """Yield how often intervals of endpoints hold the truth, after one week and after five."""
    for words, judge in JUDGES.items():
        for margin in MARGINS:
            rng = np.random.default_rng(28)
            quality = GOAL + margin
            ends = np.array([_ends_of_weeks(rng, quality, judge) for _ in range(number)])
            for place, num_weeks in enumerate(SHOWN):
                low, high = ends[:, place].T
                low_wrong, high_wrong = (low > quality).mean(), (high < quality).mean()
                yield Covered(
                    words=words,
                    quality=quality,
                    num_weeks=num_weeks,
                    held=float(1 - low_wrong - high_wrong),
                    high_wrong=float(high_wrong),
                    low_wrong=float(low_wrong),
                    width=float((high - low).mean()),
                )


def years(number: int) -> Iterator[Year]:
    """Yield how often an endpoint without change is called degraded, at the goal and above it."""
    for words, judge in JUDGES.items():
        for margin in MARGINS:
            rng = np.random.default_rng(29)
            qualities = [GOAL + margin] * WEEKS_OF_YEAR
            highs = np.array(
                [[high for _, high in _live(rng, qualities, judge)] for _ in range(number)]
            )
            is_below = highs < GOAL
            begins = is_below & ~np.pad(is_below, ((0, 0), (1, 0)))[:, :-1]
            yield Year(
                words=words,
                quality=GOAL + margin,
                degraded=float(begins.sum(axis=1).mean()),
                days=float(is_below.sum(axis=1).mean()),
                rang=float(is_below.any(axis=1).mean()),
            )


def drops(number: int) -> Iterator[Drop]:
    """Yield after how many weeks a drop from good to bad is found."""
    for words, judge in JUDGES.items():
        rng = np.random.default_rng(30)
        waited = np.full(number, np.inf)
        for each in range(number):
            qualities = [GOOD] * NUM_BEFORE + [BAD] * NUM_AFTER
            highs = np.array([high for _, high in _live(rng, qualities, judge)])
            is_below = highs < GOAL
            is_below[: 7 * NUM_BEFORE] = False
            if is_below.any():
                waited[each] = (int(is_below.argmax()) + 1 - 7 * NUM_BEFORE) / 7
        waited.sort()
        yield Drop(
            words=words,
            found=float(np.isfinite(waited).mean()),
            median=float(waited[number // 2]),
            late=float(waited[int(0.9 * number)]),
        )


def _ends_of_weeks(
    rng: np.random.Generator, quality: float, judge: Judge | None
) -> list[tuple[float, float]]:
    weeks = [_week(rng, number, quality, judge) for number in range(NUM_WEEKS)]
    with mock.patch.object(measuring, "confidence_of_mean", _remembered):
        return [_measure(weeks[:number]) for number in SHOWN]


def _measure(weeks: Sequence[DrawnWeek]) -> tuple[float, float]:
    """Return the interval; from 0 to 1 where there is none."""
    told = measuring.measure(weeks, weeks[-1].until, CERTAINTY)
    return (told.low, told.high) if told else (0.0, 1.0)


def _live(
    rng: np.random.Generator, qualities: Sequence[float], judge: Judge | None
) -> list[tuple[float, float]]:
    """Return the interval after each day of some weeks."""
    found, past = [], list[DrawnWeek]()
    with mock.patch.object(measuring, "confidence_of_mean", _remembered):
        for number, quality in enumerate(qualities):
            week = _week(rng, number, quality, judge)
            days = rng.integers(0, 7, len(week.answers))
            for day in range(7):
                now = week.begin + (day + 1) * DAY
                known = tuple(
                    answer for answer, at in zip(week.answers, days, strict=True) if at <= day
                )
                running = replace(week, until=now, answers=known)
                found.append(_measure([*past, running]))
            past = [*past, week][1 - NUM_WEEKS :]
    return found


def _week(rng: np.random.Generator, number: int, quality: float, judge: Judge | None) -> DrawnWeek:
    begin = START + number * WEEK
    is_good = rng.random((1 + JUDGED_PER_ASKED) * PER_WEEK) < quality
    judged = None if judge is None else judge(rng, is_good).tolist()
    answers = tuple(
        DrawnAnswer(id="", user="", score=float(good), judged=judged and judged[place])
        for place, good in enumerate(is_good.tolist())
    )
    return DrawnWeek(begin=begin, per_week=PER_WEEK, until=begin + WEEK, answers=answers)


def _remembered(scores: Floats, clusters: NDArray[np.int64]) -> Confidence:
    """Return bounds of a share as the product does; there are few different ones."""
    return _bounds(int(scores.sum()), len(clusters))


@cache
def _bounds(num_hits: int, number: int) -> Confidence:
    scores = np.repeat([1.0, 0.0], [num_hits, number - num_hits])
    return confidence_of_mean(scores, np.arange(number))
