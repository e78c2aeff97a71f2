"""Live quality from few people and a judge: true, whoever answers and whatever the judge says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from finetune_trainer.monitor.quality.measuring import Measured, measure
from finetune_trainer.monitor.quality.sampling import WEEK, DrawnAnswer, DrawnWeek
from finetune_trainer.statistics import bounded

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + 5 * WEEK
Scorer = Callable[[np.random.Generator, bool], float | None]


def always(_: np.random.Generator, is_good: bool) -> float | None:
    return float(is_good)


def weeks(
    good: float,
    *,
    seed: int = 0,
    number: int = 4,
    people: Scorer = always,
    judge: Scorer | None = None,
) -> list[DrawnWeek]:
    rng = np.random.default_rng(seed)
    found = []
    for index in range(number):
        begin, answers = START + index * WEEK, []
        for each in range(330):
            is_good = bool(rng.random() < good)
            answers.append(
                DrawnAnswer(
                    id=f"{begin + timedelta(seconds=each):%Y%m%d%H%M%S}-{each}",
                    user="u",
                    score=people(rng, is_good) if each < 30 else None,
                    judged=None if judge is None else judge(rng, is_good),
                )
            )
        found.append(
            DrawnWeek(begin=begin, per_week=30, until=begin + WEEK, answers=tuple(answers))
        )
    return found


def measured(*args: float, **settings: object) -> Measured:
    found = measure(weeks(*args, **settings), NOW, 0.95)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_people_alone_say_how_good_answers_are() -> None:
    found = measured(0.9)
    assert (found.num_people, found.num_judged) == (120, 0)
    assert found.low < 0.9 < found.high
    assert found.low < found.value < found.high


def test_a_good_judge_makes_the_interval_narrower() -> None:
    alone = measured(0.9, seed=3)
    found = measured(0.9, seed=3, judge=always)
    assert (found.num_people, found.num_judged) == (120, 1320)
    assert found.high - found.low < 0.7 * (alone.high - alone.low)


def test_a_judge_who_always_says_one_hides_nothing() -> None:
    found = measured(0.6, judge=lambda *_: 1.0)
    assert found.num_judged == 1320
    assert found.high < 0.75
    assert found.value == pytest.approx(measured(0.6).value)


def test_people_who_score_only_the_bad_answers_do_not_make_the_model_worse() -> None:
    found = measured(0.9, people=lambda _, is_good: None if is_good else 0.0)
    assert found.high >= 0.9
    assert found.low == pytest.approx(0.0, abs=0.01)


def test_people_who_score_only_the_good_answers_do_not_make_it_better() -> None:
    found = measured(0.5, people=lambda _, is_good: 1.0 if is_good else None)
    assert found.low <= 0.5


def test_fewer_than_five_scores_say_nothing() -> None:
    def first(number: int) -> Scorer:
        left = iter(range(number))
        return lambda _, is_good: None if next(left, None) is None else float(is_good)

    assert measure(weeks(0.9, people=first(4)), NOW, 0.95) is None
    assert measure(weeks(0.9, people=first(5)), NOW, 0.95) is not None
    assert measure([], NOW, 0.95) is None


def test_a_judge_who_has_not_scored_all_that_people_were_asked_about_is_left_out() -> None:
    rng = np.random.default_rng(5)
    gaps = measured(0.9, judge=lambda _, is_good: float(is_good) if rng.random() < 0.9 else None)
    assert gaps.num_judged == 0


@pytest.mark.parametrize(
    "judge", [None, always, lambda rng, good: float(good or rng.random() < 0.3)]
)
def test_the_interval_holds_the_truth(
    judge: Scorer | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pure, and of 60 scores there are few numbers of hits.
    remembered = functools.cache(bounded.confidence_of_share)
    monkeypatch.setattr(bounded, "confidence_of_share", remembered)
    found = [measured(0.85, seed=seed, number=2, judge=judge) for seed in range(150)]
    held = sum(each.low <= 0.85 <= each.high for each in found)
    below = sum(each.high < 0.85 for each in found)
    assert held >= 0.91 * len(found)
    assert below <= 0.05 * len(found)
