"""Evidence of a rollout: valid at any time, and by counts alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.finetuneendpoint.canary.evidence import (
    COUNTED,
    SHARES,
    Counts,
    Signal,
    Stream,
    log_bound,
    log_e_value,
    weigh,
)
from finetune_operator.finetuneendpoint.traffic import fold, merge

counts = st.builds(Counts, **dict.fromkeys(COUNTED, st.integers(0, 10_000)))
streams = st.lists(
    st.builds(
        Stream,
        front=st.sampled_from("abcdef"),
        weight=st.sampled_from((1, 5, 25, 50, 99)),
        active=counts,
        candidate=counts,
    ),
    max_size=8,
)


def binomial(k: int, n: int, share: float) -> float:
    return math.comb(n, k) * share**k * (1 - share) ** (n - k)


def expected_e_value(n: int, weight: int, share: float) -> float:
    """Return the mean e-value over who had the ``n`` bad events."""
    return sum(
        binomial(k, n, share) * math.exp(log_e_value({weight: (n - k, k)})) for k in range(n + 1)
    )


@pytest.mark.parametrize("weight", [1, 5, 10, 25, 50, 99])
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_e_value_of_a_candidate_that_is_no_worse_is_one_on_average(weight, n):
    assert expected_e_value(n, weight, weight / 100) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.09])
def test_the_e_value_of_a_better_candidate_is_below_one_on_average(share):
    assert expected_e_value(30, 10, share) < 1


def test_the_stakes_of_the_signals_add_up_to_one_and_errors_have_half():
    assert sum(SHARES.values()) == 1
    assert SHARES[Signal.ERRORS] == 0.5
    assert set(SHARES) == set(Signal)


def test_without_a_bad_event_nothing_is_known():
    stream = Stream(
        front="a", weight=10, active=Counts(requests=900), candidate=Counts(requests=100)
    )
    assert weigh([]).log_e == 0
    assert weigh([stream]).log_e == pytest.approx(0)


def test_nothing_is_learnt_where_one_version_has_all_the_traffic():
    assert log_e_value({0: (100, 0), 100: (0, 100)}) == 0


def test_a_bad_event_of_the_candidate_speaks_against_it_and_one_of_the_active_version_for_it():
    assert log_e_value({10: (0, 1)}) > 0 > log_e_value({10: (1, 0)})


@pytest.mark.parametrize("signal", list(Signal))
def test_each_signal_alone_can_show_a_candidate_to_be_worse(signal):
    field = {Signal.INVALID_JSON: "invalid_json", Signal.THUMBS_DOWN: "thumbs_down"}
    bad = {field.get(signal, signal.value.lower()): 30}
    stream = Stream(
        front="a", weight=10, active=Counts(requests=9000), candidate=Counts(requests=1000, **bad)
    )
    evidence = weigh([stream])
    assert evidence.shows_worse(0.99)
    assert evidence.strongest is signal


def test_the_bound_of_a_certainty_is_one_over_the_false_alarms():
    assert math.exp(log_bound(0.99)) == pytest.approx(100)


def test_huge_counts_neither_overflow_nor_lose_the_verdict():
    many = Counts(requests=2**53, errors=2**53)
    stream = Stream(front="a", weight=50, active=Counts(requests=2**53), candidate=many)
    assert weigh([stream]).shows_worse(0.99999)
    assert not weigh([replace(stream, active=many, candidate=Counts())]).shows_worse(0.5)


@given(streams, st.randoms(use_true_random=False))
def test_the_order_of_the_streams_does_not_matter(found, rng):
    shuffled = rng.sample(found, len(found))
    assert weigh(shuffled).by_signal == weigh(found).by_signal


@given(streams, st.data())
def test_splitting_a_stream_or_adding_streams_up_does_not_matter(found, data):
    split = []
    for each in found:
        parts = {}
        for side in ("active", "candidate"):
            whole = getattr(each, side)
            first = {name: data.draw(st.integers(0, getattr(whole, name))) for name in COUNTED}
            rest = {name: getattr(whole, name) - first[name] for name in COUNTED}
            parts[side] = (Counts(**first), Counts(**rest))
        for part, front in enumerate("xy"):
            split.append(
                replace(
                    each,
                    front=each.front + front,
                    active=parts["active"][part],
                    candidate=parts["candidate"][part],
                )
            )
    assert weigh(split).by_signal == weigh(found).by_signal
    assert weigh(fold(split)).by_signal == weigh(found).by_signal


@given(streams)
def test_reading_the_same_report_again_counts_nothing_twice(found):
    once = merge((), found)
    assert merge(once, found) == once
    assert merge(once, ()) == once


def test_more_processes_than_a_status_holds_are_added_up_without_a_loss():
    crowd = [
        Stream(
            front=f"front-{number}",
            weight=(5, 25)[number % 2],
            active=Counts(requests=10, errors=1),
            candidate=Counts(requests=3, errors=1),
        )
        for number in range(40)
    ]
    stored = ()
    for each in crowd:
        stored = merge(stored, [each])
    assert len(stored) <= 32
    assert weigh(stored).by_signal == weigh(crowd).by_signal
    assert sum(each.candidate.requests for each in stored) == 120
