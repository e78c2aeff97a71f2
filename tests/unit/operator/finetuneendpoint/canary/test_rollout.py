"""Decisions on a candidate in traffic."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from finetune_operator.finetuneendpoint.canary.evidence import Stream
from finetune_operator.finetuneendpoint.canary.rollout import (
    Move,
    Requests,
    Rules,
    decide,
    e_text,
)
from unit.operator.finetuneendpoint.canary.test_evidence import bad

RULES = Rules(steps=(5, 25, 100), min_requests=200, certainty=0.99)
HOLD = Rules(steps=(5, 25, 100), min_requests=200, certainty=0.99, holds=True)


def stream(errors: int = 0, active: int = 0, *, weight: int = 5) -> list[Stream]:
    return bad(errors, active, weight=weight)


def requests(candidate: int, *, asked: int | None = None, users: int = 100) -> Requests:
    return Requests(candidate=candidate, asked=candidate if asked is None else asked, users=users)


def test_a_candidate_without_enough_requests_waits():
    made = decide(RULES, 5, [], requests(199))
    assert (made.move, made.weight, made.requests) == (Move.WAIT, 5, 199)
    assert made.message == "199 of 200 requests at 5 %."


def test_enough_requests_without_a_bad_event_advance_it():
    made = decide(RULES, 5, [], requests(200))
    assert (made.move, made.weight) == (Move.ADVANCE, 25)


def test_the_last_step_beside_the_active_version_promotes_it():
    made = decide(RULES, 25, [], requests(200))
    assert (made.move, made.weight) == (Move.PROMOTE, 100)


def test_evidence_between_as_good_and_worse_waits():
    made = decide(RULES, 5, stream(1), requests(500))
    assert made.move is Move.WAIT
    assert made.evidence.log_e > 0
    assert "neither shown to be worse (at 100) nor as good (at 1)" in made.message


def test_one_error_among_very_few_does_not_hold_a_candidate_for_ever():
    waiting = decide(RULES, 5, stream(1), requests(999))
    assert waiting.move is Move.WAIT
    made = decide(RULES, 5, stream(1), requests(1000))
    assert (made.move, made.weight) == (Move.ADVANCE, 25)
    assert "too little against it" in made.message


def test_strong_evidence_below_the_bound_holds_a_candidate_however_long_and_says_so():
    made = decide(RULES, 5, stream(3, 1), requests(100_000))
    assert made.move is Move.WAIT
    assert 10 < math.exp(made.evidence.log_e) < 100
    assert made.is_undecided


def test_harm_behind_one_sender_waits_and_says_what_would_help():
    alone = bad(60, senders=1)
    made = decide(RULES, 5, alone, requests(500))
    assert (made.move, made.is_undecided) == (Move.WAIT, True)
    assert "access.trustUsers" in made.message
    assert decide(replace(RULES, trusts_senders=True), 5, alone, requests(500)).move is (
        Move.ROLL_BACK
    )


def test_requests_of_too_few_users_say_what_would_help():
    made = decide(RULES, 5, [], requests(50, asked=600, users=2))
    assert (made.move, made.is_undecided) == (Move.WAIT, True)
    assert "600 came from 2 users" in made.message
    assert not decide(RULES, 5, [], requests(50, asked=599, users=2)).is_undecided


@pytest.mark.parametrize(
    ("rules", "move", "weight"), [(RULES, Move.ROLL_BACK, 0), (HOLD, Move.HOLD, 5)]
)
def test_a_candidate_that_is_shown_to_be_worse_is_rolled_back_or_held(rules, move, weight):
    made = decide(rules, 5, stream(20, 5), requests(60))
    assert (made.move, made.weight) == (move, weight)
    assert made.message.startswith(
        "It is worse: 20 of its users and 5 of the active version's had errors."
    )


def test_evidence_of_earlier_steps_stays():
    assert decide(RULES, 25, stream(20, 5), requests(1)).move is Move.ROLL_BACK


def test_a_tripped_candidate_goes_whatever_the_counts():
    made = decide(RULES, 5, [], requests(1), tripped=True)
    assert (made.move, made.tripped) == (Move.ROLL_BACK, True)
    assert decide(HOLD, 5, [], requests(0), tripped=True).move is Move.HOLD


def test_steps_that_were_changed_meanwhile_go_on_at_the_next_higher_one():
    changed = Rules(steps=(10, 50, 100), min_requests=10, certainty=0.99)
    assert decide(changed, 25, [], requests(10)).weight == 50
    assert changed.position(50) == 1
    assert Rules(steps=(5,), min_requests=10, certainty=0.9).after(5) == 100


@pytest.mark.parametrize(
    ("log_e", "text"), [(0.0, "1"), (4.605, "100"), (-2.3, "0.1"), (46.1, "10^20")]
)
def test_an_e_value_is_told_as_a_number_for_people(log_e, text):
    assert e_text(log_e) == text
