"""One person's feedback: a share of the answers at most, and more where few people give any."""

from __future__ import annotations

from collections import Counter

import pytest

from finetune_trainer.prepare.reading.people import ALWAYS_TAKEN, limit_people


def authors(**numbers: int) -> dict[str, str]:
    who = [name for name, number in numbers.items() for _ in range(number)]
    return {f"{place:06}": name for place, name in enumerate(who)}


def kept(given: dict[str, str], percent: int = 20) -> Counter[str]:
    left_out = limit_people(given, percent).left_out
    return Counter(name for response_id, name in given.items() if response_id not in left_out)


def test_one_of_many_people_gives_a_fifth_of_the_answers_at_most() -> None:
    others = {f"p{number}": 100 for number in range(10)}
    taken = kept(authors(**others, loud=5000))
    assert taken == {**others, "loud": 250}
    assert taken["loud"] / taken.total() == pytest.approx(0.2)
    more = {f"p{number}": 100 for number in range(40)}
    assert kept(authors(**more, loud=5000), 10)["loud"] == 444


def test_the_first_answers_of_who_says_too_much_stay() -> None:
    given = authors(**{f"p{number}": 100 for number in range(10)}, loud=5000)
    of_loud = [each for each, name in given.items() if name == "loud"]
    assert limit_people(given).left_out == set(of_loud[250:])


@pytest.mark.parametrize(
    ("numbers", "most"),
    [
        ({"a": 5000}, 5000),
        ({"a": 5000, "b": 400}, 800),
        ({"a": 5000, "b": 400, "c": 200}, 600),
        ({"a": 5000, "b": 3}, ALWAYS_TAKEN),
        ({"a": 100, "b": 1, "c": 1}, 100),
    ],
)
def test_few_people_may_each_give_more(numbers: dict[str, int], most: int) -> None:
    taken = kept(authors(**numbers))
    assert taken["a"] == pytest.approx(most, abs=4)
    assert all(taken[name] == numbers[name] for name in numbers if name != "a")


def test_it_is_told_who_gave_how_much() -> None:
    assert limit_people({}).message == "nobody has given feedback"
    assert "one person has given the feedback on all 7" in limit_people(authors(a=7)).message
    message = limit_people(authors(a=5000, b=3)).message
    assert "2 people have given feedback on 5003 answers, one of them on 5000" in message
    assert "left out 4900 answers, so that at most 100 are of one person" in message
    assert "left out" not in limit_people(authors(a=5, b=3)).message
