"""Pairs of scores: an interval that agrees with McNemar's test, and no pair taken for two rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from finetune_trainer.statistics.paired import compare_means, is_graded


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
        assert compared.doubt is not None
        is_better = compared.gain.interval().low > 0
        near = abs(compared.doubt - 0.05) < 0.006  # weights are drawn: the last digit is not sure
        disagreements += not near and is_better != (compared.doubt <= 0.05 and gained > lost)
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


def test_clusters_have_no_test_for_independent_rows() -> None:
    base, tuned = hits(0, 20, 0, 0)
    assert compare_means(base, tuned, np.arange(20) // 2).doubt is None
    few = compare_means(base, tuned, np.arange(20) // 10).gain.interval()
    assert few.low < 0  # 20 rows of 2 customers


def test_measurements_are_resampled_and_counts_are_not() -> None:
    rng = np.random.default_rng(0)
    graded = rng.random(60)
    assert is_graded(graded, np.arange(60))
    assert not is_graded(graded, np.arange(60) // 12)  # 5 clusters
    assert not is_graded((graded > 0.5).astype(float), np.arange(60))
    assert not is_graded(np.where(graded > 0.3, 1.0, graded), np.arange(60))  # mostly right
    better = np.minimum(1.0, graded + rng.normal(0.05, 0.05, 60))
    gain = compare_means(graded, better, np.arange(60)).gain.interval()
    assert 0.02 < gain.low < gain.value < gain.high < 0.08
