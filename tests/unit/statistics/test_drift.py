"""Drift: false alarms are as rare as stated, and what is said to be found is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.statistics.drift import (
    STAKES,
    log_alarm_bound,
    log_evidence,
    log_mean_of_sides,
    smallest_changes,
)

BOUND = log_alarm_bound(looks_per_year=365, false_alarms_per_year=1, num_signals=8)


def hits(rng: np.random.Generator, number: int, share: float) -> np.ndarray:
    return (rng.random(number) < share).astype(float)


@given(
    expectations=st.lists(st.floats(0, 1), min_size=1, max_size=10),
    change=st.floats(-1, 1),
    tolerance=st.floats(0, 0.3),
)
@settings(max_examples=60)
def test_a_bet_wins_nothing_in_expectation_where_means_differ_by_the_tolerance(
    expectations: list[float], change: float, tolerance: float
) -> None:
    now = np.clip(np.array(expectations) + change, 0, 1)
    if now.mean() - np.mean(expectations) > tolerance:
        return
    # Pairs are independent, so the expectation of their product is that of their expectations.
    gains = (now - np.array(expectations) - tolerance) / (1 + tolerance)
    for stake in STAKES:
        assert np.prod(1 + stake * gains) <= 1 + 1e-9


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize(("num_then", "num_now"), [(100, 100), (100, 1000), (700, 150)])
def test_evidence_reaches_a_bound_no_more_often_than_stated(
    share: float, num_then: int, num_now: int
) -> None:
    rng = np.random.default_rng(3)
    rings = [
        log_mean_of_sides(
            log_evidence(hits(rng, num_then, share), hits(rng, num_now, share), tolerance=0.0)
        )
        >= math.log(20)
        for _ in range(400)
    ]
    assert np.mean(rings) <= 1 / 20


def test_a_change_has_evidence_for_its_side() -> None:
    rng = np.random.default_rng(5)
    then, now = hits(rng, 1000, 0.3), hits(rng, 1000, 0.6)
    rise, fall = log_evidence(then, now, tolerance=0.02)
    assert rise > BOUND > 0 > fall
    assert log_evidence(now, then, tolerance=0.02)[1] == pytest.approx(rise)


def test_one_user_who_gives_any_number_less_than_doubles_the_evidence() -> None:
    rng = np.random.default_rng(7)
    then, now = rng.random(200), rng.random(200)
    quiet, loud = now.copy(), now.copy()
    quiet[50], loud[50] = then[50], 1.0
    more = log_evidence(then, loud, tolerance=0.0) - log_evidence(then, quiet, tolerance=0.0)
    assert more.max() < math.log(2)


def test_the_smallest_change_is_found_in_most_windows_and_one_of_a_third_in_few() -> None:
    rng = np.random.default_rng(9)
    for number, mean in ((300, 0.3), (1000, 0.01), (3000, 0.3)):
        then = hits(rng, number, mean)
        rise, _ = smallest_changes(then, num_users=number, tolerance=0.02, log_bound=BOUND)
        assert rise is not None
        for part, low, high in ((1.0, 0.7, 1.0), (1 / 3, 0.0, 0.1)):
            found = [
                log_mean_of_sides(
                    log_evidence(
                        rng.permutation(then),
                        hits(rng, number, then.mean() + part * rise),
                        tolerance=0.02,
                    )
                )
                >= BOUND
                for _ in range(60)
            ]
            assert low <= np.mean(found) <= high


def test_the_smallest_change_falls_with_the_users_and_is_none_with_few() -> None:
    then = hits(np.random.default_rng(11), 3000, 0.3)
    rises = [
        smallest_changes(then, num_users=number, tolerance=0.02, log_bound=BOUND)[0]
        for number in (10, 100, 300, 3000)
    ]
    assert rises[0] is None
    assert rises[1:] == sorted((each for each in rises if each is not None), reverse=True)
    assert smallest_changes(np.zeros(100), num_users=100, tolerance=0, log_bound=BOUND)[1] is None


def test_a_rate_that_no_bound_gives_is_refused() -> None:
    assert log_alarm_bound(looks_per_year=10, false_alarms_per_year=5, num_signals=1) == (
        pytest.approx(math.log(4))
    )
    with pytest.raises(ValueError, match="falseAlarmsPerYear"):
        log_alarm_bound(looks_per_year=10, false_alarms_per_year=11, num_signals=1)
