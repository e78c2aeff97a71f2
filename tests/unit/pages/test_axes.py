"""Labels of axes are round numbers that lie within them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.pages.axes import labelled_ticks, step_ticks, value_ticks


@pytest.mark.parametrize(
    ("last", "ticks"),
    [(0, [0]), (1, [0, 1]), (3, [0, 1, 2, 3]), (30, [0, 10, 20, 30]), (31, [0, 10, 20, 31]),
     (100, [0, 50, 100]), (9375, [0, 5000, 9375])],
)  # fmt: skip
def test_steps_are_round_and_end_with_the_last_one(last: int, ticks: list[int]) -> None:
    assert step_ticks(last) == ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.35, 3.15, [1, 2, 3]), (0.4, 0.9, [0.4, 0.6, 0.8]), (-1.2, 1.2, [-1, 0, 1]), (1, 1, [])],
)
def test_values_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert value_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.slow
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_a_range_has_two_to_five_labels(low: float, width: float) -> None:
    high = low + width
    ticks = value_ticks(low, high)
    assert 1 <= len(ticks) <= 5
    assert all(a < b for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(1.2341, 1.2349, ["1.2342", "1.2344", "1.2346", "1.2348"]),
     (0.4, 0.9, ["0.4", "0.6", "0.8"]), (0, 40, ["0", "10", "20", "30", "40"])],
)  # fmt: skip
def test_neighbours_have_labels_of_their_own(low: float, high: float, labels: list[str]) -> None:
    assert [text for _, text in labelled_ticks(low, high)] == labels
