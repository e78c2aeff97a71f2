"""Bounds for every certainty, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.statistics.confidence import (
    Confidence,
    difference_of,
    tail_of,
)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from([0.5, 0.8, 0.9, 0.99]))
def test_doubt_and_bound_say_the_same(hits: int, misses: int, certainty: float) -> None:
    confidence = confidence_of_share(hits, hits + misses)
    interval = confidence.interval(certainty)
    for threshold in (0.1, 0.5, 0.9):
        if abs(interval.low - threshold) > 1e-3:
            believed = confidence.doubt_above(threshold) <= 1 - certainty
            assert believed == (interval.low > threshold)
        if abs(interval.high - threshold) > 1e-3:
            believed = confidence.doubt_below(threshold) <= 1 - certainty
            assert believed == (interval.high < threshold)


def test_a_difference_has_newcombes_bounds() -> None:
    base, tuned = confidence_of_share(56, 70), confidence_of_share(48, 80)
    gain = difference_of(tuned, base).interval()
    low_1, high_1 = base.interval().low, base.interval().high
    low_2, high_2 = tuned.interval().low, tuned.interval().high
    below = ((0.8 - low_1) ** 2 + (high_2 - 0.6) ** 2) ** 0.5
    above = ((high_1 - 0.8) ** 2 + (0.6 - low_2) ** 2) ** 0.5
    assert gain.value == pytest.approx(0.2)
    assert (gain.low, gain.high) == pytest.approx((0.2 - below, 0.2 + above), abs=1e-3)


@pytest.mark.parametrize("certainty", [0.0, 1.0, float("nan"), 95.0])
def test_a_certainty_is_a_share(certainty: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        tail_of(certainty)


def test_a_bound_that_is_no_number_leaves_all_doubt() -> None:
    nothing = np.full(1000, np.nan)
    confidence = Confidence(value=0.9, lower=nothing, upper=nothing)
    assert confidence.doubt_above(0.1) == confidence.doubt_below(1.0) == 1.0
    assert confidence.doubt_of_none() == 1.0


def test_doubt_is_no_smaller_than_the_tail_of_the_outermost_bound() -> None:
    bounds = np.linspace(0.5, 0.6, 1000)
    confidence = Confidence(value=0.55, lower=bounds, upper=bounds)
    assert confidence.doubt_above(0.1) == confidence.doubt_of_none() == pytest.approx(0.001)
    fact = Confidence(value=0.5, lower=np.array([0.5]), upper=np.array([0.5]))
    assert (fact.doubt_above(0.5), fact.doubt_below(0.4)) == (0.0, 1.0)
