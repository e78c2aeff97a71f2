"""Looks: drift is found, quiet traffic and one loud user are not, and nothing counts twice."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from finetune_trainer.monitor.evidence import (
    NUM_ALARMS_KEPT,
    SHAPE,
    Evidence,
    begin_evidence,
    parse_evidence,
    write_evidence,
)
from finetune_trainer.monitor.looking import Look, Settings, look_at
from finetune_trainer.monitor.reference import ReferenceRow, make_reference
from finetune_trainer.monitor.signals import Answered
from finetune_trainer.monitor.users import UserRow

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = Settings(min_answers=50)
THINGS = ["coat", "hat", "glove", "scarf", "shoe", "sock", "shirt", "skirt"]
NEW_THINGS = ["phone", "tablet", "charger", "headset", "router", "laptop", "screen", "mouse"]
COLORS = ["red", "blue", "green", "black", "white"]


def answered(rng: random.Random, things: list[str], share_bad: float = 0.4) -> Answered:
    prompt = f"a {rng.choice(COLORS)} {rng.choice(things)} of number {rng.randrange(100)}"
    return Answered(prompt=prompt, answer="bad" if rng.random() < share_bad else "good")


def traffic(
    rng: random.Random, number: int = 100, things: list[str] = THINGS, share_bad: float = 0.4
) -> list[UserRow]:
    return [
        UserRow(answered=answered(rng, things, share_bad), user=f"u{each}")
        for each in range(number)
    ]


def reference_rows(number: int = 600, seed: int = 1) -> list[ReferenceRow]:
    rng = random.Random(seed)
    return [
        ReferenceRow(answered=answered(rng, THINGS), group=f"g{each}") for each in range(number)
    ]


REFERENCE = make_reference(reference_rows())


def look(rows: list[UserRow], before: Evidence | None = None, number: int = 0) -> Look:
    begin = START + number * HOUR
    return look_at(rows, REFERENCE, before, SETTINGS, begin=begin, end=begin + HOUR)


def test_the_reference_watches_what_its_rows_have() -> None:
    assert set(REFERENCE.watched) == {
        "Errors", "ThumbsDown", "PromptLength", "Vocabulary", "Language/English", "AnswerLength",
        "Refusals", "Labels/good", "Labels/bad",
    }  # fmt: skip
    for name, each in REFERENCE.watched.items():
        assert (each.mean is None) == (name in ("Errors", "ThumbsDown"))
        assert each.mean is None or each.limits.low <= each.mean <= each.limits.high
    assert REFERENCE.watched["Vocabulary"].num_rows < 400 < REFERENCE.watched["Refusals"].num_rows


def test_the_order_of_a_reference_changes_nothing() -> None:
    again = make_reference(reference_rows()[::-1])
    assert again.digest == REFERENCE.digest
    assert {n: w.limits for n, w in again.watched.items()} == {
        n: w.limits for n, w in REFERENCE.watched.items()
    }
    assert make_reference(reference_rows(seed=2)).digest != REFERENCE.digest


def test_a_reference_of_few_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="more rows"):
        make_reference(reference_rows(20), names=["Vocabulary"])


def test_only_the_signals_that_are_named_are_watched() -> None:
    named = make_reference(reference_rows(), names=["Labels", "Refusals"])
    assert set(named.watched) == {"Labels/good", "Labels/bad", "Refusals"}
    # Fewer bounds must hold together, so each is nearer.
    alone, among = named.watched["Refusals"].limits, REFERENCE.watched["Refusals"].limits
    assert alone.high < among.high


def test_errors_are_watched_without_a_reference() -> None:
    assert set(make_reference(reference_rows(20)).watched) == {"Errors", "ThumbsDown"}


def test_quiet_traffic_and_one_loud_user_cause_no_alarm() -> None:
    rng = random.Random(3)
    before = None
    for number in range(60):
        loud = [UserRow(answered=answered(rng, NEW_THINGS, 1.0), user="loud")] * 50
        before = look(traffic(rng) + loud, before, number).evidence
    assert before is not None
    assert before.alarms == ()
    assert (before.num_looks, before.num_answers) == (60, 9_000)


@pytest.mark.parametrize(
    ("things", "share_bad", "signal"),
    [(NEW_THINGS, 0.4, "Vocabulary"), (THINGS, 0.9, "Labels/bad"), (THINGS, 0.0, "Labels/bad")],
)
def test_a_change_is_found_with_its_signal_and_its_beginning(
    things: list[str], share_bad: float, signal: str
) -> None:
    rng = random.Random(5)
    before, number = None, 0
    while before is None or not before.alarms:
        now = traffic(rng) if number < 10 else traffic(rng, 100, things, share_bad)
        before = look(now, before, number).evidence
        number += 1
        assert number < 40
    (alarm,) = before.alarms
    assert "Labels" in before.log_e_by_signal
    assert alarm.signal == signal or {alarm.signal, signal} == {"Labels/good", "Labels/bad"}
    assert START + 9 * HOUR <= alarm.since <= alarm.time <= START + 16 * HOUR
    assert alarm.log_e >= SETTINGS.log_bound
    if alarm.signal == "Vocabulary":
        assert alarm.is_higher
    assert before.log_e == -np.inf  # evidence begins again


def test_errors_of_many_users_are_found() -> None:
    rng = random.Random(6)
    failed = Answered(prompt="a red coat", answer=None, is_error=True)
    before = None
    for number in range(5):
        rows = traffic(rng, 80) + [UserRow(answered=failed, user=f"e{i}") for i in range(20)]
        before = look(rows, before, number).evidence
    assert before is not None
    assert before.alarms[0].signal == "Errors"


def test_few_answers_wait_and_count_as_no_look() -> None:
    rng = random.Random(7)
    first = look(traffic(rng)).evidence
    waiting = look(traffic(rng, 49), first, 1)
    assert (waiting.num_waiting, waiting.seen, waiting.evidence) == (49, {}, first)
    joined = look_at(
        traffic(rng, 60), REFERENCE, first, SETTINGS, begin=START + HOUR, end=START + 3 * HOUR
    )
    assert joined.evidence.num_looks == 2


def test_a_signal_that_applies_to_nobody_keeps_its_evidence() -> None:
    rng = random.Random(9)
    first = look(traffic(rng)).evidence
    silent = [replace(row, answered=replace(row.answered, answer=None)) for row in traffic(rng)]
    second = look(silent, first, 1)
    assert second.seen["Refusals"].num_users == 0
    assert second.seen["Refusals"].mean is None
    assert second.evidence.signals["Refusals"] is first.signals["Refusals"]
    assert second.evidence.signals["Vocabulary"] is not first.signals["Vocabulary"]


def test_answers_that_would_count_twice_are_refused() -> None:
    rng = random.Random(11)
    first = look(traffic(rng)).evidence
    with pytest.raises(ValueError, match="twice"):
        look(traffic(rng), first, 0)
    with pytest.raises(ValueError, match=r"monitor\.every"):
        look_at(traffic(rng), REFERENCE, first, SETTINGS, begin=START + HOUR, end=START + HOUR)


def test_another_reference_begins_without_evidence_where_the_last_look_ended() -> None:
    rng = random.Random(13)
    first = look(traffic(rng)).evidence
    other = make_reference(reference_rows(seed=2))
    with pytest.raises(ValueError, match="twice"):
        look_at(traffic(rng), other, first, SETTINGS, begin=START, end=START + HOUR)
    begin = START + HOUR
    second = look_at(traffic(rng), other, first, SETTINGS, begin=begin, end=begin + HOUR).evidence
    assert (second.reference, second.num_looks) == (other.digest, 1)
    few = look_at([], other, first, SETTINGS, begin=begin, end=begin + HOUR).evidence
    assert few.until == first.until


def test_evidence_at_rest_is_what_it_was() -> None:
    rng = random.Random(17)
    evidence = look(traffic(rng)).evidence
    drifted = look(traffic(rng, 2000, NEW_THINGS), evidence, 1).evidence
    for each in (evidence, drifted, look([]).evidence):
        data = write_evidence(each)
        assert write_evidence(parse_evidence(data)) == data
        assert parse_evidence(data).log_e == each.log_e
    assert parse_evidence(write_evidence(drifted)).alarms == drifted.alarms
    assert len(drifted.alarms) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"reference": "a"}'])
def test_evidence_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="Delete it"):
        parse_evidence(data)


def test_evidence_of_other_bets_is_refused() -> None:
    rng = random.Random(19)
    data = write_evidence(look(traffic(rng)).evidence)
    fewer = data.replace(b'"logBest": [', b'"logBest": [[0.0], ', 1)
    with pytest.raises(ValueError, match="Delete it"):
        parse_evidence(fewer)


def test_a_change_that_goes_on_began_when_its_first_alarm_says() -> None:
    evidence = begin_evidence("digest", dict.fromkeys(["Labels/good", "Labels/bad", "Errors"]))
    growth = np.full(SHAPE, 50.0)
    for number in range(2 * NUM_ALARMS_KEPT):
        part = "Labels/good" if number % 2 else "Labels/bad"
        begin = START + number * HOUR
        evidence = evidence.after_look(
            {part: growth}, begin=begin, end=begin + HOUR, num_answers=1, log_bound=9.0
        )
    assert len(evidence.alarms) == NUM_ALARMS_KEPT
    assert {alarm.since for alarm in evidence.alarms} == {START}
    much_later = START + timedelta(days=60)
    evidence = evidence.after_look(
        {"Labels/bad": growth}, begin=much_later, end=much_later, num_answers=1, log_bound=9.0
    )
    assert evidence.alarms[-1].since == much_later
