"""Bounds of any score by resampling clusters: bias-corrected, accelerated, wide at few. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.confidence import Confidence, Floats, levels_of

Resampled = Callable[[NDArray[np.int64]], float]
"""A score as a function of the rows it is taken over."""

FEW_CLUSTERS = 10
"""Below this a resample says little: Student's t around the jackknife's error stands in."""
MAX_LEFT_OUT = 200
"""Parts that are left out in turn to see how much each of them weighs."""


def resample_scores(
    metrics: Sequence[Resampled],
    groups: Sequence[NDArray[np.int64]],
    *,
    num_samples: int,
    seed: int,
) -> list[Confidence]:
    """Resample clusters with replacement, the same ones for every metric.

    ``groups`` are the row indices of each cluster; together all rows.

    Returns:
        One confidence per metric, and of two metrics also that of last minus first, paired.
    """
    rng = np.random.default_rng(seed)

    def score(rows: NDArray[np.int64]) -> list[float]:
        return [metric(rows) for metric in metrics]

    values = np.array(score(np.sort(np.concatenate(groups))))
    draws = np.empty((num_samples, len(metrics)))
    for sample in range(num_samples):
        drawn = rng.integers(0, len(groups), len(groups))
        draws[sample] = score(np.concatenate([groups[i] for i in drawn]))
    left_out = np.array(
        [score(np.concatenate(rest)) for rest in _leave_out(groups)] or np.empty((0, len(metrics)))
    )
    if len(metrics) == 2:
        values, draws, left_out = (
            np.concatenate([array, array[..., 1:] - array[..., :1]], axis=-1)
            for array in (values, draws, left_out)
        )
    return [
        _confidence_from(value, draws[:, i], left_out[:, i], num_clusters=len(groups))
        for i, value in enumerate(values.tolist())
    ]


def _leave_out(groups: Sequence[NDArray[np.int64]]) -> list[list[NDArray[np.int64]]]:
    number = len(groups)
    if number < 2:
        return []
    part_of = np.arange(number) * min(number, MAX_LEFT_OUT) // number
    return [
        [group for group, its_part in zip(groups, part_of, strict=True) if its_part != part]
        for part in range(part_of[-1] + 1)
    ]


def _confidence_from(
    value: float, draws: Floats, left_out: Floats, *, num_clusters: int
) -> Confidence:
    """Turn resampled scores into bounds.

    Sources: Efron 1987; Hesterberg 2015, on the width at few clusters.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    if num_clusters < 2:
        return Confidence(value=value, lower=np.array([-np.inf]), upper=np.array([np.inf]))
    levels = levels_of(max(1000, len(draws)))
    student = stdtrit(num_clusters - 1, levels)
    influence = left_out.mean() - left_out
    if num_clusters < FEW_CLUSTERS:
        parts = len(left_out)
        error = float(np.sqrt((parts - 1) / parts * (influence**2).sum()))
        bounds: Floats = value + error * student
        return Confidence(value=value, lower=bounds, upper=bounds)
    spread = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * spread) if spread > 0 else 0.0
    below = (draws < value).mean() + (draws == value).mean() / 2
    half = 1 / (2 * len(draws))
    bias = float(ndtri(min(1 - half, max(half, below))))
    shifted = bias + student * np.sqrt(num_clusters / (num_clusters - 1))
    room = np.maximum(1 - acceleration * shifted, 1e-3)
    # From the middle on the levels must rise: far out a strong acceleration would turn them back.
    corrected = np.maximum.accumulate(ndtr(bias + shifted / room))
    bounds = np.quantile(draws, corrected, method="hazen")
    return Confidence(value=value, lower=bounds, upper=bounds)
