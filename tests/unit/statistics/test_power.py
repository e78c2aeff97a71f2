"""The numbers of rows at which a model that is better than asked is likely to be found so."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.statistics.bounded import confidence_of_mean, confidence_of_share
from finetune_trainer.statistics.claims import correct_for_many
from finetune_trainer.statistics.needed import count_for_best
from finetune_trainer.statistics.paired_power import chance_of_gain, count_for_gain, widest_gain
from finetune_trainer.statistics.power import (
    better_than,
    chance_of_share,
    count_for_share,
    tail_of_many,
)

TAIL = 0.025


def exact_chance(number: int, threshold: float, truth: float, tail: float) -> float:
    """Sum the binomial probabilities of all numbers of hits that the verdict's bound accepts."""
    from scipy.stats import binom

    hits = np.arange(number + 1)
    # The one-sided bound of each number of hits, as `confidence_of_share` has it.
    accepted = [
        count
        for count in hits
        if confidence_of_share(float(count), number).interval(1 - 2 * tail).low >= threshold
    ]
    return float(binom.pmf(accepted, number, truth).sum())


@pytest.mark.parametrize(
    ("threshold", "number"),
    [("0", 1), ("0.5", 1080), ("0.8", 641), ("0.9", 316), ("0.95", 661), ("0.99", 3446)],
)
def test_a_share_takes_as_many_rows_as_make_the_verdict_likely(threshold: str, number: int) -> None:
    wanted = float(threshold)
    assert count_for_share(wanted, better_than(wanted), TAIL) == number
    assert number >= (count_for_best(wanted, 1 - 2 * TAIL) or 0)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_the_chance_of_a_share_is_that_of_the_verdicts_own_bounds(threshold: float) -> None:
    truth = better_than(threshold)
    for number in (20, 61):
        exact = exact_chance(number, threshold, truth, TAIL)
        assert chance_of_share(number, threshold, truth, TAIL) == pytest.approx(exact, abs=1e-9)


def test_from_the_number_on_no_larger_one_is_worse() -> None:
    number = count_for_share(0.9, 0.95, TAIL)
    chances = [chance_of_share(n, 0.9, 0.95, TAIL) for n in range(number - 1, number + 400)]
    assert chances[0] < 0.9 <= min(chances[1:])


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [-0.5, -0.02, 0.0, 0.3, 0.8, 0.9, 0.98])
@pytest.mark.parametrize("tail", [TAIL, 0.0015])
def test_a_gain_takes_as_many_pairs_as_make_the_verdict_likely(
    threshold: float, tail: float
) -> None:
    before, after = widest_gain(better_than(threshold))
    number = count_for_gain(threshold, before, after, tail)
    chances = [after * (1 - before), before * (1 - after)]
    rng = np.random.default_rng(7)
    met = 0
    jobs = 200
    for seed in range(jobs):
        counts = rng.multinomial(number, [*chances, 1 - sum(chances)])
        gains = np.repeat([1.0, -1.0, 0.0], counts)
        found = confidence_of_mean(gains, np.arange(number), lowest=-1.0, seed=seed, num_draws=2000)
        met += found.interval(1 - 2 * tail).low >= threshold
    # Three standard deviations of so many jobs.
    assert met / jobs >= 0.9 - 3 * (0.09 / jobs) ** 0.5
    assert chance_of_gain(number, threshold, before, after, tail) >= 0.9


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
