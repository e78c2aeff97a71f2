"""Intervals hold at 0 and 1, at small counts, and for rows that belong together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluate.intervals import Interval, bootstrap, widen_shares, wilson
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import measure


def share_of(hits: np.ndarray):
    return lambda rows: float(hits[rows].mean())


def singles(count: int) -> list[np.ndarray]:
    return [np.array([i]) for i in range(count)]


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    # statsmodels 0.14, proportion_confint(..., method="wilson")
    [
        (1.0, 20, 0.83887, 1.0),
        (0.0, 20, 0.0, 0.16113),
        (0.5, 10, 0.23659, 0.76341),
        (0.9, 100, 0.82564, 0.94478),
    ],
)
def test_wilson_equals_the_textbook(share: float, count: int, low: float, high: float) -> None:
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_widened_intervals_hold_the_value_and_never_narrow(
    count: int, base: float, tuned: float
) -> None:
    given_ = [Interval(value=v, low=v, high=v) for v in (base, tuned, tuned - base)]
    widened = widen_shares(*given_, num_groups=count)
    for before, after in zip(given_, widened, strict=True):
        assert after.low <= before.low + 1e-9 <= before.high + 2e-9 <= after.high + 3e-9
        assert -1 <= after.low <= after.high <= 1


def test_a_perfect_score_on_few_rows_is_not_certain() -> None:
    (base, tuned), gain = bootstrap(
        [share_of(np.zeros(20)), share_of(np.ones(20))], singles(20), num_samples=200, seed=1
    )
    assert gain is not None
    assert (tuned.low, gain.low) == (1.0, 1.0)
    base, tuned, gain = widen_shares(base, tuned, gain, num_groups=20)
    assert tuned.low < 0.85
    assert base.high > 0.15
    assert gain.low < 0.8


def test_intervals_over_groups_cover_the_truth_where_those_over_rows_do_not() -> None:
    rng = np.random.default_rng(5)
    covered = {"groups": 0, "rows": 0}
    for _ in range(200):
        truth = rng.random(20) < 0.7  # every row of a group is right, or none is
        hits = np.repeat(truth, 10).astype(float)
        groups = np.arange(200).reshape(20, 10)
        for name, units in (("groups", list(groups)), ("rows", singles(200))):
            (interval,), _ = bootstrap([share_of(hits)], units, num_samples=200, seed=3)
            covered[name] += interval.low <= 0.7 <= interval.high
    assert covered["groups"] >= 0.88 * 200
    assert covered["rows"] < 0.6 * 200


@given(st.lists(st.booleans(), min_size=5, max_size=60), st.integers(0, 1000))
def test_intervals_hold_the_score_and_repeat(hits: list[bool], seed: int) -> None:
    said = Answers(
        texts=["yes" if hit else "no" for hit in hits],
        nll_sums=np.ones(len(hits)),
        num_tokens=np.ones(len(hits)),
    )
    metric = measure("exactMatch", said, [["yes"]] * len(hits)).over
    first, _ = bootstrap([metric], singles(len(hits)), num_samples=100, seed=seed)
    again, _ = bootstrap([metric], singles(len(hits)), num_samples=100, seed=seed)
    assert first == again
    assert 0 <= first[0].low <= first[0].high <= 1
    assert first[0].value == pytest.approx(sum(hits) / len(hits))


def test_delta_of_a_model_with_itself_is_zero() -> None:
    metric = share_of(np.array([1.0, 0.0]))
    _, delta = bootstrap([metric, metric], singles(2), num_samples=100, seed=1)
    assert delta is not None
    assert (delta.value, delta.low, delta.high) == (0, 0, 0)
