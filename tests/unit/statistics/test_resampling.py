"""Resampled bounds of scores that are no plain means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune_trainer.statistics.confidence import Interval
from finetune_trainer.statistics.resampling import resample_scores


def singles(count: int) -> list[np.ndarray]:
    return [np.array([i]) for i in range(count)]


def mean_of(values: np.ndarray, *, num_samples: int) -> Interval:
    """Return the resampled mean of independent rows."""
    mean = [lambda rows: float(values[rows].mean())]
    found = resample_scores(mean, singles(len(values)), num_samples=num_samples, seed=1)
    return found[0].interval()


def test_bounds_are_those_of_scipy_but_for_the_width_at_few_rows() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    mine = mean_of(values, num_samples=9999)
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(2)
    ).confidence_interval
    wider = stats.t.ppf(0.975, 59) * np.sqrt(60 / 59) / stats.norm.ppf(0.975)
    assert mine.low == pytest.approx(values.mean() - wider * (values.mean() - theirs.low), abs=0.02)
    assert mine.high == pytest.approx(
        values.mean() + wider * (theirs.high - values.mean()), abs=0.03
    )
    assert mine.high - mine.value > mine.value - mine.low  # the skew shows


def test_two_metrics_are_compared_on_the_same_draws() -> None:
    values = np.random.default_rng(5).normal(size=50)
    first, second, gain = resample_scores(
        [lambda rows: float(values[rows].mean()), lambda rows: float(values[rows].mean()) + 0.5],
        singles(50),
        num_samples=300,
        seed=1,
    )
    assert gain.value == pytest.approx(0.5)
    assert gain.interval().low == pytest.approx(0.5)
    assert first.interval().low < first.value < second.value


@pytest.mark.parametrize("number", [2, 5, 9])
def test_few_clusters_have_students_bounds(number: int) -> None:
    values = np.random.default_rng(6).normal(size=number)
    interval = mean_of(values, num_samples=2000)
    low, high = stats.t.interval(0.95, number - 1, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=0.05, abs=0.02)


def test_one_cluster_says_nothing() -> None:
    interval = mean_of(np.ones(1), num_samples=100)
    assert (interval.low, interval.high) == (-np.inf, np.inf)
