"""Captured rows: whose they are, and what is watched of them."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_trainer.monitor.signals import Answered, Signal
from finetune_trainer.monitor.users import Tally, UserRow, read_exchange, texts_of_user
from finetune_trainer.traffic.rows import Exchange


def exchange(prompt: str, answer: str = "yes", **fields: Any) -> Exchange:
    return Exchange(
        id="id",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        endpoint="copy",
        version=1,
        sha256="",
        request={"messages": [{"role": "user", "content": prompt}]},
        answer={"choices": [{"message": {"role": "assistant", "content": answer}}]},
        latency_seconds=0.1,
        **fields,
    )


def test_without_a_user_a_conversation_counts_once() -> None:
    first, again = exchange("hello", sender="key"), exchange("hello", sender="key")
    other, elsewhere = exchange("good day", sender="key"), exchange("hello", sender="other")
    named = exchange("hello", sender="key", user="u1")
    users = [read_exchange(row).user for row in (first, again, other, elsewhere, named)]
    assert users[0] == users[1]
    assert len(set(users)) == 4
    assert users[4] == "u1"


def test_what_a_user_wrote_is_the_prompt() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
        {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "image_url"}]},
        {"role": "user", "content": None},
    ]
    assert texts_of_user(messages) == ["hello", "and"]


def test_only_the_last_text_of_a_user_is_watched() -> None:
    row = exchange("hello")
    row.request["messages"] += [
        {"role": "assistant", "content": "good day"},
        {"role": "user", "content": "a coat"},
    ]
    assert read_exchange(row).answered.prompt == "a coat"


def test_an_error_and_a_call_of_tools_have_no_answer() -> None:
    assert read_exchange(exchange("hello")).answered == Answered(prompt="hello", answer="yes")
    broken = read_exchange(exchange("hello", is_error=True)).answered
    assert broken == Answered(prompt="hello", answer=None, is_error=True)
    assert read_exchange(exchange("hello", answer="")).answered.answer is None


ASKED = Signal(name="Asked", measure=lambda a: float(a.prompt) if a.prompt else None, tolerance=0.0)


def of(user: str, number: float | None, identity: str = "") -> UserRow:
    prompt = "" if number is None else str(number)
    return UserRow(answered=Answered(prompt=prompt, answer=None), user=user, id=identity)


def tally(rows: list[UserRow], **limits: int) -> Tally:
    found = Tally([ASKED], **limits)
    for row in rows:
        found.add(row)
    return found


def many(number: int, num_users: int) -> list[UserRow]:
    rng = random.Random(number)
    return [
        of(f"u{rng.randrange(num_users)}", rng.randrange(20) / 20, f"{each:05}")
        for each in range(number)
    ]


def test_a_user_counts_once_however_much_it_sends() -> None:
    rows = [of("a", 0.0), of("b", 1.0), *[of("loud", 0.5)] * 1000, of("b", 0.0), of("c", None)]
    assert sorted(tally(rows).numbers()["Asked"].tolist()) == [0.0, 0.5, 0.5]
    assert len(tally([of("c", None)]).numbers()["Asked"]) == 0


def test_numbers_are_the_means_of_the_rows_of_each_user() -> None:
    rows = many(3000, 400)
    by_user: dict[str, list[float]] = {}
    for row in rows:
        by_user.setdefault(row.user, []).append(float(row.answered.prompt or 0))
    means = [sum(numbers) / len(numbers) for numbers in by_user.values()]
    found = sorted(tally(rows, max_users=400).numbers()["Asked"])
    assert found == pytest.approx(sorted(means))


def test_the_order_of_users_depends_on_nothing_that_they_do() -> None:
    rows = many(300, 40)
    numbers = tally(rows).numbers()["Asked"]
    assert numbers.tolist() == pytest.approx(tally(rows[::-1]).numbers()["Asked"].tolist())
    assert numbers.tolist() != sorted(numbers)


def test_of_too_many_users_random_ones_count_with_all_their_rows() -> None:
    rows = many(6000, 900)
    whole, some = tally(rows), tally(rows, max_users=100)
    numbers = some.numbers()["Asked"]
    assert len(numbers) == 100
    assert some.num_rows == 6000
    # Each of these users has the mean that it has among all, whatever came first.
    assert set(numbers.round(9)) <= set(whole.numbers()["Asked"].round(9))
    again = tally(rows[::-1], max_users=100).numbers()["Asked"]
    assert sorted(again.round(9)) == sorted(numbers.round(9))
    assert abs(numbers.mean() - whole.numbers()["Asked"].mean()) < 0.05


@pytest.mark.parametrize("is_higher", [True, False])
def test_examples_are_the_most_extreme_rows_of_as_many_users(is_higher: bool) -> None:
    rows = [*many(3000, 50), of("nobody", None)]
    ids: dict[str, str] = {}
    sign = -1 if is_higher else 1
    measured = [row for row in rows if row.answered.prompt]
    for row in sorted(measured, key=lambda row: (sign * float(row.answered.prompt or 0), row.id)):
        ids.setdefault(row.user, row.id)
    found = tally(rows, num_examples=5).examples_of("Asked", is_higher=is_higher)
    assert found == tuple(ids.values())[:5]


def test_memory_does_not_grow_with_rows_or_users() -> None:
    def peak(number: int) -> int:
        found = Tally([ASKED], max_users=200, num_examples=5)
        tracemalloc.start()
        for each in range(number):
            found.add(of(f"user {each}", 0.5, str(each)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(8000) < 1.2 * peak(2000)
