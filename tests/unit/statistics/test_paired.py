"""Pairs of scores: an interval that agrees with McNemar's test, and no pair taken for two rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.paired import compare_means


def hits(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    base = [1.0] * both + [0.0] * gained + [1.0] * lost + [0.0] * neither
    tuned = [1.0] * both + [1.0] * gained + [0.0] * lost + [0.0] * neither
    return np.array(base), np.array(tuned)


@pytest.mark.slow
def test_the_difference_is_above_zero_where_the_exact_test_rejects() -> None:
    disagreements = 0
    for gained, lost in itertools.product((0, 4, 5, 6, 7, 9, 11), range(0, 4)):
        base, tuned = hits(10, gained, lost, 7)
        compared = compare_means(base, tuned, np.arange(len(base)))
        doubt = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        is_better = compared.gain.interval().low > 0
        near = abs(doubt - 0.05) < 0.006  # weights are drawn: the last digit is not sure
        disagreements += not near and is_better != (doubt <= 0.05 and gained > lost)
    assert disagreements == 0


def test_pairs_that_agree_say_more_than_two_samples_would() -> None:
    base, tuned = hits(50, 12, 0, 38)
    compared = compare_means(base, tuned, np.arange(100))
    gain = compared.gain.interval()
    assert gain.value == pytest.approx(0.12)
    assert gain.low > 0.04
    assert gain.high < 0.23
    assert compared.base.interval().low < 0.41  # the base has an interval of its own


def test_a_model_equal_to_its_base_is_not_better_and_not_certain() -> None:
    base, _ = hits(20, 0, 0, 10)
    gain = compare_means(base, base, np.arange(30)).gain.interval()
    assert gain.value == 0
    assert gain.low < -0.09
    assert gain.high > 0.09


def test_rows_of_one_cluster_count_once() -> None:
    base, tuned = hits(0, 20, 0, 0)
    assert compare_means(base, tuned, np.arange(20)).gain.interval().low > 0
    few = compare_means(base, tuned, np.arange(20) // 10).gain.interval()
    assert few.low < 0  # 20 rows of 2 customers


def test_rare_losses_that_were_not_drawn_are_counted() -> None:
    rng = np.random.default_rng(0)
    truth, wrong = -0.06 * 0.6, 0  # 6 % of the rows lose 0.3 to 0.9, the others hardly change
    for _ in range(200):
        gains = rng.normal(0.0, 0.02, 30)
        is_lost = rng.random(30) < 0.06
        gains[is_lost] = -rng.uniform(0.3, 0.9, int(is_lost.sum()))
        bounds = confidence_of_mean(gains, np.arange(30), lowest=-1.0, num_draws=500)
        wrong += bounds.interval().low > truth
    assert wrong <= 10  # 2.5 % are 5; a bootstrap is wrong in 30


def test_graded_scores_that_vary_little_leave_the_doubt_of_the_row_not_seen() -> None:
    rng = np.random.default_rng(0)
    graded = rng.random(600)
    better = np.minimum(1.0, graded + rng.normal(0.05, 0.05, 600))
    gain = compare_means(graded, better, np.arange(600)).gain.interval()
    assert 0.035 < gain.low < gain.value < gain.high < 0.065
    few = compare_means(graded[:60], better[:60], np.arange(60)).gain.interval()
    assert few.low < 0 < few.value < 0.09 < few.high
