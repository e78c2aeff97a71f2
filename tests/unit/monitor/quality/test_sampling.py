"""Which answers people are asked about: random ones, of all weeks, and nobody chooses them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from finetune_trainer.monitor.quality.sampling import (
    JUDGED_PER_ASKED,
    WEEK,
    Drawn,
    DrawnAnswer,
    parse_drawn,
    write_drawn,
)
from finetune_trainer.monitor.signals import Answered
from finetune_trainer.monitor.users import UserRow
from finetune_trainer.traffic.places import id_time

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def rows(hour: int, number: int = 40, *, user: str = "", answer: str | None = "a") -> list[UserRow]:
    begin = START + hour * HOUR
    ids = [
        f"{id_time(begin + timedelta(seconds=each))}-{each:022}-0123456789"
        for each in range(number)
    ]
    answered = Answered(prompt="p", answer=answer)
    return [UserRow(answered=answered, user=user or each, id=each) for each in ids]


def drawn(hours: int, *, per_week: int = 30, start: Drawn | None = None) -> Drawn:
    found = start or Drawn(version=1, begin=START, until=START)
    first = int((found.until - START) / HOUR)
    for hour in range(first, first + hours):
        end = START + (hour + 1) * HOUR
        found = found.draw(rows(hour), end=end, per_week=per_week)
    return found


def test_a_week_asks_people_about_as_many_answers_as_it_may_spread_over_the_week() -> None:
    (half,) = drawn(84).weeks
    assert len(half.asked) == 15
    (whole,) = drawn(168).weeks
    assert (len(whole.asked), len(whole.others)) == (30, 30 * JUDGED_PER_ASKED)
    by_half = [each.time < START + WEEK / 2 for each in whole.asked]
    assert 8 <= sum(by_half) <= 22
    assert len({each.id for each in (*whole.asked, *whole.others)}) == 330


def test_a_loud_user_counts_once_in_a_look_and_answers_without_text_do_not() -> None:
    begin = Drawn(version=1, begin=START, until=START)
    loud = begin.draw(rows(0, 50, user="loud"), end=START + HOUR, per_week=300)
    assert len(loud.weeks[0].answers) == 1
    assert begin.draw(rows(0, answer=None), end=START + HOUR, per_week=300).weeks == ()


def test_a_user_who_asks_much_is_drawn_as_often_as_others() -> None:
    found = Drawn(version=1, begin=START, until=START)
    for hour in range(168):
        loud = rows(hour, 400, user="loud")
        found = found.draw([*rows(hour), *loud], end=START + (hour + 1) * HOUR, per_week=30)
    (week,) = found.weeks
    by_loud = [sum(each.user == "loud" for each in part) for part in (week.asked, week.others)]
    # One of 41 in each hour: the judge's answers are like those of people.
    assert by_loud[0] <= 4
    assert by_loud[1] <= 16


def test_a_user_counts_once_in_an_hour_of_several_looks() -> None:
    found = Drawn(version=1, begin=START, until=START)
    asked = rows(0, 40, user="one")
    for number in range(4):
        end = START + timedelta(seconds=10 * (number + 1))
        found = found.draw(asked[10 * number : 10 * (number + 1)], end=end, per_week=30)
    whole = Drawn(version=1, begin=START, until=START).draw(asked, end=end, per_week=30)
    assert len(found.weeks[0].answers) == 1
    assert found == whole


def test_the_first_answers_are_the_same_whatever_the_order() -> None:
    per_week = 2
    asked = [row for hour in range(3) for row in rows(hour, 200)]
    end = START + 3 * HOUR
    start = Drawn(version=1, begin=START, until=START)
    found = start.draw(asked, end=end, per_week=per_week)
    assert found == start.draw(asked[::-1], end=end, per_week=per_week)
    places = [DrawnAnswer(id=row.id, user=row.user).place for row in asked]
    most = (1 + JUDGED_PER_ASKED) * per_week
    assert [each.place for each in found.weeks[0].answers] == sorted(places)[:most]


def test_a_look_that_is_made_again_draws_nothing_twice() -> None:
    once = drawn(3)
    again = once.draw(rows(2), end=START + 3 * HOUR, per_week=30)
    assert again == once


def test_answers_stay_open_until_they_are_scored_or_a_week_has_passed_since_their_own() -> None:
    whole = drawn(168)
    assert len(whole.open) == 30
    first = whole.open[0]
    scored = whole.change(lambda each: replace(each, score=1.0) if each.id == first else each)
    assert first not in scored.open
    later = whole.draw([], end=START + 2 * WEEK - HOUR, per_week=30)
    assert later.open == whole.open
    assert whole.draw([], end=START + 2 * WEEK, per_week=30).open == []


def test_scores_of_a_week_count_when_all_are_there_or_their_time_has_passed() -> None:
    (week,) = drawn(168).weeks
    some = tuple(replace(each, score=0.0) for each in week.answers[:29])
    partly = replace(week, answers=(*some, *week.answers[29:]))
    assert not partly.counts(START + 2 * WEEK - HOUR)
    assert partly.counts(START + 2 * WEEK)
    whole = replace(week, answers=tuple(replace(each, score=0.0) for each in week.answers))
    assert whole.counts(START + WEEK)


def test_old_weeks_are_forgotten() -> None:
    found = drawn(1).draw([], end=START + 5 * WEEK, per_week=30)
    assert found.weeks == ()


def test_a_deleted_answer_makes_room_for_the_next_one() -> None:
    (week,) = drawn(168).weeks
    gone = week.asked[0].id
    found = drawn(168).change(lambda each: None if each.id == gone else each)
    assert gone not in found.open
    assert len(found.open) == 30
    assert found.open[-1] == week.others[0].id


def test_the_sample_is_read_back_as_it_was_written() -> None:
    found = drawn(20).change(lambda each: replace(each, score=0.5, judged=0.25))
    assert parse_drawn(write_drawn(found)) == found
    for broken in (b"{}", b"[]", write_drawn(found).replace(b"0.25", b"7")):
        with pytest.raises(ValueError, match="cannot be read"):
            parse_drawn(broken)
