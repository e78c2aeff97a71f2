"""The numbers of rows at which a model that is better than asked is likely to be found so."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.claims import correct_for_many
from finetune_trainer.statistics.needed import count_for_best
from finetune_trainer.statistics.power import (
    better_than,
    chance_of_gain,
    chance_of_share,
    count_for,
    tail_of_many,
    widest_gain,
)

TAIL = 0.025


def exact_chance(number: int, threshold: float, truth: float, tail: float) -> float:
    """Sum the binomial probabilities of all numbers of hits that the verdict's bound accepts."""
    from scipy.stats import beta, binom

    hits = np.arange(1, number + 1)
    accepted = hits[beta.ppf(tail, hits, number - hits + 1) >= threshold]
    return float(binom.pmf(accepted, number, truth).sum())


def count_for_share(threshold: float, truth: float, tail: float) -> int:
    return count_for(lambda number: chance_of_share(number, threshold, truth, tail))


def gained_and_lost(before: float, after: float) -> tuple[float, float]:
    """Return the shares of rows that one of two models is right on, which are so by chance."""
    return after * (1 - before), before * (1 - after)


def count_for_gain(threshold: float, before: float, after: float, tail: float) -> int:
    gained, lost = gained_and_lost(before, after)
    return count_for(lambda number: chance_of_gain(number, threshold, gained, lost, tail))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("tail", [TAIL, 0.0125, 0.005, 0.0005, 0.0001])
def test_a_share_takes_as_many_rows_as_make_the_verdict_likely(
    threshold: float, tail: float
) -> None:
    truth = better_than(threshold)
    found = count_for_share(threshold, truth, tail)
    # The chance is simulated, and one hit more or less changes it.
    assert 0.89 <= exact_chance(found, threshold, truth, tail) <= 0.93


@pytest.mark.parametrize("tail", [TAIL, 0.005, 0.0001])
def test_no_fewer_rows_are_enough_than_right_answers_alone_take(tail: float) -> None:
    least = count_for_best(0.9, 1 - 2 * tail)
    assert least is not None
    assert count_for_share(0.9, 1.0, tail) == least
    assert chance_of_gain(least - 1, 0.8, 0.999, 0.0, tail) == 0.0
    assert count_for_share(0.0, better_than(0.0), tail) == 1


@pytest.mark.parametrize(
    ("threshold", "number", "tail"),
    [(0.85, 39, 0.0125), (0.8, 37, 0.0125), (0.85, 35, TAIL), (0.7, 14, 0.005), (0.9, 500, 0.0001)],
)
def test_the_chance_of_few_misses_is_exact(threshold: float, number: int, tail: float) -> None:
    exact = exact_chance(number, threshold, 0.95, tail)
    assert chance_of_share(number, threshold, 0.95, tail) == pytest.approx(exact, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_the_chance_of_a_share_is_that_of_the_verdicts_own_bounds(threshold: float) -> None:
    truth = better_than(threshold)
    for number in (20, 61, 240):
        exact = exact_chance(number, threshold, truth, TAIL)
        assert chance_of_share(number, threshold, truth, TAIL) == pytest.approx(exact, abs=0.03)


def test_the_same_is_simulated_again() -> None:
    assert chance_of_share(300, 0.9, 0.95, TAIL) == chance_of_share(300, 0.9, 0.95, TAIL)


def test_no_more_rows_are_tried_than_asked_for() -> None:
    tried: list[int] = []

    def chance(number: int) -> float:
        tried.append(number)
        return 0.0

    assert count_for(chance, most=100) > 100
    assert max(tried) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [-0.5, -0.02, 0.0, 0.3, 0.8, 0.9, 0.98])
@pytest.mark.parametrize("tail", [TAIL, 0.0125, 0.005, 0.0015])
def test_a_gain_takes_as_many_pairs_as_make_the_verdict_likely(
    threshold: float, tail: float
) -> None:
    before, after = widest_gain(better_than(threshold))
    number = count_for_gain(threshold, before, after, tail)
    chances = gained_and_lost(before, after)
    rng = np.random.default_rng(7)
    met = 0
    jobs = 200
    for seed in range(jobs):
        counts = rng.multinomial(number, [*chances, 1 - sum(chances)])
        gains = np.repeat([1.0, -1.0, 0.0], counts)
        found = confidence_of_mean(gains, np.arange(number), lowest=-1.0, seed=seed, num_draws=2000)
        met += found.interval(1 - 2 * tail).low >= threshold
    # Three standard deviations of so many jobs, and what the simulation errs.
    assert met / jobs >= 0.88 - 3 * (0.09 / jobs) ** 0.5
    assert chance_of_gain(number, threshold, *chances, tail) >= 0.9


@pytest.mark.slow
def test_models_apart_are_those_that_vary_most() -> None:
    assert widest_gain(0.2) == pytest.approx((0.4, 0.6))
    assert widest_gain(0.2, at_least=0.9) == pytest.approx((0.7, 0.9))
    assert widest_gain(1.0) == (0.0, 1.0)
    widest = count_for_gain(0.15, 0.4, 0.6, TAIL)
    for after in (0.25, 0.5, 0.7, 0.95):
        assert count_for_gain(0.15, after - 0.2, after, TAIL) <= widest


def test_many_claims_leave_each_the_tail_that_holms_first_step_does() -> None:
    tail = tail_of_many(0.95, 4)
    assert tail is not None
    # As far as a claim's 10,000 bounds tell, it is met alone and beside three hopeless ones.
    assert correct_for_many([2 * tail - 1e-4, 1.0, 1.0, 1.0])[0] <= 0.05
    assert tail == pytest.approx(TAIL / 4, rel=0.02)
    assert tail_of_many(0.95, 1) == pytest.approx(TAIL)
    assert tail_of_many(0.999, 16) is None
    assert tail_of_many(0.95, 16, num_levels=100) is None


certainties = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
margins = st.sampled_from([0.02, 0.03, 0.05, 0.08])


@pytest.mark.slow
@given(
    threshold=st.floats(0.05, 0.9),
    sure=certainties,
    surer=certainties,
    margin=margins,
    wider=margins,
)
@settings(deadline=None, max_examples=12)
def test_more_certainty_and_a_smaller_margin_take_more_rows(
    threshold: float, sure: float, surer: float, margin: float, wider: float
) -> None:
    sure, surer = sorted((sure, surer))
    margin, wider = sorted((margin, wider))

    def share(certainty: float, room: float) -> int:
        return count_for_share(threshold, threshold + room, (1 - certainty) / 2)

    assert share(sure, margin) <= share(surer, margin)
    assert share(sure, wider) <= share(sure, margin)
    gain = partial(count_for_gain, threshold)
    before, after = widest_gain(threshold + margin)
    assert gain(before, after, (1 - sure) / 2) <= gain(before, after, (1 - surer) / 2)
