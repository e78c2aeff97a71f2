"""Drift: false alarms are as rare as stated, whoever is loud and however small the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.statistics.bounded import confidence_of_mean, confidence_of_share
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.statistics.drift import (
    NUM_SIDES,
    STAKES,
    Limits,
    add_look,
    limits_of,
    log_alarm_bound,
    log_growth_of_look,
    log_growths,
    log_mean_of_bets,
    log_mean_of_signals,
    no_evidence,
)

NUM_LOOKS = 400
SHARES = st.floats(0, 1)
HITS_AND_MISSES = np.array([0.0, 1.0])


def alarms_of(hits: np.ndarray, num_users: int, limits: Limits, log_bound: float) -> np.ndarray:
    """Return the alarms of each stream; ``hits`` of each look come by look and stream."""
    growths = log_growths(HITS_AND_MISSES, limits)
    evidence = no_evidence(hits.shape[1])
    alarms = np.zeros(hits.shape[1])
    for look in hits:
        counts = np.stack([num_users - look, look], axis=-1)
        evidence = add_look(evidence, np.einsum("sbk,nk->nsb", growths, counts))
        rings = log_mean_of_bets(evidence) >= log_bound
        alarms += rings
        evidence[rings] = -np.inf
    return alarms


@given(
    expectations=st.lists(SHARES, min_size=1, max_size=12),
    loudest=SHARES,
    slack=st.floats(0, 0.3),
)
def test_a_look_within_the_limits_wins_nothing_in_expectation(
    expectations: list[float], loudest: float, slack: float
) -> None:
    mean = float(np.mean(expectations))
    limits = Limits(low=max(0.0, mean - slack), high=min(1.0, mean + slack))
    everybody = [*expectations, loudest]
    growths = np.exp(log_growths(HITS_AND_MISSES, limits.with_loud(1, len(everybody))))
    # Users are independent, so the expectation of their product is that of their expectations.
    won = np.prod([(1 - e) * growths[..., 0] + e * growths[..., 1] for e in everybody], axis=0)
    assert won.shape == (NUM_SIDES, len(STAKES))
    assert (won <= 1 + 1e-6).all()


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_evidence_is_the_sum_over_all_looks_at_which_a_change_may_begin(
    growths: list[float],
) -> None:
    evidence = np.array([-np.inf])
    for growth in growths:
        evidence = add_look(evidence, np.array([growth]))
    restarts = [sum(growths[start:]) for start in range(len(growths))]
    assert evidence[0] == pytest.approx(np.logaddexp.reduce(restarts))


@pytest.mark.parametrize("side", ["low", "high"])
def test_at_a_limit_alarms_are_at_most_as_frequent_as_stated(side: str) -> None:
    limits = Limits(low=0.2, high=0.3)
    rng = np.random.default_rng(29)
    hits = rng.binomial(20, getattr(limits, side), size=(NUM_LOOKS, 1000))
    for allowed in (1.0, 4.0):
        bound = log_alarm_bound(
            looks_per_year=NUM_LOOKS, false_alarms_per_year=allowed, certainty=1 - 1e-12
        )
        alarms = alarms_of(hits, 20, limits, bound)
        error = alarms.std() / math.sqrt(len(alarms))
        assert alarms.mean() <= allowed + 2 * error
        assert alarms.mean() >= allowed / 50  # the bound is not met by never ringing


def test_a_small_reference_causes_no_alarms_unless_its_mean_is_taken_for_the_truth() -> None:
    truth, size, num_streams = 0.3, 60, 300
    rng = np.random.default_rng(5)
    bound = log_alarm_bound(looks_per_year=NUM_LOOKS, false_alarms_per_year=1.0)
    counted, believed = [], []
    for seen in rng.binomial(size, truth, size=num_streams):
        hits = rng.binomial(40, truth, size=(NUM_LOOKS, 1))
        sampled = limits_of(confidence_of_share(float(seen), size), num_signals=1)
        as_truth = Limits(low=seen / size, high=seen / size)
        counted.append(alarms_of(hits, 40, sampled, bound)[0])
        believed.append(alarms_of(hits, 40, as_truth, bound)[0])
    assert np.mean(counted) <= 1.0
    assert np.mean(np.array(counted) > 0) <= 0.05
    assert np.mean(believed) > 5.0


def test_one_user_who_is_loud_for_a_year_causes_no_alarm() -> None:
    rng = np.random.default_rng(7)
    limits = Limits(low=0.05, high=0.05)
    bound = log_alarm_bound(looks_per_year=NUM_LOOKS, false_alarms_per_year=1.0)
    heard, ignored = no_evidence(1), no_evidence(1)
    num_heard = num_ignored = 0
    for _ in range(NUM_LOOKS):
        numbers = np.append(rng.binomial(1, 0.05, size=39).astype(float), 1.0)
        heard = add_look(heard, log_growth_of_look(numbers, limits, num_loud=0))
        ignored = add_look(ignored, log_growth_of_look(numbers, limits, num_loud=1))
        if log_mean_of_bets(heard)[0] >= bound:
            heard, num_heard = no_evidence(1), num_heard + 1
        num_ignored += int(log_mean_of_bets(ignored)[0] >= bound)
    assert num_ignored == 0
    assert num_heard > 1


def test_a_change_of_most_users_is_found_on_either_side() -> None:
    limits = Limits(low=0.25, high=0.35)
    bound = log_alarm_bound(looks_per_year=8760, false_alarms_per_year=1.0)
    rng = np.random.default_rng(11)
    for after in (0.1, 0.5):
        evidence, num_looks = no_evidence(1), 0
        while log_mean_of_bets(evidence)[0] < bound and num_looks < 50:
            numbers = rng.binomial(1, after, size=200).astype(float)
            evidence = add_look(evidence, log_growth_of_look(numbers, limits))
            num_looks += 1
        assert num_looks <= 3


def test_a_look_of_loud_users_only_says_nothing() -> None:
    limits = Limits(low=0.4, high=0.6)
    assert log_growth_of_look(np.array([1.0]), limits) is None
    assert log_growth_of_look(np.empty(0), limits) is None
    assert limits.with_loud(1, 0) == Limits(low=0.0, high=1.0)


def test_limits_at_the_ends_of_the_scale_win_nothing() -> None:
    everything = Limits(low=0.0, high=1.0)
    assert (log_growths(np.array([0.0, 0.5, 1.0]), everything) <= 0).all()
    never = Limits(low=0.0, high=0.0)
    growth = log_growths(np.array([0.0, 1.0]), never)
    assert np.isfinite(growth).all()
    assert (growth[0, :, 0] < 0).all()


def test_limits_of_many_signals_are_wider_and_hold_the_tolerance() -> None:
    reference = confidence_of_share(30, 300)
    alone = limits_of(reference, num_signals=1)
    together = limits_of(reference, num_signals=10)
    tolerant = limits_of(reference, num_signals=10, tolerance=0.02)
    assert together.low < alone.low < 0.1 < alone.high < together.high
    assert tolerant.high == pytest.approx(together.high + 0.02)
    assert tolerant.low == pytest.approx(together.low - 0.02)
    certain = Confidence(value=0.5, lower=np.array([0.5]), upper=np.array([0.5]))
    assert limits_of(certain, num_signals=1, tolerance=0.9) == Limits(low=0.0, high=1.0)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), size=st.integers(5, 80))
def test_limits_of_any_reference_lie_around_its_mean(seed: int, size: int) -> None:
    numbers = np.random.default_rng(seed).random(size)
    reference = confidence_of_mean(numbers, np.arange(size), num_draws=500)
    limits = limits_of(reference, num_signals=3)
    assert 0 <= limits.low <= numbers.mean() <= limits.high <= 1


def test_the_family_is_the_mean_of_its_signals() -> None:
    by_signal = np.log(np.array([10.0, 30.0, 20.0]))
    assert math.exp(log_mean_of_signals(by_signal)) == pytest.approx(20.0)
    assert log_mean_of_signals(log_mean_of_bets(no_evidence(4))) == -math.inf


def test_the_bound_follows_from_the_looks_of_a_year() -> None:
    bound = log_alarm_bound(looks_per_year=8760, false_alarms_per_year=0.5, certainty=0.95)
    assert math.exp(bound) == pytest.approx(8760 / 0.5 / 0.95)


@pytest.mark.parametrize("allowed", [0.0, -1.0, 53.0, math.nan])
def test_a_rate_that_no_bound_can_keep_is_refused(allowed: float) -> None:
    with pytest.raises(ValueError, match="falseAlarmsPerYear"):
        log_alarm_bound(looks_per_year=52, false_alarms_per_year=allowed)


@pytest.mark.parametrize("number", [-0.1, 1.1, math.nan])
def test_numbers_off_the_scale_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        log_growths(np.array([0.5, number]), Limits(low=0.4, high=0.6))


def test_limits_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="rise"):
        Limits(low=0.6, high=0.4)
