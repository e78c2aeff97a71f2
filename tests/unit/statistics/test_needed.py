"""How many rows would decide."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune_trainer.statistics.bounded import (
    confidence_of_mean,
    confidence_of_share,
    lowest_bound_of_best,
)
from finetune_trainer.statistics.needed import (
    count_for_best,
    count_of_gains,
    count_to_decide,
    count_wanted,
    widest_half,
)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("certainty", [0.8, 0.95, 0.99])
def test_the_number_for_the_best_score_is_the_least_that_does(
    threshold: float, certainty: float
) -> None:
    number = count_for_best(threshold, certainty)
    assert number is not None
    assert lowest_bound_of_best(number, certainty) >= threshold
    assert number == 1 or lowest_bound_of_best(number - 1, certainty) < threshold


def test_no_number_of_rows_shows_perfection() -> None:
    assert count_for_best(1.0, 0.95) is None
    assert count_for_best(0.9999999, 0.95) is None  # 37 million rows
    assert count_for_best(0.0, 0.95) == 1


def test_scores_that_are_alike_need_as_many_rows_as_hits_do() -> None:
    number = count_for_best(0.9, 0.95)
    assert number is not None
    for rows, is_shown in ((number, True), (number - 1, False), (10, False)):
        alike = confidence_of_mean(1 - np.arange(rows) / 10**6, np.arange(rows))
        assert (alike.interval().low >= 0.9) is is_shown


@pytest.mark.parametrize(
    ("hits", "number", "threshold"), [(45, 50, 0.8), (92, 100, 0.9), (60, 100, 0.55)]
)
def test_the_number_that_would_decide_does_so_if_the_score_stays(
    hits: int, number: int, threshold: float
) -> None:
    interval = confidence_of_share(hits, number).interval()
    wanted = count_to_decide(
        value=interval.value, bound=interval.low, threshold=threshold, number=number
    )
    assert wanted is not None
    assert wanted > number
    share = hits / number
    assert confidence_of_share(share * wanted, wanted).interval().low >= threshold - 0.005
    assert confidence_of_share(share * wanted / 2, wanted / 2).interval().low < threshold


def test_a_perfect_score_needs_rows_in_proportion() -> None:
    bound = lowest_bound_of_best(20, 0.95)
    wanted = count_to_decide(value=1.0, bound=bound, threshold=0.9, number=20, at_limit=True)
    assert wanted == count_for_best(0.9, 0.95)


def test_a_perfect_gain_needs_rows_in_proportion() -> None:
    bound = 2 * lowest_bound_of_best(20, 0.95) - 1
    wanted = count_to_decide(value=1.0, bound=bound, threshold=0.8, number=20, at_limit=True)
    assert wanted == pytest.approx(count_for_best(0.9, 0.95), abs=3)


@pytest.mark.parametrize("certainty", [0.8, 0.9, 0.95, 0.99])
def test_the_least_gains_are_those_of_the_exact_test(certainty: float) -> None:
    least = count_of_gains(certainty)
    doubts = [binomtest(0, gained).pvalue for gained in (least - 1, least)]
    assert doubts[1] <= 1 - certainty + 1e-9 < doubts[0]


@pytest.mark.parametrize("value", [0.7, 0.8])
def test_no_number_of_rows_helps_a_score_below(value: float) -> None:
    assert count_to_decide(value=value, bound=0.6, threshold=0.8, number=50) is None


def test_as_many_prompts_are_wanted_as_the_evaluations_interval_needs() -> None:
    assert count_wanted() == 104
    for number in (30, 92, 104, 500):
        wanted = binomtest(number // 2, number).proportion_ci(method="exact")
        assert widest_half(number) == pytest.approx((wanted.high - wanted.low) / 2, abs=1e-4)
    assert widest_half(104) <= 0.10 < widest_half(103)
    assert widest_half(0) == 0.5
