"""Bounds of scores with limits: the textbook's for hits and misses, and no collapse anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from finetune_trainer.statistics.bounded import (
    confidence_of_mean,
    confidence_of_share,
    lowest_bound_of_best,
)
from finetune_trainer.statistics.paired import compare_means


def alone(count: int) -> np.ndarray:
    return np.arange(count)


@pytest.mark.parametrize(("hits", "number"), [(0, 20), (1, 20), (10, 20), (19, 20), (20, 20)])
@pytest.mark.parametrize("certainty", [0.8, 0.95, 0.99])
def test_a_share_has_the_bounds_of_clopper_and_pearson(
    hits: int, number: int, certainty: float
) -> None:
    scores = np.array([1.0] * hits + [0.0] * (number - hits))
    interval = confidence_of_mean(scores, alone(number)).interval(certainty)
    wanted = binomtest(hits, number).proportion_ci(certainty, method="exact")
    assert interval.value == hits / number
    assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high), abs=1e-4)


def test_drawn_weights_give_the_same_bounds_as_the_formula() -> None:
    scores = np.array([1.0] * 17 + [0.0] * 3)
    pairs = np.repeat(scores, 2)  # each row twice, in one cluster: it counts once
    drawn = confidence_of_mean(pairs, np.repeat(alone(20), 2), num_draws=40_000).interval()
    exact = confidence_of_share(17, 20).interval()
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=6e-3)


def test_each_cluster_counts_once_whatever_its_size() -> None:
    scores = np.array([1.0, 0.0, 0.0, 0.5, 0.5, 0.5])
    uneven = confidence_of_mean(scores, np.array([0, 1, 1, 2, 2, 2]))
    alone_once = confidence_of_mean(np.array([1.0, 0.0, 0.5]), alone(3))
    assert uneven.value == 0.5
    assert uneven.interval() == alone_once.interval()


STEEP = {"worse": (0.95, 0.8, 0.4), "better": (0.8, 0.9, 0.98)}


@pytest.mark.parametrize("sizes", ["lognormal", "Pareto"])
@pytest.mark.parametrize("long", STEEP)
@pytest.mark.parametrize("number", [30, 100])
def test_near_bounds_hold_where_long_conversations_are_worse_or_better(
    sizes: str, long: str, number: int
) -> None:
    rng = np.random.default_rng(8)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        drawn = 1 + rng.pareto(1.3, count)
        if sizes == "lognormal":
            drawn = np.exp(rng.normal(0.8, 1.2, count))
        size = np.clip(drawn, 1, 300).astype(int)
        clusters = np.repeat(np.arange(count), size)
        luck = np.where(
            rng.random(len(clusters)) < 0.7, rng.random(count)[clusters], rng.random(len(clusters))
        )
        short, middle, rest = STEEP[long]
        rate = np.where(size <= 4, short, np.where(size <= 20, middle, rest))[clusters]
        tuned = (luck < rate).astype(float)
        return tuned, (luck < 0.6).astype(float), clusters

    def mean(scores: np.ndarray, clusters: np.ndarray) -> float:
        return float((np.bincount(clusters, weights=scores) / np.bincount(clusters)).mean())

    tuned, base, clusters = draw(100_000)
    truth, gain = mean(tuned, clusters), mean(tuned - base, clusters)
    wrong = np.zeros(2)
    for seed in range(200):
        tuned, base, clusters = draw(number)
        compared = compare_means(base, tuned, clusters, seed=seed, num_draws=400)
        wrong += [compared.tuned.interval().low > truth, compared.gain.interval().low > gain]
    # 2.5 % and two standard deviations of 200 simulations.
    assert (wrong / 200 <= 0.047).all()


def test_rows_of_one_cluster_count_once_together() -> None:
    hits = np.ones(200)
    rows = confidence_of_mean(hits, alone(200)).interval()
    groups = confidence_of_mean(hits, np.repeat(alone(20), 10)).interval()
    assert rows.low == pytest.approx(lowest_bound_of_best(200, 0.95), abs=1e-4)
    assert groups.low == pytest.approx(lowest_bound_of_best(20, 0.95), abs=0.01)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_equal_rows_are_not_certain(level: float) -> None:
    interval = confidence_of_mean(np.full(20, level), alone(20)).interval()
    assert interval.value == pytest.approx(level)
    assert interval.high - interval.low > 0.15
    same = confidence_of_mean(np.zeros(20), alone(20), lowest=-1.0).interval()
    assert same.low == pytest.approx(-0.168, abs=0.01)
    assert same.high == pytest.approx(0.168, abs=0.01)


def test_one_cluster_says_next_to_nothing() -> None:
    interval = confidence_of_mean(np.ones(50), np.zeros(50, dtype=int)).interval()
    assert interval.low < 0.06


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 7)), min_size=1),
    st.integers(0, 1000),
)
def test_bounds_hold_the_score_stay_on_the_scale_and_repeat(
    rows: list[tuple[float, int]], seed: int
) -> None:
    scores = np.array([score for score, _ in rows])
    clusters = np.unique([cluster for _, cluster in rows], return_inverse=True)[1]
    confidence = confidence_of_mean(scores, clusters, seed=seed, num_draws=400)
    again = confidence_of_mean(scores, clusters, seed=seed, num_draws=400)
    interval = confidence.interval()
    assert interval == again.interval()
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    wider = confidence.interval(0.99)
    assert wider.low <= interval.low
    assert wider.high >= interval.high
