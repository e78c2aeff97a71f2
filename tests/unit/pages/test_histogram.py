"""Bins hold every value once, and the picture says what the numbers say."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.pages.histogram import MAX_BINS, Bin, count_bins, draw_histogram


@pytest.mark.slow
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=300))
def test_bins_hold_every_value_once_and_have_equal_round_widths(values: list[int]) -> None:
    ordered = sorted(values)
    bins = count_bins(ordered)
    assert sum(each.count for each in bins) == len(values)
    assert 1 <= len(bins) <= MAX_BINS
    assert bins[0].at_least <= ordered[0]
    widths = {b.at_least - a.at_least for a, b in itertools.pairwise(bins)}
    assert len(widths) <= 1
    assert all(str(width).strip("0") in ("1", "2", "5") for width in widths)
    for a, b in itertools.pairwise(bins):
        assert a.count == sum(a.at_least <= value < b.at_least for value in values)


def test_one_huge_value_does_not_press_the_others_into_one_bar() -> None:
    bins = count_bins(sorted([*range(10, 110), 10**6]))
    assert len(bins) > 5
    picture = draw_histogram(bins, longest=10**6, unit="tokens")
    assert picture is not None
    assert picture.rows[-1][0].endswith("to 1,000,000")
    assert picture.ticks[-1].label == "up to 1,000,000"


def test_the_axis_is_labelled_where_it_begins_and_ends() -> None:
    """A limit of 128 lies between the labels 50 and 150, not beyond one of 100."""
    picture = draw_histogram(
        [Bin(at_least=0, count=3), Bin(at_least=50, count=9), Bin(at_least=100, count=1)],
        longest=131, unit="tokens", limit=128,
    )  # fmt: skip
    assert picture is not None
    assert [tick.label for tick in picture.ticks] == ["0", "50", "150"]
    assert picture.limit_x is not None
    assert picture.ticks[1].at < picture.limit_x < picture.ticks[2].at


@pytest.mark.slow
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=100), st.integers(1, 6000))
def test_bars_and_limit_lie_within_the_frame(values: list[int], limit: int) -> None:
    ordered = sorted(values)
    picture = draw_histogram(count_bins(ordered), longest=ordered[-1], unit="tokens", limit=limit)
    assert picture is not None
    for bar in picture.bars:
        assert picture.left <= bar.x
        assert bar.x + bar.width <= picture.width
        assert picture.top <= bar.y + 0.1
        assert bar.y + bar.height <= picture.bottom + 0.1
    if picture.limit_x is not None:
        assert picture.left <= picture.limit_x <= picture.right


@pytest.mark.parametrize("bins", [(), []])
def test_nothing_is_drawn_of_nothing(bins: list[Bin]) -> None:
    assert count_bins([]) == ()
    assert draw_histogram(bins, longest=0, unit="tokens") is None
