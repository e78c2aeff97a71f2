"""Writes the figures of a metric as text, so that programs exchange them without loss. Pure.

A bound is rounded to its unfavourable side. A figure gets as many digits as it takes to show on
which side of the threshold it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from finetune_api.protocol.evaluation_result import Score
from finetune_trainer.statistics.confidence import SLACK, Interval

MOST_DIGITS = 12
"""Digits behind the point at most: finer than what counts as equal."""
_MOST_ROUNDED = 1e15
"""Floats beyond it have no digits behind the point that could be rounded."""


def compare_figures(value: float, threshold: float) -> int:
    """Return whether a figure is below a threshold (-1), equals it (0), or is above (1)."""
    if abs(value - threshold) <= SLACK:
        return 0
    return 1 if value > threshold else -1


def figure_text(value: float, *asked: float, digits: int = 4, sign: str = "") -> str:
    """Return a figure as reports and statuses have it.

    Args:
        value: The figure.
        asked: Thresholds that it is held against.
        digits: Behind the point; more where it takes them to stand on its side of a threshold.
        sign: ``+`` for a sign before positive figures too.
    """
    return _round(value, asked, ROUND_HALF_EVEN, digits, sign)


def low_text(bound: float, *asked: float, digits: int = 4, sign: str = "") -> str:
    """Return a lower bound rounded down; as :func:`figure_text`."""
    return _round(bound, asked, ROUND_FLOOR, digits, sign)


def high_text(bound: float, *asked: float, digits: int = 4, sign: str = "") -> str:
    """Return an upper bound, or a doubt, rounded up; as :func:`figure_text`."""
    return _round(bound, asked, ROUND_CEILING, digits, sign)


def _round(value: float, asked: Sequence[float], rounding: str, digits: int, sign: str) -> str:
    if not math.isfinite(value) or abs(value) >= _MOST_ROUNDED:
        return f"{value:{sign}.{digits}f}"
    equal = [threshold for threshold in asked if compare_figures(value, threshold) == 0]
    exact = _exact(equal[0] if equal else value)
    others = [
        _exact(threshold)
        for threshold in asked
        if threshold not in equal and not math.isnan(threshold)  # it has no sides
    ]
    told = exact
    for number in range(digits, MOST_DIGITS + 1):
        told = exact.quantize(Decimal(1).scaleb(-number), rounding=rounding)
        is_faithful = not equal or told == exact
        if is_faithful and all(
            (told > each, told < each) == (exact > each, exact < each) for each in others
        ):
            break
    return f"{told if told else abs(told):{sign}f}"


def _exact(value: float) -> Decimal:
    # Further digits are rounding errors of sums of floats.
    return Decimal(repr(round(float(value), MOST_DIGITS)))


def make_score(
    name: str,
    *,
    base: Interval,
    tuned: Interval,
    gain: Interval,
    asked: Sequence[float] = (),
    gain_asked: Sequence[float] = (),
) -> Score:
    """Return a metric's figures as text.

    Args:
        name: The metric.
        base: Of the base model.
        tuned: Of the tuned model.
        gain: Of tuned minus base, row by row.
        asked: Thresholds that the tuned model's score is held against.
        gain_asked: Those that the gain is held against.
    """
    return Score(
        name=name,
        base=figure_text(base.value),
        base_low=low_text(base.low),
        base_high=high_text(base.high),
        tuned=figure_text(tuned.value, *asked),
        tuned_low=low_text(tuned.low, *asked),
        tuned_high=high_text(tuned.high, *asked),
        delta_low=low_text(gain.low, *gain_asked),
        delta_high=high_text(gain.high, *gain_asked),
    )
