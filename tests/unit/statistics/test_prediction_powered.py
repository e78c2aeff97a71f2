"""Prediction-powered means: the truth is held over few rows, and a bad judge does not mislead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.statistics.prediction_powered import confidence_with_judge

TRUTH = 0.8
NUM_TRIES = 250


def scored(rng: np.random.Generator, number: int, too_kind: float) -> tuple[np.ndarray, np.ndarray]:
    """Return people's scores and those of a judge who passes a share of the bad answers."""
    people = rng.random(number) < TRUTH
    passed = rng.random(number) < too_kind / (1 - TRUTH)
    return people.astype(float), (people | passed).astype(float)


@pytest.mark.parametrize("too_kind", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("number", [20, 120])
def test_the_interval_holds_the_truth_over_few_rows(number: int, too_kind: float) -> None:
    rng = np.random.default_rng(23)
    num_held, num_below = 0, 0
    for _ in range(NUM_TRIES):
        people, beside = scored(rng, number, too_kind)
        _, alone = scored(rng, 400, too_kind)
        interval = confidence_with_judge(people, beside, alone).interval()
        num_held += interval.low <= TRUTH <= interval.high
        num_below += interval.high < TRUTH
    assert num_held >= 0.92 * NUM_TRIES  # 95 %, less two standard deviations
    assert (
        num_below <= 0.04 * NUM_TRIES
    )  # what calls a model degraded wrongly: 2.5 %, and as much more


def test_a_good_judge_makes_the_interval_narrow_and_a_bad_one_does_not_bias_it() -> None:
    rng = np.random.default_rng(3)
    people, good = scored(rng, 200, 0.01)
    _, good_alone = scored(rng, 5000, 0.01)
    narrow = confidence_with_judge(people, good, good_alone).interval()
    without = confidence_with_judge(people, good, good_alone, part=0.0).interval()
    assert narrow.high - narrow.low < (without.high - without.low) / 2
    always = confidence_with_judge(people, np.ones(200), np.ones(5000)).interval()
    assert always.value == pytest.approx(people.mean())
    assert always.low < TRUTH < always.high


def test_without_the_judge_the_mean_is_that_of_people() -> None:
    people = np.array([1.0, 0.0, 0.5, 1.0])
    found = confidence_with_judge(people, np.zeros(4), np.ones(3), part=0.0)
    assert found.value == pytest.approx(people.mean())


def test_no_disagreement_is_no_certainty() -> None:
    same = np.ones(30)
    interval = confidence_with_judge(same, same, np.ones(1000)).interval()
    assert interval.high == 1.0
    assert 0.90 < interval.low < 0.96


def test_rows_of_one_cluster_count_once_together() -> None:
    rng = np.random.default_rng(1)
    people, beside = scored(rng, 40, 0.1)
    _, alone = scored(rng, 300, 0.1)
    rows = confidence_with_judge(people, beside, alone).interval()
    repeated = confidence_with_judge(
        np.repeat(people, 5),
        np.repeat(beside, 5),
        np.repeat(alone, 5),
        clusters_beside=np.repeat(np.arange(40), 5),
        clusters_alone=np.repeat(np.arange(300), 5),
    ).interval()
    assert (repeated.low, repeated.high) == pytest.approx((rows.low, rows.high), abs=1e-9)


def test_one_cluster_of_the_judges_says_little() -> None:
    found = confidence_with_judge(np.full(50, 0.5), np.full(50, 0.5), np.array([0.5]))
    assert found.interval().high - found.interval().low > 0.9


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
    alone=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    part=st.floats(0, 1),
)
def test_bounds_hold_the_estimate_stay_on_the_scale_and_widen(
    rows: list[tuple[float, float]], alone: list[float], part: float
) -> None:
    people, beside = (np.array(scores) for scores in zip(*rows, strict=True))
    found = confidence_with_judge(people, beside, np.array(alone), part=part)
    near, far = found.interval(0.8), found.interval(0.99)
    assert 0 <= far.low <= near.low <= near.value <= near.high <= far.high <= 1


@pytest.mark.parametrize(
    ("people", "beside", "alone", "part", "named"),
    [
        ([], [], [1.0], 1.0, "people has no scores"),
        ([1.0], [1.0], [], 1.0, "judge_alone has no scores"),
        ([1.0], [1.0, 0.0], [1.0], 1.0, "both scores of each row"),
        ([1.0], [1.2], [1.0], 1.0, "judge_beside"),
        ([float("nan")], [1.0], [1.0], 1.0, "people"),
        ([1.0], [1.0], [1.0], 1.5, "part"),
    ],
)
def test_scores_that_cannot_be_joined_are_refused(
    people: list[float], beside: list[float], alone: list[float], part: float, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        confidence_with_judge(np.array(people), np.array(beside), np.array(alone), part=part)
