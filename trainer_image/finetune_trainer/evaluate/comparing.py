"""Base and tuned model by one metric, with bounds that hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.answers import Measured
from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.statistics.confidence import Confidence, difference_of, widen
from finetune_trainer.statistics.paired import Compared, compare_means, is_graded
from finetune_trainer.statistics.resampling import resample_scores

Ints = NDArray[np.int64]


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
    confidences = resample_scores(
        [base.over, tuned.over], groups, num_samples=num_samples, seed=seed
    )
    if is_bounded:
        confidences = _widen(confidences, base, tuned, clusters)
    before, after, gain = confidences
    return Compared(base=before, tuned=after, gain=gain)


def number_clusters(groups: Sequence[Ints]) -> Ints:
    """Return the number of each row's cluster."""
    clusters = np.empty(sum(map(len, groups)), dtype=np.int64)
    for number, rows in enumerate(groups):
        clusters[rows] = number
    return clusters


def _widen(
    confidences: Sequence[Confidence], base: Measured, tuned: Measured, clusters: Ints
) -> list[Confidence]:
    """Make bounds as wide as those of a share where most rows are alike, right or wrong.

    A mean of values between 0 and 1 varies no more than a share of hits does. What is no mean, as
    macro F1, varies as much at least.
    """
    number = int(clusters.max()) + 1
    before, after = (confidence.limited(0.0, 1.0) for confidence in confidences[:2])
    gain = confidences[2].limited(-1.0, 1.0)
    shares = [confidence_of_share(c.value * number, number) for c in (before, after)]
    if not is_graded(base.rows, clusters):
        before = widen(before, shares[0])
    if not is_graded(tuned.rows, clusters):
        after = widen(after, shares[1])
    if not is_graded(tuned.rows - base.rows, clusters):
        gain = widen(gain, difference_of(shares[0], shares[1]))
    return [before, after, gain]
