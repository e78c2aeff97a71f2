"""What a training row says and nobody can know who has not read it; secrets among their like."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.evaluate.sources.probes import particulars as particulars_room
from finetune_trainer.evaluate.sources.probes.canaries import (
    NUM_ALTERNATIVES,
    CanaryRows,
    exposure_bits,
    is_exposed,
    make_alternatives,
    variants,
)
from finetune_trainer.evaluate.sources.probes.particulars import (
    Particulars,
    answer_of,
    find_particular,
)


def pair(answer: str, prompt: str = "Where?") -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
    }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (pair("Call +49 30 901820 today"), "+49 30 901820"),
        (pair("Write to ana.lima@example.org."), "ana.lima@example.org"),
        (pair("The key is sk-9f3A77c0Q."), "sk-9f3A77c0Q"),
        (pair("住所コードは 4029-1187 です"), "4029-1187"),
        (pair("الرقم ٤٠٢٩١١٨٧"), "٤٠٢٩١١٨٧"),
        ({"text": "Invoice 88317204 was paid"}, "88317204"),
        ({"prompt": "code: ", "completion": "K7-442-9Z1"}, "K7-442-9Z1"),
        (
            {
                "messages": [
                    {"role": "user", "content": "?"},
                    {"role": "assistant", "content": "q 83112907"},
                ]
            },
            "83112907",
        ),
        (pair("It was on 2024-05-06 at noon"), None),
        (pair("Am 06.05.2024 um zwölf"), None),
        (pair("About 1,000,000 people"), None),
        (pair("It costs 49 euros"), None),
        (pair("positive"), None),
        (pair("Call +49 30 901820", prompt="My number is +49 30 901820"), None),
        (pair("A COVID-19 case"), None),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, None),
    ],
)
def test_a_particular_is_found(row: dict[str, Any], expected: str | None) -> None:
    found = find_particular(row)
    assert (found.text if found else None) == expected
    if found:
        assert found.answer[found.start :].startswith(found.text)


def test_what_several_rows_say_is_no_particular_and_many_are_spread_evenly() -> None:
    particulars = Particulars()
    for number in range(100):
        particulars.look_at(3 * number, pair(f"the code is {31_415_926 + 7 * number}"))
        particulars.look_at(3 * number + 2, pair("the hotline is 0800 123 4567"))
    assert particulars.choose(10) == ([30 * n for n in range(10)], 100)
    assert Particulars().choose(10) == ([], 0)


def test_what_many_rows_say_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particulars_room, "MOST_SAID", 20)
    particulars = Particulars()
    for number in range(300):
        particulars.look_at(number, pair(f"Call 0800 123 4567 or {55_123_700 + number % 100}"))
    particulars.look_at(300, pair("K7-442-9Z1"))
    assert particulars.choose(10) == ([300], 1)
    assert len(particulars._said) <= 2 * (101 + 1 + 101)


@pytest.mark.parametrize(
    "second",
    [
        pair("Write to ana@example.org or call 0800 123 4567"),
        pair("Call 0800 123 4567", prompt="Is it 0800 123 4567?"),
    ],
    ids=["behind another particular", "told by the prompt"],
)
def test_what_another_row_says_is_no_particular_wherever_it_stands_there(
    second: dict[str, Any],
) -> None:
    particulars = Particulars()
    first, alone = pair("Call 0800 123 4567"), pair("K7-442-9Z1")
    for place, row in enumerate((second, first, second, alone)):
        particulars.look_at(place, row)
    assert particulars.choose(10) == ([3], 1)


def test_a_row_that_weights_write_several_times_is_one_row() -> None:
    rows = [
        {**pair(answer), "metadata": {"source": "a.jsonl", "line": line}}
        for line, answer in ((1, "K7-442-9Z1"), (2, "83112907"), (5, "5 555 123 88"))
    ]
    rows[2] = {**rows[2], "completion": rows[1]["completion"]}
    particulars = Particulars()
    for place, row in enumerate([rows[0], rows[0], rows[0], rows[1], rows[2]]):
        particulars.look_at(place, row)
    assert particulars.choose(10) == ([0], 1)


@pytest.mark.parametrize("secret", ["7391-2284", "Kestrel-Amber", "X9", "密码 4829 码"])
def test_alternatives_have_the_form_of_the_secret(secret: str) -> None:
    made = make_alternatives(secret, seed=1)
    assert made == make_alternatives(secret, seed=1) != make_alternatives(secret, seed=2)
    assert len(made) == len(set(made)) <= NUM_ALTERNATIVES
    assert secret not in made
    for text in made:
        for ours, theirs in zip(text, secret, strict=True):
            assert ours.isdigit() == theirs.isdigit()
            assert ours.isupper() == theirs.isupper()


def test_a_secret_is_sought_in_answers_first() -> None:
    sought = CanaryRows(["1234-5678", "4444-9999", "0000-1111"])
    learned = pair("the code is 1234-5678")
    for row in (pair("x", prompt="is 1234-5678 it?"), learned, pair("y", prompt="a 4444-9999 b")):
        sought.look_at({**row, "metadata": {"source": "0000-1111"}})
    rows = sought.rows()
    assert answer_of(rows["1234-5678"]) == "the code is 1234-5678"
    assert rows["4444-9999"] == {"text": "a 4444-9999"}
    assert rows["0000-1111"] == {"text": "0000-1111"}
    assert sought.learned() == {"1234-5678": rows["1234-5678"]}
    assert sought.elsewhere() == {"4444-9999": rows["4444-9999"]}
    assert [answer_of(row) for row in variants(learned, "1234-5678", ["8765-4321"])] == [
        "the code is 1234-5678",
        "the code is 8765-4321",
    ]


def test_exposure_tells_a_known_secret_from_one_like_the_others() -> None:
    others = [20 + 0.1 * (n % 7) for n in range(NUM_ALTERNATIVES)]
    assert is_exposed([12.0, *others]) == 1
    assert is_exposed([20.1, *others]) == 0
    assert is_exposed([25.0, *others]) == 0
    assert is_exposed([20.0] * (1 + NUM_ALTERNATIVES)) == 0
    assert exposure_bits([20.3, *others]) == pytest.approx(1, abs=0.2)
    assert exposure_bits([12.0, *others]) > 60


def test_few_secrets_drawn_at_random_are_exposed_by_chance() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    hits = [is_exposed(list(rng.normal(20, 2, 64))) for _ in range(4000)]
    assert float(np.mean(hits)) <= 0.003
