"""The split keeps groups whole, depends on content and seed alone, and meets its shares."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from finetune_trainer.data.rows import Side
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.rows.spool import LOOSE, SIDES, RowKeys
from finetune_trainer.prepare.splits.dividing import Division, divide_rows, draw_rows

SIZES = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 9), min_size=3, max_size=60)
PERCENTS = st.tuples(st.integers(0, 60), st.integers(0, 30))
SEEDS = st.integers(0, 2**31 - 1)


@dataclass(frozen=True)
class Row:
    group: str
    content: str
    side: Side | None


def make_rows(sizes: Mapping[str, int], *, side: Side | None = None) -> list[Row]:
    return [
        Row(group=group, content=f"{group}:{n}", side=side)
        for group, size in sizes.items()
        for n in range(size)
    ]


def keys_of(rows: Sequence[Row]) -> RowKeys:
    def digests(values: Iterable[str]) -> Any:
        return np.array([hashlib.sha256(value.encode()).digest() for value in values], dtype="S32")

    return RowKeys(
        positions=np.arange(len(rows)),
        groups=digests(row.group for row in rows),
        contents=digests(row.content for row in rows),
        sides=np.array(
            [LOOSE if row.side is None else SIDES.index(row.side) for row in rows], dtype=np.uint8
        ),
    )


def divide(rows: Sequence[Row], **settings: int) -> tuple[dict[Side, list[Row]], Division]:
    division = divide_rows(keys_of(rows), **settings)
    sides: dict[Side, list[Row]] = {side: [] for side in Side}
    for position, code in zip(division.positions, division.sides, strict=True):
        sides[SIDES[code]].append(rows[position])
    return sides, division


def divide_groups(sizes: Mapping[str, int], **settings: int) -> dict[str, Side]:
    sides, _ = divide(make_rows(sizes), **settings)
    return {row.group: side for side, rows in sides.items() for row in rows}


def draw(rows: Sequence[Row], most: int, *, seed: int) -> list[Row]:
    return [rows[position] for position in draw_rows(keys_of(rows), most, seed=seed).positions]


def count_rows(sizes: Mapping[str, int], side_of: Mapping[str, Side]) -> dict[Side, int]:
    totals = dict.fromkeys(Side, 0)
    for group, size in sizes.items():
        totals[side_of[group]] += size
    return totals


@pytest.mark.slow
@given(sizes=SIZES, percents=PERCENTS, seed=SEEDS)
def test_no_group_lies_on_two_sides_and_no_row_is_lost(
    sizes: dict[str, int], percents: tuple[int, int], seed: int
) -> None:
    examples = make_rows(sizes)
    sides, division = divide(
        examples, test_percent=percents[0], validation_percent=percents[1], seed=seed
    )
    groups = {side: {e.group for e in rows} for side, rows in sides.items()}
    assert sum(len(g) for g in groups.values()) == len(sizes) == division.num_groups
    assert sorted(e.content for rows in sides.values() for e in rows) == sorted(
        e.content for e in examples
    )
    for rows in sides.values():
        positions = [examples.index(e) for e in rows]
        assert positions == sorted(positions)


@pytest.mark.slow
@given(sizes=SIZES, percents=PERCENTS, seed=SEEDS, order=SEEDS)
def test_the_order_of_rows_does_not_matter(
    sizes: dict[str, int], percents: tuple[int, int], seed: int, order: int
) -> None:
    shuffled = list(sizes.items())
    random.Random(order).shuffle(shuffled)
    first, second = (
        divide_groups(s, test_percent=percents[0], validation_percent=percents[1], seed=seed)
        for s in (sizes, dict(shuffled))
    )
    assert first == second


@given(sizes=SIZES, percents=PERCENTS, seed=SEEDS)
@example(sizes={"0": 7, "1": 3, "00": 1, "0000": 1}, percents=(30, 1), seed=1)
def test_every_side_asked_for_has_rows_and_no_other(
    sizes: dict[str, int], percents: tuple[int, int], seed: int
) -> None:
    side_of = divide_groups(
        sizes, test_percent=percents[0], validation_percent=percents[1], seed=seed
    )
    totals = count_rows(sizes, side_of)
    assert totals[Side.TRAIN] > 0
    assert (totals[Side.TEST] > 0) == (percents[0] > 0)
    assert (totals[Side.VALIDATION] > 0) == (percents[1] > 0)


@pytest.mark.slow
@given(sizes=SIZES, percents=PERCENTS, seed=SEEDS)
def test_sides_are_off_by_at_most_half_the_largest_group(
    sizes: dict[str, int], percents: tuple[int, int], seed: int
) -> None:
    side_of = divide_groups(
        sizes, test_percent=percents[0], validation_percent=percents[1], seed=seed
    )
    totals, total, largest = (
        count_rows(sizes, side_of),
        sum(sizes.values()),
        max(sizes.values()),
    )
    for side, percent in zip((Side.TEST, Side.VALIDATION), percents, strict=True):
        target = total * percent / 100
        # With too few rows for its share, a side has one group all the same.
        num_groups = sum(1 for chosen in side_of.values() if chosen is side)
        assume(num_groups != 1 or target >= largest)
        assume(sum(1 for chosen in side_of.values() if chosen is Side.TRAIN) > 1)
        assert abs(totals[side] - target) <= largest / 2


@pytest.mark.slow
@given(number=st.integers(100, 400), added=st.integers(1, 20), seed=SEEDS)
def test_added_rows_move_few_of_the_old_ones(number: int, added: int, seed: int) -> None:
    old = {f"g{n}": 1 for n in range(number)}
    new = old | {f"new{n}": 1 for n in range(added)}
    before = divide_groups(old, test_percent=20, validation_percent=5, seed=seed)
    after = divide_groups(new, test_percent=20, validation_percent=5, seed=seed)
    moved = sum(1 for group in old if before[group] is not after[group])
    assert moved <= 2 * (added + 1)


def test_single_rows_meet_the_shares_exactly() -> None:
    sizes = {f"row {n}": 1 for n in range(1000)}
    side_of = divide_groups(sizes, test_percent=20, validation_percent=5, seed=13)
    assert count_rows(sizes, side_of) == {Side.TRAIN: 750, Side.VALIDATION: 50, Side.TEST: 200}
    other = divide_groups(sizes, test_percent=20, validation_percent=5, seed=14)
    assert other != side_of


def test_a_group_larger_than_the_share_stays_in_train() -> None:
    sizes = {"huge": 500} | {f"row {n}": 1 for n in range(500)}
    for seed in range(20):
        side_of = divide_groups(sizes, test_percent=20, validation_percent=5, seed=seed)
        assert side_of["huge"] is Side.TRAIN
        assert count_rows(sizes, side_of)[Side.TEST] == 200


@pytest.mark.parametrize(
    ("num_groups", "test", "validation", "needed"), [(2, 20, 5, 3), (1, 20, 0, 2), (1, 0, 5, 2)]
)
def test_too_few_groups_say_how_many_are_needed(
    num_groups: int, test: int, validation: int, needed: int
) -> None:
    sizes = {f"g{n}": 10 for n in range(num_groups)}
    with pytest.raises(DataError) as caught:
        divide_groups(sizes, test_percent=test, validation_percent=validation, seed=13)
    assert caught.value.reason == "TooFewRows"
    assert f"at least {needed} are needed" in caught.value.message
    assert f"{num_groups * 10} rows" in caught.value.message


def test_rows_of_a_bound_source_stay_and_loose_rows_of_their_groups_follow() -> None:
    loose = make_rows({f"g{n}": 2 for n in range(50)})
    bound = make_rows({"g0": 1, "g1": 1}, side=Side.TEST)
    sides, division = divide(loose + bound, test_percent=0, validation_percent=0, seed=13)
    assert {e.group for e in sides[Side.TEST]} == {"g0", "g1"}
    assert len(sides[Side.TEST]) == 6
    assert sides[Side.VALIDATION] == []
    assert division.num_groups_on_two_sides == 0


def test_bound_sources_alone_are_not_divided_and_shared_groups_are_counted() -> None:
    train = make_rows({"a": 3, "b": 3}, side=Side.TRAIN)
    test = make_rows({"b": 1, "c": 1}, side=Side.TEST)
    loose = make_rows({"b": 1})
    sides, division = divide(train + test + loose, test_percent=20, validation_percent=5, seed=13)
    assert {side: len(rows) for side, rows in sides.items()} == {
        Side.TRAIN: 6,
        Side.VALIDATION: 0,
        Side.TEST: 3,
    }
    assert division.num_groups_on_two_sides == 1


@pytest.mark.slow
@given(sizes=SIZES, most=st.integers(1, 40), seed=SEEDS, order=SEEDS)
def test_drawn_rows_are_the_same_in_any_order(
    sizes: dict[str, int], most: int, seed: int, order: int
) -> None:
    examples = make_rows(sizes)
    shuffled = examples.copy()
    random.Random(order).shuffle(shuffled)
    drawn = draw(examples, most, seed=seed)
    assert len(drawn) == min(most, len(examples))
    again = draw(shuffled, most, seed=seed)
    assert {e.content for e in drawn} == {e.content for e in again}
    fewer = draw(examples, max(1, most - 1), seed=seed)
    assert {e.content for e in fewer} <= {e.content for e in drawn}
