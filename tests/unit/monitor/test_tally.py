"""Users: one number each, whatever they send, and in memory that does not grow with them."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from finetune_trainer.monitor.signals import Answered, Signal
from finetune_trainer.monitor.tally import Tally
from finetune_trainer.monitor.users import UserRow

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
    assert sorted(tally(rows).numbers_of("Asked").tolist()) == [0.0, 0.5, 0.5]
    assert len(tally([of("c", None)]).numbers_of("Asked")) == 0


def test_numbers_are_the_means_of_the_rows_of_each_user() -> None:
    rows = many(3000, 400)
    by_user: dict[str, list[float]] = {}
    for row in rows:
        by_user.setdefault(row.user, []).append(float(row.answered.prompt or 0))
    means = [sum(numbers) / len(numbers) for numbers in by_user.values()]
    assert tally(rows, max_users=400).numbers_of("Asked").tolist() == pytest.approx(means)


def test_of_too_many_users_random_ones_count_with_all_their_rows() -> None:
    rows = many(6000, 900)
    whole, some = tally(rows), tally(rows, max_users=100)
    numbers = some.numbers_of("Asked")
    assert len(numbers) == 100
    assert some.num_rows == 6000
    # Each of these users has the mean that it has among all, whatever came first.
    assert set(numbers.round(9)) <= set(whole.numbers_of("Asked").round(9))
    again = tally(rows[::-1], max_users=100).numbers_of("Asked")
    assert sorted(again.round(9)) == sorted(numbers.round(9))
    assert abs(numbers.mean() - whole.numbers_of("Asked").mean()) < 0.05


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
