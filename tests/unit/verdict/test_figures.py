"""Figures are told so that nobody reads another verdict from them than was given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune_trainer.statistics.confidence import Interval
from finetune_trainer.verdict.figures import (
    MOST_DIGITS,
    compare_figures,
    figure_text,
    high_text,
    low_text,
    make_score,
)


@pytest.mark.parametrize(
    ("value", "asked", "near", "low", "high"),
    [
        (0.95, [0.9], "0.950", "0.950", "0.950"),
        (0.12345, [], "0.123", "0.123", "0.124"),
        (0.89995, [0.9], "0.89995", "0.899", "0.89995"),  # 0.900 would be what it misses
        (0.90004, [0.9], "0.90004", "0.90004", "0.901"),  # 0.900 would be no more than asked
        (0.9, [0.9], "0.900", "0.900", "0.900"),
        (0.8999999999, [0.9], "0.900", "0.900", "0.900"),  # it counts as reached
        (0.9005, [0.9005], "0.9005", "0.9005", "0.9005"),
        (0.9005000004, [0.9005], "0.9005", "0.9005", "0.9005"),
        (0.90054, [0.9005], "0.901", "0.90054", "0.901"),
        (0.0004, [0.0], "0.0004", "0.0004", "0.001"),
        (-0.0004, [0.0], "-0.0004", "-0.001", "-0.0004"),
        (-0.0004, [], "0.000", "-0.001", "0.000"),
        (3 * 0.1, [], "0.300", "0.300", "0.300"),  # not 0.301: the rest is a float's noise
        (1234.5678, [1234.5], "1234.568", "1234.567", "1234.568"),
        (math.inf, [9.0], "inf", "inf", "inf"),
        (-math.inf, [9.0], "-inf", "-inf", "-inf"),
        (math.nan, [9.0], "nan", "nan", "nan"),
        (0.12345, [math.nan], "0.123", "0.123", "0.124"),
        (0.12345, [math.inf, -math.inf], "0.123", "0.123", "0.124"),
    ],
)
def test_figures_stand_on_their_side_of_what_is_asked(
    value: float, asked: list[float], near: str, low: str, high: str
) -> None:
    told = [tell(value, *asked, digits=3) for tell in (figure_text, low_text, high_text)]
    assert told == [near, low, high]


def test_any_figure_is_told_on_its_side_and_bounds_no_nearer_than_they_are() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        threshold = round(float(rng.uniform(-1, 1)), int(rng.integers(0, 6)))
        value = threshold + float(rng.choice([-1, 0, 1])) * 10 ** float(rng.uniform(-12, 0))
        side = compare_figures(value, threshold)
        for tell in (figure_text, low_text, high_text):
            text = tell(value, threshold, digits=3)
            assert compare_exactly(float(text), threshold) == side, (value, threshold, text)
            assert len(text.split(".")[1]) <= MOST_DIGITS
        if side:
            assert float(low_text(value, threshold)) <= value + 1e-12
            assert float(high_text(value, threshold)) >= value - 1e-12


def compare_exactly(value: float, threshold: float) -> int:
    return (value > threshold) - (value < threshold)


def test_a_sign_is_written_where_it_is_asked_for() -> None:
    assert figure_text(0.5, sign="+") == "+0.5000"
    assert low_text(-0.5, sign="+") == "-0.5000"
    assert figure_text(-0.0, sign="+") == "+0.0000"


def test_a_row_of_the_score_table_does_not_contradict_the_goal() -> None:
    # 327 right of 351: the lower end is 0.89996.
    tuned = Interval(value=327 / 351, low=0.899961, high=0.955812)
    gain = Interval(value=0.30003, low=0.29996, high=0.40001)
    score = make_score(
        "exactMatch", base=tuned, tuned=tuned, gain=gain, asked=[0.9], gain_asked=[0.3]
    )
    assert (score.tuned_low, score.tuned, score.tuned_high) == ("0.8999", "0.9316", "0.9559")
    assert (score.delta_low, score.delta_high) == ("0.2999", "0.4001")
    assert score.base_low == "0.8999"
