"""Rows of an anchor stay as they are, and no other row comes near them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.rows import Example, Side, make_example, open_sealed, replace_group
from finetune_trainer.prepare.duplicates.comparing import Compared, compare_rows
from finetune_trainer.prepare.rows.spool import LOOSE, SIDES, RowKeys, Spool, pack_rows
from finetune_trainer.prepare.splits.dividing import divide_rows

Row = tuple[str, str]


def filler(number: int, *, seed: int = 5) -> list[Row]:
    rng = random.Random(seed)

    def words() -> str:
        return " ".join("".join(rng.choices("bcdfgklmnprstaeiou", k=7)) for _ in range(6))

    return [(f"please tell me about {words()}", f"it is {words()}") for _ in range(number)]


def example(line: int, row: Row, *, side: Side | None = None, user: str | None = None) -> Example:
    canonical = {"prompt": row[0], "completion": row[1]}
    return make_example(canonical, file="a", line=line, side=side, group_value=user)


def seal(examples: Sequence[Example]) -> list[Example]:
    """Return examples as a later job reads them from a prepared test side."""
    return [
        open_sealed(
            {
                **each.row,
                "metadata": {"source": each.file, "line": each.line, "group": each.group[:16]},
            }
        )
        for each in examples
    ]


def compare(examples: Sequence[Example], sealed: Sequence[Example], **settings: Any) -> Compared:
    dataset = Dataset.model_validate({"sources": [{"uri": "s3://b/x.jsonl"}], **settings})
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "rows.jsonl") as spool:
        spool.add(pack_rows(examples))
        sealed_from = len(spool)
        spool.add(pack_rows(seal(sealed)))
        return compare_rows(spool, dataset, sealed_from=sealed_from)


def removed(compared: Compared) -> list[tuple[str, int, int]]:
    return [(row["check"], row["line"], row["otherLine"]) for row in compared.removed_rows()]


def lines_left(compared: Compared) -> list[int]:
    left: list[int] = compared.marks.lines[compared.keys.positions].tolist()
    return left


@pytest.mark.parametrize("side", [None, *Side])
@pytest.mark.parametrize(
    "duplicates",
    [{}, {"exact": "Keep", "near": "Keep", "leaked": "Report"}, {"near": "Drop"}],
    ids=["as is", "keep all", "drop near"],
)
def test_rows_equal_or_near_to_a_sealed_one_are_left_out_whatever_is_set(
    side: Side | None, duplicates: dict[str, str]
) -> None:
    rows = filler(40)
    sealed = [example(n, row) for n, row in enumerate(rows[:10], start=101)]
    copy, correction, near = (
        rows[0],
        (rows[1][0].upper(), "corrected"),
        (rows[2][0] + " thanks", ""),
    )
    close = [copy, correction, (near[0], rows[2][1])]
    examples = [example(n, row, side=side) for n, row in enumerate([*rows[10:], *close], start=1)]
    compared = compare(examples, sealed, duplicates=duplicates)
    assert removed(compared) == [("sealedRows", 31 + n, 101 + n) for n in range(3)]
    assert lines_left(compared) == [*range(1, 31), *range(101, 111)]
    finding = next(each for each in compared.findings if each.name == "sealedRows")
    assert finding.num_removed == 3
    assert finding.counts == {"otherAnswers": 1}
    assert "the sealed answer counts" in finding.message


THINGS = (
    *("printer", "invoice", "router", "parcel", "password", "heating", "contract", "refund"),
    *("camera", "licence", "backup", "server", "meeting", "table", "window", "engine", "booking"),
    *("ticket", "pump", "filter"),
)
PLACES = (
    *("Berlin", "Lyon", "Oslo", "Turin", "Ghent", "Porto", "Krakow", "Leeds", "Bergen", "Malaga"),
)
KINDS = ("old", "new", "red", "broken", "small", "heavy", "rented", "second", "french", "cheap")
EVENTS = (
    *("stopped", "works", "fails", "leaks", "arrived", "changed", "vanished", "overheats"),
    *("blinks", "freezes"),
)
TIMES = (
    *("yesterday", "today", "last", "week", "since Monday", "in March", "after the update"),
    *("before noon", "at night", "twice", "always"),
)


def tickets(number: int) -> list[Row]:
    """Return labelled rows of one template, as a support desk has them."""
    rng = random.Random(12)
    return [
        (
            f"The customer from {rng.choice(PLACES)} says the {rng.choice(KINDS)} "
            f"{rng.choice(THINGS)} model {rng.randrange(100, 999)} {rng.choice(EVENTS)} "
            f"{rng.choice(TIMES)} and the {rng.choice(KINDS)} {rng.choice(THINGS)} "
            f"{rng.choice(EVENTS)} too, and wants help with order {rng.randrange(10**5, 10**6)}.",
            rng.choice(("billing", "technical", "shipping")),
        )
        for _ in range(number)
    ]


def reword(text: str) -> str:
    for old, new in (
        *(("customer", "client"), ("says", "states"), ("wants", "would like"), ("help", "aid")),
        *(("old", "aged"), ("small", "tiny"), ("broken", "defective"), ("stopped", "quit")),
    ):
        text = text.replace(f" {old} ", f" {new} ")
    return text


def turn_round(text: str) -> str:
    start, order = text.rstrip(".").split(" and wants help with order ")
    return f"Order {order}: {start.replace(' says the ', ' tells us that their ')} Please advise."


AGAIN = {
    "greeting and thanks": lambda text: f"Hello team, good morning. {text} Thank you, Anna",
    "other words": reword,
    "turned round": turn_round,
    "without its last clause": lambda text: text.split(" and wants help")[0],
    "another order number": lambda text: text[:-3] + "77.",
    "markup": lambda text: f"<p>{text}</p>",
    "after another text": lambda text: f"We got this letter in the post this week: {text}",
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=list(AGAIN))
@pytest.mark.parametrize("label", ["same", "other"])
def test_a_sealed_question_that_is_asked_again_in_other_words_is_left_out(
    again: Callable[[str], str], label: str
) -> None:
    rows = tickets(600)
    sealed = [example(n, row) for n, row in enumerate(rows[:40], start=1001)]
    asked = [(again(text), answer if label == "same" else "escalate") for text, answer in rows[:40]]
    compared = compare(
        [example(n, row) for n, row in enumerate([*asked, *rows[40:]], start=1)], sealed
    )
    out = [line for check, line, _ in removed(compared) if check == "sealedRows"]
    assert out == list(range(1, 41))


def test_another_record_or_another_short_question_on_the_subject_is_not_the_sealed_one() -> None:
    records = [
        (f"name[{name}], eatType[{kind}], food[{food}], area[{area}]", "text")
        for name in ("Aromi", "Clowns", "The Eagle", "The Punter", "Zizzi")
        for kind in ("coffee shop", "pub", "restaurant")
        for food in ("English", "Chinese", "French", "Indian")
        for area in ("riverside", "city centre")
    ]
    questions = [
        (f"{start} {what}?", "text")
        for start in ("How do I change", "Where can I see", "Who pays for", "Why was I sent")
        for what in ("my PIN", "my address", "a new card", "the transfer", "my old statement")
    ]
    rows = [*records, *questions]
    sealed = [example(n, row) for n, row in enumerate(rows[::7], start=1001)]
    rest = [row for n, row in enumerate(rows) if n % 7]
    compared = compare([example(n, row) for n, row in enumerate(rest, start=1)], sealed)
    assert not removed(compared)


def test_repeated_rows_of_an_anchor_all_stay() -> None:
    rows = filler(20)
    sealed = [example(n, rows[0]) for n in (101, 102, 103)]
    compared = compare([example(n, row) for n, row in enumerate(rows, start=1)], sealed)
    assert removed(compared) == [("sealedRows", 1, 101)]
    assert lines_left(compared) == [*range(2, 21), 101, 102, 103]


def test_max_rows_are_drawn_beside_the_anchor() -> None:
    rows = filler(40)
    sealed = [example(n, row) for n, row in enumerate(rows[:10], start=101)]
    compared = compare([example(n, row) for n, row in enumerate(rows)], sealed, maxRows=5)
    left = lines_left(compared)
    assert left[5:] == list(range(101, 111))
    assert set(left[:5]) <= set(range(10, 40))


def test_rows_of_a_held_out_user_share_his_group() -> None:
    rows = filler(30)
    sealed = [example(101, rows[0], user="ann")]
    examples = [
        example(1, rows[1], user="ann"),
        example(2, rows[2], user="bob"),
        *(example(n, row) for n, row in enumerate(rows[3:], start=3)),
    ]
    compared = compare(examples, sealed)
    groups = dict(zip(lines_left(compared), compared.keys.groups.tolist(), strict=True))
    assert groups[1] == groups[101]
    assert groups[2] != groups[101]
    assert len(set(groups.values())) == 29


def test_a_test_row_keeps_its_own_group_where_near_prompts_joined_it_to_another() -> None:
    line = f"{example(1, ('a', 'b')).to_json()}\n".encode()
    own = example(1, ("a", "b")).group[:16].encode()
    assert replace_group(line, own.decode(), keep_own=True) == line
    joined = replace_group(line, "f" * 64, keep_own=True)
    assert joined.endswith(b'"ownGroup": "' + own + b'", "group": "ffffffffffffffff"}}\n')
    assert b"ownGroup" not in replace_group(line, "f" * 64)


def test_a_sealed_row_is_read_back_as_it_was_written() -> None:
    first = replace(example(7, ("a", "b"), user="ann"), slices=(("region", "0123456789abcdef"),))
    row = {
        **first.row,
        "metadata": {
            "source": "a",
            "line": 7,
            "slices": {"region": "0123456789abcdef"},
            "ownGroup": first.group[:16],
            "group": "f" * 16,
        },
    }
    again = open_sealed(row)
    assert (again.row, again.content, again.file, again.line) == (
        first.row, first.content, "a", 7,
    )  # fmt: skip
    assert again.slices == first.slices
    assert again.group == first.group[:16] + "0" * 48
    assert '"sealed": true' in again.to_json()


def sides_by_threshold(
    groups: Sequence[bytes], *, test_percent: int = 20, validation_percent: int = 5
) -> list[int]:
    """Return the code of each group's side; the first group is bound to the test side."""
    sides = [SIDES.index(Side.TEST)] + [LOOSE] * (len(groups) - 1)
    keys = RowKeys(
        positions=np.arange(len(groups)),
        groups=np.array(groups, dtype="S32"),
        contents=np.array(groups, dtype="S32"),
        sides=np.array(sides, dtype=np.uint8),
    )
    division = divide_rows(
        keys,
        test_percent=test_percent,
        validation_percent=validation_percent,
        seed=13,
        by_threshold=True,
    )
    codes: list[int] = division.sides.tolist()
    return codes


def test_the_side_of_a_group_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(3)
    groups = [rng.bytes(31) + b"x" for _ in range(4000)]
    whole = sides_by_threshold(groups)
    assert sides_by_threshold(groups[:400]) == whole[:400]
    shares = np.bincount(whole, minlength=3) / len(whole)
    assert shares[SIDES.index(Side.TEST)] == pytest.approx(0.2, abs=0.02)
    assert shares[SIDES.index(Side.VALIDATION)] == pytest.approx(0.05, abs=0.01)


def test_a_few_new_rows_still_give_one_to_validation() -> None:
    groups = [bytes([n]) * 32 for n in range(1, 6)]
    sides = sides_by_threshold(groups, test_percent=0, validation_percent=1)
    assert sides.count(SIDES.index(Side.VALIDATION)) == 1
    assert sides.count(SIDES.index(Side.TRAIN)) == 3
