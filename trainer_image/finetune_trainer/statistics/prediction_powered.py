"""Mean score of all answers from a judge's scores of many and people's scores of few. Pure.

A judge scores answers that are drawn at random, and people score some others of them, also drawn at
random. The judge's mean is corrected by the mean of people's score minus the judge's over the rows
that have both (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic 2023, "Prediction-powered
inference"). The estimate has no bias, however bad the judge is. A bad judge only makes the interval
wide.

The normal interval of that paper is too narrow if people disagree with the judge in few of few
rows: over 20 rows it held the truth in 87 % of cases where one answer in ten was judged too well.
So one row is added on which they disagree as much as scores can, half of it in either direction,
as Agresti and Min do for pairs of hits (2005, "Simple improved confidence intervals for comparing
matched proportions"), and Student's t replaces the normal quantile. Coverage is simulated, not
proved: ``benchmarks/loop_evidence``. It is above 97 % where disagreement is rare or small.

It assumes that clusters are independent, and that the rows with people's scores are chosen without
regard to either score. A review of flagged answers only is no such sample. An interval of every
week is wrong in each week with ``1 - certainty``, so over a year some are wrong.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.confidence import Confidence, Floats, levels_of

NUM_LEVELS = 10_000


def confidence_with_judge(
    people: Floats,
    judge_beside: Floats,
    judge_alone: Floats,
    *,
    clusters_beside: NDArray[np.int64] | None = None,
    clusters_alone: NDArray[np.int64] | None = None,
    part: float = 1.0,
) -> Confidence:
    """Return bounds of the mean that people would give to all answers.

    Args:
        people: People's scores, from 0 to 1.
        judge_beside: The judge's scores of the same rows.
        judge_alone: The judge's scores of rows that no person scored.
        clusters_beside: Cluster of each row that people scored, counted from 0 without gaps; by
            default each row is one. No cluster may have rows of both kinds.
        clusters_alone: The same of the other rows.
        part: How much of the judge's score is taken, from 0 for none of it to 1 (Angelopoulos,
            Duchi and Zrnic 2023, "PPI++"). Fix it before people's scores are seen: chosen from
            them it makes the interval too narrow.

    Raises:
        ValueError: If scores are missing, do not pair up or are off the scale.
    """
    _require_scores(people, judge_beside, judge_alone, part)
    excess = part * judge_beside - people
    # Half a row at either end of the scale adds nothing to the sum, and 1 to the squares.
    sums, sizes = _by_cluster(excess, clusters_beside)
    sums = np.append(sums, 0.0)
    sizes = np.append(sizes, sizes.mean())
    shrunk = float(sums.sum() / sizes.sum())
    added = float(sizes[-1]) ** 2
    variance = (float(((sums - shrunk * sizes) ** 2).sum()) + added) / float(sizes.sum()) ** 2
    judged, variance_judged = _mean_and_variance(part * judge_alone, clusters_alone)
    error = float(np.sqrt(variance + variance_judged))
    bounds: Floats = np.clip(judged - shrunk + error * _student(len(sums) - 1), 0.0, 1.0)
    value = min(1.0, max(0.0, judged - float(excess.mean())))
    return Confidence(value=value, lower=bounds, upper=bounds)


@cache
def _student(freedom: int) -> Floats:
    from scipy.special import stdtrit

    quantiles: Floats = stdtrit(freedom, levels_of(NUM_LEVELS))
    return quantiles


def _by_cluster(scores: Floats, clusters: NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    if clusters is None:
        return scores, np.ones(len(scores))
    sums = np.bincount(clusters, weights=scores).astype(np.float64)
    return sums, np.bincount(clusters).astype(np.float64)


def _mean_and_variance(scores: Floats, clusters: NDArray[np.int64] | None) -> tuple[float, float]:
    """Return a mean over rows and the variance of it; a single cluster counts as a coin's."""
    sums, sizes = _by_cluster(scores, clusters)
    mean = float(scores.mean())
    number = len(sums)
    if number < 2:
        return mean, 0.25
    squares = float(((sums - mean * sizes) ** 2).sum())
    return mean, squares / float(sizes.sum()) ** 2 * number / (number - 1)


def _require_scores(people: Floats, judge_beside: Floats, judge_alone: Floats, part: float) -> None:
    if not 0 <= part <= 1:
        raise ValueError(f"the part of the judge's score lies between 0 and 1, not at {part}")
    if len(people) != len(judge_beside):
        raise ValueError(
            f"people scored {len(people)} rows and the judge {len(judge_beside)} beside them; "
            "give both scores of each row"
        )
    named = {"people": people, "judge_beside": judge_beside, "judge_alone": judge_alone}
    for name, scores in named.items():
        if not len(scores):
            raise ValueError(f"{name} has no scores; at least one is needed")
        if not (scores.min() >= 0 and scores.max() <= 1):
            raise ValueError(
                f"scores of {name} lie between 0 and 1, not from {scores.min()} to {scores.max()}"
            )
