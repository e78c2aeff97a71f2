"""Round numbers for the axes of pictures. Pure."""

from __future__ import annotations

import math


def step_ticks(last: int) -> list[int]:
    """Return steps to label, from 0 to the last one.

    No other label stands near the last one: the two would touch.
    """
    step = max(int(_round_up(max(last, 1) / 4)), 1)
    return [*(each for each in range(0, last, step) if last - each >= step / 2), last]


def value_ticks(low: float, high: float) -> list[float]:
    """Return two to five round numbers of a range; none of an empty one."""
    if high <= low:
        return []
    step = _round_up((high - low) / 4)
    return [step * at for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def labelled_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return the round numbers of a range with labels that tell neighbours apart."""
    ticks = value_ticks(low, high)
    if len(ticks) < 2:
        return [(each, f"{each:.3g}") for each in ticks]
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return [(each, f"{each:.{decimals}f}") for each in ticks]


def _round_up(distance: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is not below a distance."""
    power = 10.0 ** math.floor(math.log10(distance))
    return next(power * part for part in (1, 2, 5, 10) if power * part >= distance * (1 - 1e-9))
