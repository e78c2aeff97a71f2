"""What is said to differ between two data sets is what differs."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.difference import NUM_PLACES, Contents, Difference, Place, compare

Row = tuple[str, str, str]
"""Prompt, answer and side."""


def contents(rows: list[Row], file: str = "a.jsonl") -> Contents:
    gathered = Contents()
    for line, (prompt, answer, side) in enumerate(rows, start=1):
        row = {"prompt": prompt, "completion": answer, "metadata": {"line": line}}
        gathered.add(row, side=side, place=Place(file=file, line=line), label=answer)
    return gathered


def differ(before: list[Row], after: list[Row]) -> Difference:
    return compare(contents(before), contents(after, "b.jsonl"))


rows = st.lists(
    st.tuples(st.sampled_from("pqrs"), st.sampled_from("abc"), st.sampled_from(["train", "test"])),
    max_size=30,
)


@pytest.mark.slow
@given(rows, rows)
def test_counts_add_up(before: list[Row], after: list[Row]) -> None:
    found = differ(before, after)
    kept_before = len(before) - found.num_removed - found.num_changed
    kept_after = len(after) - found.num_added - found.num_changed
    same = (Counter(r[:2] for r in before) & Counter(r[:2] for r in after)).total()
    assert kept_before == kept_after == same
    assert 0 <= found.num_moved <= same


@pytest.mark.slow
@given(rows, st.randoms())
def test_order_and_metadata_do_not_matter(before: list[Row], random: object) -> None:
    after = list(before)
    random.shuffle(after)  # type: ignore[attr-defined]
    found = differ(before, after)
    assert found.is_empty
    assert found.labels == {}


@pytest.mark.slow
@given(rows, rows)
def test_the_other_way_round_is_the_mirror_image(before: list[Row], after: list[Row]) -> None:
    there, back = differ(before, after), differ(after, before)
    assert (there.num_added, there.num_removed) == (back.num_removed, back.num_added)
    assert (there.num_changed, there.num_moved) == (back.num_changed, back.num_moved)
    assert {k: v[::-1] for k, v in there.labels.items()} == dict(back.labels)


def test_another_answer_is_a_change_and_another_side_a_move() -> None:
    before = [("p", "a", "train"), ("q", "a", "train"), ("r", "a", "train")]
    after = [("p", "b", "train"), ("q", "a", "test"), ("s", "c", "train")]
    found = differ(before, after)
    assert found.changed == ((Place(file="a.jsonl", line=1), Place(file="b.jsonl", line=1)),)
    assert (found.num_added, found.num_removed, found.num_moved) == (1, 1, 1)
    assert list(found.labels) == ["a", "b", "c"]
    assert json.dumps(found.to_wire())


def test_only_some_places_of_many_are_named() -> None:
    found = differ([], [(f"p{n}", "a", "") for n in range(100)])
    assert found.num_added == 100
    assert len(found.added) == NUM_PLACES
