"""Base and tuned model by one metric, with bounds that hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.answers import Measured
from finetune_trainer.statistics.paired import Compared, compare_means
from finetune_trainer.statistics.resampling import resample_scores
from finetune_trainer.statistics.sums import compare_sums

Ints = NDArray[np.int64]
MIN_SHARE = 0.5
"""Share of a metric's prompts that both models must be compared on; else it is not measured."""


def compare(
    base: Measured,
    tuned: Measured,
    groups: Sequence[Ints],
    *,
    is_bounded: bool,
    num_samples: int,
    seed: int,
) -> Compared:
    """Compare two models on the same rows.

    By what lies between 0 and 1 each group counts once.

    Args:
        base: The metric of the base model.
        tuned: The same of the tuned model.
        groups: Row indices of each cluster; together all rows.
        is_bounded: The metric lies between 0 and 1.
        num_samples: Resamples.
        seed: Of all that is drawn.
    """
    clusters = number_clusters(groups)
    if is_bounded and base.is_mean:
        return compare_means(base.rows, tuned.rows, clusters, seed=seed)
    if base.sums is not None and tuned.sums is not None:
        return compare_sums(base.sums, tuned.sums, clusters, seed=seed)
    confidences = resample_scores(
        [base.over, tuned.over], groups, num_samples=num_samples, seed=seed
    )
    before, after, gain = confidences
    return Compared(base=before, tuned=after, gain=gain)


def value_over(measured: Measured, groups: Sequence[Ints]) -> float:
    """Return a score between 0 and 1 over all rows, each group of which counts once."""
    clusters = number_clusters(groups)
    weights = 1 / np.bincount(clusters)[clusters]
    if measured.is_mean:
        return float(np.average(measured.rows, weights=weights))
    if measured.sums is not None:
        return measured.sums.weighed(weights)
    return measured.over(np.arange(len(clusters)))


def number_clusters(groups: Sequence[Ints]) -> Ints:
    """Return the number of each row's cluster."""
    clusters = np.empty(sum(map(len, groups)), dtype=np.int64)
    for number, rows in enumerate(groups):
        clusters[rows] = number
    return clusters
