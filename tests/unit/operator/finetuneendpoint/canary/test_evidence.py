"""Evidence of a rollout: valid at any time, and by users alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.protocol.serving import (
    MAX_CELLS,
    MAX_CELLS_BEYOND,
    NUM_CELLS,
    NUM_USERS,
    OF_CANDIDATE,
    FrontEndpoint,
    add_cell,
    read_cells,
    write_cells,
)
from finetune_api.v1alpha1.status.endpoint import (
    MAX_CELLS_CHARACTERS,
    StreamCounts,
    StreamStatus,
)
from finetune_operator.finetuneendpoint.canary.evidence import (
    COUNTED,
    DOUBT,
    ODDS_RATIOS,
    SHARES,
    Counts,
    Signal,
    Stream,
    log_bets,
    log_bound,
    weigh,
)
from finetune_operator.finetuneendpoint.traffic import merge, merge_events, tally

counts = st.builds(Counts, **dict.fromkeys(COUNTED, st.integers(0, 10_000)))
streams = st.lists(
    st.builds(
        Stream,
        sender=st.integers(0, 5),
        weight=st.sampled_from((1, 5, 25, 50, 99)),
        active=counts,
        candidate=counts,
    ),
    max_size=8,
)
marks = st.builds(
    lambda weight, side: weight + side, st.integers(1, 99), st.sampled_from((0, OF_CANDIDATE))
)
cells = st.dictionaries(st.integers(0, NUM_CELLS - 1), marks, max_size=200)


def bad(candidate: int, active: int = 0, *, weight: int = 5, senders: int = 8) -> list[Stream]:
    """Return streams whose bad answers are spread over senders."""
    return [
        Stream(
            sender=sender,
            weight=weight,
            active=Counts(errors=active // senders + (sender < active % senders)),
            candidate=Counts(errors=candidate // senders + (sender < candidate % senders)),
        )
        for sender in range(senders)
    ]


def binomial(k: int, n: int, share: float) -> float:
    return math.comb(n, k) * share**k * (1 - share) ** (n - k)


def expected_e_value(n: int, weight: int, share: float) -> float:
    """Return the mean e-value over who of ``n`` users with bad answers met the candidate."""
    return sum(
        binomial(k, n, share)
        * sum(math.exp(each) for each in log_bets({weight: (n - k, k)}))
        / len(ODDS_RATIOS)
        for k in range(n + 1)
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


def test_without_a_bad_answer_nothing_is_known():
    assert weigh([], trusts_senders=False).log_e == pytest.approx(0)
    assert weigh(bad(0), trusts_senders=False).confirmed == pytest.approx(0)


def test_nothing_is_learnt_where_one_version_has_all_the_traffic():
    assert log_bets({0: (100, 0), 100: (0, 100)}) == [0.0] * len(ODDS_RATIOS)


def test_a_bad_answer_of_the_candidate_speaks_against_it_and_one_of_the_active_version_for_it():
    assert min(log_bets({10: (0, 1)})) > 0 > max(log_bets({10: (1, 0)}))


@pytest.mark.parametrize("signal", list(Signal))
def test_each_signal_alone_can_show_a_candidate_to_be_worse(signal):
    found = [
        replace(each, candidate=Counts(**{signal.name.lower(): each.candidate.errors}))
        for each in bad(40, weight=10)
    ]
    evidence = weigh(found, trusts_senders=False)
    assert evidence.shows_worse(0.99)
    assert evidence.strongest is signal


def test_the_bound_of_a_certainty_is_one_over_the_false_alarms():
    assert math.exp(log_bound(0.99)) == pytest.approx(100)


def test_one_sender_among_several_shows_nothing_alone_and_the_only_one_does():
    alone = bad(60, senders=1)
    assert not weigh(alone, trusts_senders=False).shows_worse(0.5)
    assert weigh(alone, trusts_senders=False).log_e > log_bound(0.99)
    assert weigh(alone, trusts_senders=True).shows_worse(0.99)


def test_a_sender_that_fails_with_the_active_version_hides_no_harm():
    liar = Stream(sender=9, weight=5, active=Counts(errors=10_000), candidate=Counts())
    assert weigh([*bad(30), liar], trusts_senders=False).shows_worse(0.99)


def test_huge_counts_neither_overflow_nor_lose_the_verdict():
    many = Counts(errors=2**53)
    found = [Stream(sender=sender, weight=50, active=Counts(), candidate=many) for sender in (1, 2)]
    assert weigh(found, trusts_senders=False).shows_worse(0.99999)
    turned = [replace(each, active=many, candidate=Counts()) for each in found]
    assert not weigh(turned, trusts_senders=False).shows_worse(0.5)


@given(streams, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_streams_does_not_matter(found, trusts, rng):
    shuffled = rng.sample(found, len(found))
    one, other = (weigh(each, trusts_senders=trusts) for each in (found, shuffled))
    assert one.confirmed == pytest.approx(other.confirmed)
    assert one.log_e == pytest.approx(other.log_e)
    assert one.confirmed <= one.log_e


@given(cells)
def test_cells_are_read_as_they_were_written(found):
    assert read_cells(write_cells(found)) == found


@pytest.mark.parametrize("text", ["", "x", "eJw=", "AAAA", write_cells({7: 5})[:-4]])
def test_a_text_that_holds_no_cells_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        read_cells(text)


def test_one_sender_fills_no_table_for_others_and_a_full_one_fits_the_status():
    table: dict[int, int] = {}
    for sender in range(64):
        for user in range(NUM_USERS):
            add_cell(table, sender * NUM_USERS + user, 5 + OF_CANDIDATE * (user * 7 % 3 == 0))
    assert MAX_CELLS <= len(table) <= MAX_CELLS + 64 * MAX_CELLS_BEYOND
    senders = {cell // NUM_USERS for cell in table}
    assert len(senders) == 64
    assert len(write_cells(table)) <= MAX_CELLS_CHARACTERS


def told(**events: dict[int, int]) -> FrontEndpoint:
    found = [{"signal": name, "cells": write_cells(each)} for name, each in events.items()]
    return FrontEndpoint.model_validate({"name": "a", "events": found})


def test_a_user_who_met_two_fronts_or_a_new_process_counts_once():
    mine = {3 * NUM_USERS + 7: 5 + OF_CANDIDATE}
    other = {3 * NUM_USERS + 7: 5, 4 * NUM_USERS + 1: 5}
    once = merge_events({}, [("a", told(Errors=mine)), ("b", told(Errors=other))])
    again = merge_events(once, [("c", told(Errors=mine))])
    assert again == once
    (one, two) = sorted(tally(once), key=lambda each: each.sender)
    assert (one.candidate.errors, one.active.errors) == (1, 0)
    assert (two.candidate.errors, two.active.errors) == (0, 1)


def stream(front: str, requests: int, weight: int = 5) -> StreamStatus:
    return StreamStatus(
        front=front,
        weight=weight,
        active=StreamCounts(),
        candidate=StreamCounts(requests=requests, asked=requests),
    )


def test_reading_the_same_report_again_counts_nothing_twice():
    once = merge((), [stream("a", 7), stream("b", 9)])
    assert merge(once, [stream("a", 7)]) == once
    assert merge(once, ()) == once


def test_more_processes_than_a_status_holds_are_added_up_without_a_loss():
    stored: tuple[StreamStatus, ...] = ()
    for number in range(40):
        stored = merge(stored, [stream(f"front-{number}", 3, (5, 25)[number % 2])])
    assert len(stored) <= 32
    assert sum(each.candidate.requests for each in stored) == 120


@given(streams, streams)
def test_a_liar_adds_nothing_to_what_is_shown_without_it(honest, lies):
    liar = [replace(each, sender=63) for each in lies]
    without = weigh(honest, trusts_senders=True).log_e
    assert weigh([*honest, *liar], trusts_senders=False).confirmed <= without + 1e-9


@given(streams, streams)
def test_a_liar_hides_no_more_than_its_own_stake(honest, lies):
    liar = [replace(each, sender=63) for each in lies]
    before = weigh(honest, trusts_senders=True).log_e
    after = weigh([*honest, *liar], trusts_senders=True).log_e
    assert after >= before + math.log(DOUBT) - 1e-9


@pytest.mark.parametrize("trusts", [True, False])
def test_several_senders_together_have_an_e_value_of_at_most_one_on_average(trusts):
    mean = 0.0
    for k in range(5):
        for j in range(9):
            found = [
                Stream(
                    sender=sender,
                    weight=10,
                    active=Counts(errors=n - each),
                    candidate=Counts(errors=each),
                )
                for sender, each, n in ((0, k, 4), (1, j, 8))
            ]
            chance = binomial(k, 4, 0.1) * binomial(j, 8, 0.1)
            mean += chance * math.exp(weigh(found, trusts_senders=trusts).confirmed)
    assert mean == pytest.approx(1.0) if trusts else mean < 1


def test_what_a_pod_makes_up_leaves_the_rest_as_it_is():
    broken = FrontEndpoint.model_validate(
        {"name": "headlines", "events": [{"signal": "Errors", "cells": "no cells"}]}
    )
    kept = {Signal.SLOW: {7: 5}}
    assert merge_events(kept, [("a", broken)]) == kept
