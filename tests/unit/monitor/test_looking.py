"""Looks: a change is found and ends, quiet traffic and loud or heavy users are none."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from finetune_trainer.monitor.looking import Look, Settings, look_at
from finetune_trainer.monitor.signals import Answered, fit_signals
from finetune_trainer.monitor.state import NUM_CHANGES_KEPT, State, parse_state, write_state
from finetune_trainer.monitor.users import UserRow, read_exchange
from finetune_trainer.traffic.rows import Exchange

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SETTINGS = Settings(every=DAY, window=DAY, min_users=50)
THINGS = ["coat", "hat", "glove", "scarf", "shoe", "sock", "shirt", "skirt"]
NEW_THINGS = ["phone", "tablet", "charger", "headset", "router", "laptop", "screen", "mouse"]
COLORS = ["red", "blue", "green", "black", "white"]
NEW = State(of="v1")


def answered(rng: random.Random, things: list[str] = THINGS, share_bad: float = 0.4) -> Answered:
    prompt = f"a {rng.choice(COLORS)} {rng.choice(things)} of number {rng.randrange(100)}"
    return Answered(prompt=prompt, answer="bad" if rng.random() < share_bad else "good")


def traffic(
    rng: random.Random, number: int = 200, things: list[str] = THINGS, share_bad: float = 0.4
) -> list[UserRow]:
    return [
        UserRow(answered=answered(rng, things, share_bad), user=f"u{rng.random()}")
        for _ in range(number)
    ]


SIGNALS = fit_signals([answered(random.Random(each)) for each in range(300)])


def look(rows: list[UserRow], before: State = NEW, day: int = 0, **settings: int) -> Look:
    given = replace(SETTINGS, **settings)
    return look_at(rows, SIGNALS, before, given, since=START, end=START + (day + 1) * DAY)


def test_the_first_window_is_the_reference_and_the_next_ones_are_compared() -> None:
    rng = random.Random(1)
    first = look(traffic(rng))
    assert first.state.reference is not None
    assert (first.state.reference.end, first.state.num_looks) == (START + DAY, 0)
    second = look(traffic(rng), first.state, 1)
    assert second.state.num_looks == 1
    assert set(second.parts) == set(SIGNALS)
    assert second.state.reference is first.state.reference


def test_a_window_that_overlaps_with_the_reference_is_not_compared() -> None:
    rng = random.Random(2)
    settings = replace(SETTINGS, window=3 * DAY)
    state, compared = NEW, []
    for day in range(8):
        found = look_at(
            traffic(rng), SIGNALS, state, settings, since=START, end=START + (day + 1) * DAY
        )
        state = found.state
        compared.append(bool(found.parts))
    assert state.reference is not None
    assert state.reference.end == START + 3 * DAY
    assert compared == [False] * 5 + [True] * 3


def test_windows_with_too_few_users_wait_however_many_answers_they_have() -> None:
    rng = random.Random(3)
    few = [replace(row, user=f"u{number % 49}") for number, row in enumerate(traffic(rng, 2000))]
    waiting = look(few)
    assert waiting.state.reference is None
    assert (waiting.state.num_users, waiting.state.num_answers) == (49, 2000)
    first = look(traffic(rng), waiting.state, 1).state
    assert first.reference is not None
    assert look(few, first, 2).parts == {}


def test_quiet_traffic_and_one_loud_user_cause_no_alarm() -> None:
    rng = random.Random(3)
    state = NEW
    for day in range(30):
        loud = [UserRow(answered=answered(rng, NEW_THINGS, 1.0), user="loud")] * 50
        state = look(traffic(rng) + loud * (day > 0), state, day).state
    assert (state.changes, state.num_looks) == ((), 29)


def test_heavy_users_who_write_otherwise_cause_no_alarm() -> None:
    rng = random.Random(4)
    state = NEW
    for day in range(20):
        rows = traffic(rng, 180)
        for user in range(20):
            rows += [
                UserRow(answered=answered(rng, NEW_THINGS, 0.9), user=f"heavy {user}")
                for _ in range(27)
            ]
        state = look(rows, state, day).state
    assert (state.changes, state.num_looks) == ((), 19)


def conversation(rng: random.Random, user: str) -> list[UserRow]:
    """Return the answers to one to eight turns; each request holds all turns so far."""
    messages: list[dict[str, str]] = []
    rows = []
    for _ in range(rng.randint(1, 8)):
        told = answered(rng)
        messages.append({"role": "user", "content": told.prompt or ""})
        row = Exchange(
            id="id",
            time=START,
            endpoint="copy",
            version=1,
            sha256="",
            request={"messages": list(messages)},
            answer={"choices": [{"message": {"content": told.answer}}]},
            latency_seconds=0.1,
            user=user,
        )
        rows.append(read_exchange(row))
        messages.append({"role": "assistant", "content": told.answer or ""})
    return rows


def test_conversations_of_several_turns_cause_no_alarm() -> None:
    rng = random.Random(5)
    state = NEW
    for day in range(15):
        rows = [row for number in range(150) for row in conversation(rng, f"u{day}-{number}")]
        found = look(rows, state, day)
        state = found.state
    assert state.changes == ()
    # The last text alone is measured, so a turn is as long as a request without history.
    single = look(traffic(rng), state, 15)
    assert single.state.changes == ()


def test_a_season_within_the_window_causes_no_alarm() -> None:
    rng = random.Random(6)
    settings = replace(SETTINGS, window=7 * DAY)
    days = [traffic(rng, 40, THINGS, 0.8 if day % 7 > 4 else 0.2) for day in range(50)]
    state = NEW
    for day in range(50):
        rows = [row for each in days[max(0, day - 6) : day + 1] for row in each]
        state = look_at(
            rows, SIGNALS, state, settings, since=START, end=START + (day + 1) * DAY
        ).state
    assert state.num_looks == 37
    assert state.changes == ()


@pytest.mark.parametrize(
    ("things", "share_bad", "signal"),
    [(NEW_THINGS, 0.4, "Vocabulary"), (THINGS, 0.9, "Labels/bad"), (THINGS, 0.0, "Labels/bad")],
)
def test_a_change_is_found_when_it_begins_and_ends_when_it_ends(
    things: list[str], share_bad: float, signal: str
) -> None:
    rng = random.Random(5)
    state = NEW
    for day in range(20):
        now = traffic(rng, 400, things, share_bad) if 8 <= day < 11 else traffic(rng, 400)
        state = look(now, state, day).state
        assert bool(state.drifted) == (8 <= day < 11)
    change = next(each for each in state.changes if each.part == signal)
    assert (change.since, change.until) == (START + 9 * DAY, START + 12 * DAY)
    assert change.is_higher == (share_bad >= 0.4)


def test_errors_and_thumbs_down_are_compared_with_those_of_the_first_window() -> None:
    rng = random.Random(6)
    failed = Answered(prompt="a red coat", answer=None, is_error=True, is_down=True)

    def rows(share: float) -> list[UserRow]:
        return [
            replace(row, answered=failed) if rng.random() < share else row
            for row in traffic(rng, 400)
        ]

    state = NEW
    for day in range(12):
        state = look(rows(0.08), state, day).state
    assert state.changes == ()
    state = look(rows(0.3), state, 12).state
    assert {"Errors", "ThumbsDown"} <= set(state.drifted)


def test_the_smallest_change_that_is_found_falls_with_the_users() -> None:
    rng = random.Random(7)
    smallest = []
    for number in (60, 2000):
        first = look(traffic(rng, number)).state
        smallest.append(look(traffic(rng, number), first, 1).state.smallest["Labels/bad"])
    assert smallest[0] > 0.25 > 0.15 > smallest[1]


def test_a_signal_that_applies_to_few_users_of_the_reference_is_left_out() -> None:
    rng = random.Random(9)
    silent = [
        replace(row, answered=replace(row.answered, answer=None)) if number else row
        for number, row in enumerate(traffic(rng))
    ]
    found = look(traffic(rng), look(silent).state, 1)
    assert found.left_out["Refusals"] == 1
    assert "Refusals" not in found.parts
    assert "Errors" in found.parts


def test_a_signal_that_applies_to_nobody_now_has_no_evidence() -> None:
    rng = random.Random(10)
    silent = [replace(row, answered=replace(row.answered, answer=None)) for row in traffic(rng)]
    part = look(silent, look(traffic(rng)).state, 1).parts["Refusals"]
    assert (len(part.now), part.log_e, part.smallest) == (0, 0.0, 1.0)


def test_a_change_ends_where_nobody_is_left_to_whom_it_applies() -> None:
    rng = random.Random(12)
    drifted = look(traffic(rng, 400, share_bad=1.0), look(traffic(rng, 400)).state, 1).state
    assert "Labels/bad" in drifted.open
    silent = [replace(row, answered=replace(row.answered, answer=None)) for row in traffic(rng)]
    assert "Labels/bad" not in look(silent, drifted, 2).state.open


def test_a_look_without_comparison_is_none_and_ends_changes() -> None:
    rng = random.Random(13)
    drifted = look(traffic(rng, 400, NEW_THINGS), look(traffic(rng, 400)).state, 1).state
    assert "Vocabulary" in drifted.open
    few = look(traffic(rng, 49), drifted, 2).state
    assert (few.open, few.num_looks, few.log_e) == ({}, 1, {})
    assert few.changes[0].until == START + 3 * DAY
    assert "Vocabulary" in few.note
    assert look(traffic(rng, 400), few, 3).state.num_looks == 2


def test_a_change_of_a_part_that_is_no_longer_watched_ends() -> None:
    rng = random.Random(14)
    drifted = look(traffic(rng, 400, NEW_THINGS), look(traffic(rng, 400)).state, 1).state
    others = {name: each for name, each in SIGNALS.items() if name != "Vocabulary"}
    rows = traffic(rng, 400, NEW_THINGS)
    found = look_at(rows, others, drifted, SETTINGS, since=START, end=START + 3 * DAY)
    assert "Vocabulary" not in found.state.drifted


def test_a_look_whose_signals_are_all_left_out_has_compared_nothing() -> None:
    rng = random.Random(15)
    silent = [replace(row, answered=replace(row.answered, answer=None)) for row in traffic(rng)]
    first = look(silent).state
    signals = {"Refusals": SIGNALS["Refusals"]}
    found = look_at(traffic(rng), signals, first, SETTINGS, since=START, end=START + 2 * DAY)
    assert (found.state.num_looks, found.left_out) == (0, {"Refusals": 0})
    assert "Refusals" in found.state.note


def test_a_look_that_is_not_counted_for_is_refused() -> None:
    rng = random.Random(11)
    first = look(traffic(rng)).state
    with pytest.raises(ValueError, match=r"monitor\.every"):
        look(traffic(rng), first, 0)


def test_the_state_at_rest_is_what_it_was() -> None:
    rng = random.Random(17)
    first = look(traffic(rng, 600)).state
    drifted = look(traffic(rng, 2000, NEW_THINGS), first, 1).state
    assert drifted.open
    for each in (NEW, first, drifted):
        data = write_state(each)
        assert write_state(parse_state(data)) == data
        assert parse_state(data).drifted == each.drifted


def test_only_the_last_changes_are_kept() -> None:
    rng = random.Random(19)
    state = NEW
    for day in range(3 * NUM_CHANGES_KEPT):
        things = NEW_THINGS if day % 2 else THINGS
        state = look(traffic(rng, 400, things, 0.4), state, day).state
    assert len(state.changes) == NUM_CHANGES_KEPT


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"reference": "a"}'])
def test_a_state_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="Delete it"):
        parse_state(data)
