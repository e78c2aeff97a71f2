"""Columns that identify rows, tie them together or give the answer away are told from content."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from finetune_trainer.prepare.reading.columns.columns import (
    find_giveaways,
    find_group,
    is_date,
    is_identifier,
)
from finetune_trainer.prepare.reading.proposals import propose_reading

NUM_ROWS = 40

IDENTIFIERS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "a UUID": ("x", lambda n: str(uuid.UUID(int=n * 7919))),
    "a hash": ("x", lambda n: sha256(bytes([n])).hexdigest()),
    "a ticket's number": ("x", lambda n: f"TCK-{1000 + 37 * n}"),
    "a number with a mark": ("x", lambda n: f"#{1000 + 37 * n}"),
    "a number filled with zeros": ("x", lambda n: f"{37 * n:06}"),
    "row numbers": ("x", lambda n: str(n + 1)),
    "row numbers in another order": ("x", lambda n: n * 7 % NUM_ROWS),
    "numbers under a telling name": ("Ticket", lambda n: 480_000 + 37 * n),
    "numbers under a name of two words": ("orderNumber", lambda n: 480_000 + 37 * n),
    "numbers under a German name": ("Rechnungs_Kundennummer", lambda n: 480_000 + 37 * n),
    "when the row was made": ("opened", lambda n: f"2024-05-01T10:{n:02}:07Z"),
    "one value twice": ("id", lambda n: f"TCK-{max(n, 1)}"),
}
CONTENT: dict[str, tuple[str, Callable[[int], Any]]] = {
    "prices": ("price", lambda n: 12.99 + n),
    "prices with a decimal comma": ("Betrag", lambda n: f"{1000 + n},50"),
    "prices with a currency": ("amount", lambda n: f"€{12 + n}.50"),
    "amounts with a unit": ("weight", lambda n: f"{12 + 3 * n}kg"),
    "quantities": ("quantity", lambda n: 5 + 3 * n),
    "numbers to reckon with": ("number", lambda n: 17 * n),
    "times of the day": ("clock", lambda n: f"10:{n:02}"),
    "words": ("word", lambda n: "abcdefgh"[n % 8] * (n + 1)),
    "sentences with a number": ("x", lambda n: f"Order {1000 + n} is late"),
    "a column called text": ("text", lambda n: f"TCK-{1000 + n}"),
    "codes that repeat": ("sku", lambda n: f"A-{n % 9}"),
}


def rows_of(**columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{name: make(n) for name, make in columns.items()} for n in range(NUM_ROWS)]


@pytest.mark.parametrize("case", IDENTIFIERS)
def test_identifiers_are_told(case: str) -> None:
    name, make = IDENTIFIERS[case]
    assert is_identifier(name, rows_of(**{name: make}))


@pytest.mark.parametrize("case", CONTENT)
def test_amounts_texts_and_repeated_values_are_no_identifiers(case: str) -> None:
    name, make = CONTENT[case]
    assert not is_identifier(name, rows_of(**{name: make}))


def test_a_few_rows_are_no_evidence_of_an_identifier() -> None:
    rows = rows_of(x=lambda n: f"T-{n}", ticket=lambda n: f"T-{n}")
    assert not is_identifier("x", rows[:12])
    assert is_identifier("ticket", rows[:12])
    assert not is_identifier("ticket", rows[:4])


@pytest.mark.parametrize("name", ["customer", "Customer ID", "threadId", "author", "order_no"])
def test_a_repeated_identifier_of_several_rows_is_the_group(name: str) -> None:
    rows = rows_of(**{"body": lambda n: f"text {n}", name: lambda n: f"C{n % 8}"})
    assert find_group(list(rows[0]), rows) == name


def test_a_group_repeats_and_can_be_divided() -> None:
    rows = rows_of(customer=lambda n: f"C{n}", client=lambda n: f"{n % 2}", page=lambda n: n % 8)
    assert find_group(list(rows[0]), rows) is None
    rows = rows_of(thread_id=lambda n: f"T{n}", customer_id=lambda n: f"C{n % 8}")
    assert find_group(list(rows[0]), rows) == "customer_id"


def test_a_column_that_predicts_the_answer_is_a_giveaway() -> None:
    rows = rows_of(
        body=lambda n: f"text {n // 2}",
        code=lambda n: n % 3,
        often=lambda n: 9 if n == 7 else n % 3,
        channel=lambda n: n % 2,
        queue=lambda n: f"q{n % 3}",
    )
    assert find_giveaways(["body", "code", "often", "channel"], "queue", rows) == {"code": 1.0}
    assert find_giveaways(["code"], "queue", rows[:12]) == {}
    alike = [{**row, "queue": "q"} for row in rows]
    assert find_giveaways(["code", "channel"], "queue", alike) == {}


def test_a_proposed_prompt_holds_neither_identifiers_nor_giveaways() -> None:
    rows = rows_of(
        ticket=lambda n: f"TCK-{1000 + 37 * n}",
        customer=lambda n: f"C{n % 8}",
        body=lambda n: f"Where is parcel {n}?",
        amount=lambda n: f"{n},50",
        code=lambda n: n % 3,
        queue=lambda n: f"q{n % 3}",
    )
    found = propose_reading(rows, where="a.csv")
    assert (found.completion, found.group) == ("queue", "customer")
    assert found.template == "body: {{ body }}\namount: {{ amount }}"
    assert {each.name: each.why.partition(",")[0] for each in found.left_out} == {
        "ticket": "has another value in every row",
        "code": "predicts the answer in 100 % of rows",
    }


def test_dates_stay_out_of_the_prompt_of_labels_only() -> None:
    rows = rows_of(
        body=lambda n: f"Where is parcel {n}?",
        day=lambda n: f"2024-05-{n % 9 + 10}",
        code=lambda n: f"12/45/{n % 9 + 1000}",
        answer=lambda n: f"l{n % 4 > 1}",
    )
    found = propose_reading(rows, where="a.csv")
    assert [each.name for each in found.left_out] == ["day"]
    rows = [
        {**row, "answer": f"On 2024-05-{n % 9 + 10} we sent {n}."} for n, row in enumerate(rows)
    ]
    assert propose_reading(rows, where="a.csv").left_out == ()


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("2024-05-31", True),
        ("31.12.1999", True),
        ("5/31/2024 9:05 AM", True),
        ("2024-13-01", False),
        ("32/01/2024", False),
        ("12-34-5678", False),
        ("4711-01-02", False),
    ],
)
def test_a_date_has_a_month_a_day_and_a_year_of_two_centuries(value: str, is_one: bool) -> None:
    assert is_date("day", rows_of(day=lambda n: value)) is is_one


def test_a_column_stays_where_nothing_else_is_left_for_the_prompt() -> None:
    rows = rows_of(code=lambda n: f"A-{n}", label=lambda n: f"l{n % 3}")
    found = propose_reading(rows, where="a.csv")
    assert (found.prompt, found.completion, found.left_out) == ("code", "label", ())


def test_an_author_is_the_answer_where_there_is_no_other() -> None:
    rows = rows_of(passage=lambda n: f"It was day {n}.", author=lambda n: f"Author {n % 8}")
    found = propose_reading(rows, where="a.csv")
    assert (found.prompt, found.completion, found.group) == ("passage", "author", None)
