"""Each side has its share of every label, and the size of the test side is weighed."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.rows.spool import LOOSE, SIDES, RowKeys, RowMarks
from finetune_trainer.prepare.splits.dividing import Division, divide_rows
from finetune_trainer.prepare.splits.strata import (
    find_strata,
    largest_deviation,
)


def keys_of(groups: list[str]) -> RowKeys:
    digests = np.array([hashlib.sha256(group.encode()).digest() for group in groups], dtype="S32")
    return RowKeys(
        positions=np.arange(len(groups)),
        groups=digests,
        contents=digests,
        sides=np.full(len(groups), LOOSE, dtype=np.uint8),
    )


def marks_of(answers: list[int], is_label: list[bool]) -> RowMarks:
    number = len(answers)
    return RowMarks(
        prompts=np.zeros(number, dtype="S16"),
        rows=np.zeros(number, dtype="S16"),
        answers=np.array(answers, dtype=np.uint64),
        is_label=np.array(is_label),
        files=np.zeros(number, dtype=np.uint32),
        lines=np.zeros(number, dtype=np.uint32),
        times=np.zeros(number, dtype=np.int64),
        personal=np.zeros(number, dtype=np.uint16),
        file_names=("a",),
    )


def shares(division: Division, strata: np.ndarray, side: Side) -> np.ndarray:
    on_side = division.sides == SIDES.index(side)
    return np.bincount(strata[on_side], minlength=int(strata.max()) + 1) / on_side.sum()


@pytest.mark.parametrize("num_labels", [2, 5, 77])
@pytest.mark.parametrize("seed", [0, 13])
def test_every_side_has_its_share_of_every_label(num_labels: int, seed: int) -> None:
    rng = random.Random(seed)
    labels = np.array([int(num_labels * rng.random() ** 2) for _ in range(6000)])
    keys = keys_of([f"group {n // 3} {label}" for n, label in enumerate(labels)])
    division = divide_rows(keys, test_percent=20, validation_percent=5, seed=seed, strata=labels)
    overall = np.bincount(labels) / len(labels)
    for side in Side:
        assert np.abs(shares(division, labels, side) - overall).max() <= 0.01
    assert division.count(Side.TEST) == pytest.approx(1200, abs=1)
    assert division.count(Side.VALIDATION) == pytest.approx(300, abs=1)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=40),
    percent=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_single_rows_of_any_labels_meet_the_share_within_a_row(
    sizes: list[int], percent: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    keys = keys_of([f"row {n}" for n in range(len(labels))])
    division = divide_rows(
        keys, test_percent=percent, validation_percent=0, seed=seed, strata=labels
    )
    on_test = division.sides == SIDES.index(Side.TEST)
    assert on_test.sum() == max(1, min(len(labels) - 1, round(len(labels) * percent / 100))) or (
        abs(on_test.sum() - len(labels) * percent / 100) <= 0.5
    )
    counts = np.bincount(labels[on_test], minlength=len(sizes))
    assert (np.abs(counts - np.array(sizes) * percent / 100) <= 1.5).all()


def test_labels_are_few_short_answers_each_of_several_rows() -> None:
    keys = keys_of([f"row {n}" for n in range(100)])
    few, many = [n % 4 for n in range(100)], list(range(100))
    everywhere = [True] * 100
    strata = find_strata(keys, marks_of(few, everywhere))
    assert strata is not None
    assert sorted(np.bincount(strata).tolist()) == [25, 25, 25, 25]
    assert find_strata(keys, marks_of(many, everywhere)) is None
    assert find_strata(keys, marks_of([1] * 100, everywhere)) is None
    assert find_strata(keys, marks_of(few, [n % 10 > 0 for n in range(100)])) is None


def test_the_latest_groups_are_held_out_whole() -> None:
    times = np.array([10 * (n // 2) for n in range(200)])
    times[0] = 10_000  # the first group's other row is the earliest of all
    keys = keys_of([f"group {n // 2}" for n in range(200)])
    division = divide_rows(keys, test_percent=20, validation_percent=10, seed=13, times=times)
    sides = [SIDES[code] for code in division.sides]
    assert sides[:2] == [Side.TEST, Side.TEST]
    assert sides[2:142] == [Side.TRAIN] * 140
    assert sides[142:162] == [Side.VALIDATION] * 20
    assert sides[162:] == [Side.TEST] * 38


def test_the_deviation_is_the_largest_of_all_labels() -> None:
    strata = np.array([0, 0, 1, 1])
    assert largest_deviation(strata, np.array([True, True, True, False])) == pytest.approx(1 / 6)
    assert largest_deviation(strata, np.zeros(4, dtype=bool)) == 0.0
