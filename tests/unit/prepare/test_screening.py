"""Row steps see each row once and in order; what they met adds up in whatever pieces rows come."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_trainer.data.rows import (
    Example,
    RowError,
    make_example,
    refuse_row,
    replace_row,
)
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.checks.screening import Judgement, Removal, Screening, Tally


def pair(prompt: str, answer: str, *, group: str | None = None) -> Example:
    row = {"prompt": prompt, "completion": answer}
    return make_example(row, file="rows.jsonl", line=3, side=None, group_value=group)


@dataclass(frozen=True)
class Strict:
    """Refuses, removes or changes rows by words in their answers."""

    def judge(self, example: Example) -> Judgement:
        answer = example.row["completion"]
        counts = {"words": len(answer.split())}
        if "bad" in answer:
            verdict: Example | RowError | Removal = refuse_row(example, "Bad", "it is bad")
        elif "drop" in answer:
            verdict = Removal(reason="dropped")
        elif "secret" in answer:
            row = {**example.row, "completion": answer.replace("secret", "[SECRET]")}
            verdict = replace_row(example, row)
        else:
            verdict = example
        return Judgement(verdict=verdict, counts=counts)

    def summarise(self, tally: Tally) -> Sequence[Finding]:
        return [
            Finding(
                name="strict",
                num_flagged=tally.num_changed,
                num_removed=tally.removed.total(),
                message=f"{tally.counts['words']} words",
            )
        ]


ROWS = [pair(f"q{n}", answer) for n, answer in enumerate(["a b", "bad", "drop it", "my secret"])]


def test_a_row_is_kept_changed_refused_or_removed() -> None:
    screening = Screening([Strict()])
    kept, refused, removed, changed = [screening.screen(row) for row in ROWS]
    assert kept is ROWS[0]
    assert isinstance(refused, RowError)
    assert (refused.file, refused.line, refused.reason) == ("rows.jsonl", 3, "Bad")
    assert removed is None
    assert isinstance(changed, Example)
    assert changed.row["completion"] == "my [SECRET]"
    assert screening.summarise() == [
        Finding(name="strict", num_flagged=1, num_removed=1, message="7 words")
    ]


def test_a_later_step_sees_what_an_earlier_one_left() -> None:
    screening = Screening([Strict(), Strict()])
    for row in ROWS:
        screening.screen(row)
    first, second = screening.tallies
    assert (first.num_rows, first.num_changed, first.num_refused) == (4, 1, 1)
    assert (second.num_rows, second.num_changed, second.num_refused) == (2, 0, 0)


@pytest.mark.parametrize("at", range(len(ROWS) + 1))
def test_pieces_add_up_to_the_whole(at: int) -> None:
    whole = Screening([Strict()])
    parts = Screening([Strict()])
    other = pickle.loads(pickle.dumps(Screening([Strict()])))
    for number, row in enumerate(ROWS):
        whole.screen(row)
        (parts if number < at else other).screen(row)
    parts.add_tallies(other.tallies)
    assert parts.tallies == whole.tallies


@pytest.mark.parametrize("group", [None, "customer 7"])
def test_a_changed_row_has_the_digests_of_what_it_became(group: str | None) -> None:
    row: dict[str, Any] = {"prompt": "from [EMAIL]", "completion": "yes"}
    changed = replace_row(pair("from a@b.example", "yes", group=group), row)
    expected = make_example(row, file="rows.jsonl", line=3, side=None, group_value=group)
    assert changed == expected
