"""Weights of sources repeat and leave out train rows, and nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import Example, RowFile, Side, make_example
from finetune_trainer.prepare.checks.weighing import check_weights, count_repeats
from finetune_trainer.prepare.rows.spool import Spool, pack_rows
from finetune_trainer.prepare.splits.dividing import divide_rows


def make_rows(source: str, number: int, side: Side | None = None) -> list[Example]:
    return [
        make_example(
            {"prompt": f"{source} {n}", "completion": "x"},
            file=source,
            line=n + 1,
            side=side,
            group_value=None,
        )
        for n in range(number)
    ]


def write(
    folder: Path, sources: list[tuple[list[Example], str]]
) -> tuple[Mapping[Side, RowFile], list[str]]:
    folder.mkdir(exist_ok=True)
    weights = [weight for _, weight in sources]
    with Spool(folder / "rows") as spool:
        ends = []
        for rows, _ in sources:
            spool.add(pack_rows(rows))
            ends.append(len(spool))
        keys = spool.keys()
        division = divide_rows(keys, test_percent=20, validation_percent=10, seed=1)
        repeats = count_repeats(division, keys, weights=weights, ends=ends, seed=1)
        sides = spool.write_sides(folder, division.positions, division.sides, repeats)
        return sides, [finding.message for finding in check_weights(division, repeats, weights)]


def count(side: RowFile) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for row in side:
        found.setdefault(row["metadata"]["source"], Counter())[json.dumps(row)] += 1
    assert sum(map(Counter.total, found.values())) == len(side)
    return found


@pytest.mark.parametrize(
    ("weight", "repeats"),
    [("1", {1: 100}), ("2", {2: 100}), ("0.25", {1: 25}), ("2.5", {2: 50, 3: 50})],
)
def test_a_weight_repeats_the_train_rows_of_its_source(
    weight: str, repeats: dict[int, int], tmp_path: Path
) -> None:
    weighed = make_rows("a", 100, Side.TRAIN)
    sides, _ = write(tmp_path, [(weighed, weight), (make_rows("b", 50), "1")])
    train = count(sides[Side.TRAIN])
    assert Counter(train["a"].values()) == repeats
    assert set(train["b"].values()) == {1}


def test_other_sides_keep_every_row_once_and_the_division_is_the_same(tmp_path: Path) -> None:
    light, _ = write(tmp_path / "light", [(make_rows("a", 200), "1")])
    heavy, told = write(tmp_path / "heavy", [(make_rows("a", 200), "3")])
    for side in (Side.VALIDATION, Side.TEST):
        assert list(light[side]) == list(heavy[side])
    assert len(heavy[Side.TRAIN]) == 3 * len(light[Side.TRAIN]) == 3 * 140
    assert told == [
        "by the weights of the sources (3), 140 train rows are written as 420; 0 of them are "
        "left out"
    ]


def test_what_is_drawn_depends_on_the_content_and_not_on_the_order(tmp_path: Path) -> None:
    rows = make_rows("a", 60, Side.TRAIN)
    shuffled = random.Random(3).sample(rows, len(rows))
    one, _ = write(tmp_path / "one", [(rows, "0.5"), (make_rows("b", 10), "1")])
    two, _ = write(tmp_path / "two", [(shuffled, "0.5"), (make_rows("b", 10), "1")])
    assert count(one[Side.TRAIN]) == count(two[Side.TRAIN])


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    weights=st.lists(st.decimals("0.01", "100", places=2), min_size=4, max_size=4),
)
def test_each_source_is_seen_as_often_as_its_weight_says(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], weights: list[object]
) -> None:
    sources = [
        (make_rows(f"s{n}", size, Side.TRAIN), str(weight))
        for n, (size, weight) in enumerate(zip(sizes, weights, strict=False))
    ]
    held_out = (make_rows("test", 5), "1")
    sides, _ = write(tmp_path_factory.mktemp("any"), [*sources, held_out])
    train = count(sides[Side.TRAIN])
    for rows, weight in sources:
        found = train.get(rows[0].file, Counter()) if rows else Counter()
        assert abs(found.total() - Decimal(weight) * len(rows)) <= Decimal("0.5")
        if found:
            assert max(found.values()) - min(found.values()) <= 1
