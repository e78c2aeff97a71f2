"""Bounds of scores that follow from sums over rows, such as macro F1. Pure.

As in ``bounded.py`` clusters get random weights, each counts once, and worst-case rows are added. A
label's F1 is a share of the rows that have it or are given it; each label gets one more row, and
all labels share the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import MAX_DRAWN, NUM_DRAWS
from finetune_trainer.statistics.confidence import Confidence, Floats
from finetune_trainer.statistics.paired import Compared

Matrix = Any
"""A sparse array of scipy's: of a row nearly all sums are 0 where they are of labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """A score as a function of sums over rows.

    Attributes:
        rows: Addends of each row, by row and sum.
        score: Returns the score of each line of sums.
        sizes: Weight of each row for each added row: 1 or 0.
        worst: Addends of each added row in the worst case, by row and sum.
        best: The same in the best case.
    """

    rows: Matrix
    score: Callable[[Floats], Floats]
    sizes: Matrix
    worst: Matrix
    best: Matrix

    def over(self, indices: NDArray[np.int64]) -> float:
        """Return the score over the rows of the given indices, which may repeat."""
        return float(self.score(self.rows[indices].sum(axis=0)[None])[0])

    def weighed(self, weights: Floats) -> float:
        """Return the score over all rows, each of which counts as much as its weight."""
        return float(self.score((weights @ self.rows)[None])[0])

    def taken(self, order: NDArray[np.int64]) -> Sums:
        """Return the sums of the same rows in another order."""
        return replace(self, rows=self.rows[order], sizes=self.sizes[order])


def compare_sums(
    base: Sums,
    tuned: Sums,
    clusters: NDArray[np.int64],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Compared:
    """Compare two models by a score from 0 to 1 that follows from sums over rows.

    Both get as many added rows. ``clusters`` are counted from 0 without gaps.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(clusters)
    number, num_added = len(sizes), max(e.worst.shape[0] for e in (base, tuned))
    drawn = [_Drawn(each, clusters, num_draws) for each in (base, tuned)]
    widest = max(number, base.rows.shape[1], tuned.rows.shape[1])
    step = max(1, MAX_DRAWN // widest)
    for start in range(0, num_draws, step):
        part = slice(start, min(num_draws, start + step))
        weights = rng.standard_exponential((part.stop - part.start, number))
        added = rng.standard_exponential((part.stop - part.start, num_added))
        for each in drawn:
            each.fill(part, weights, added)
    before, after = drawn
    values = [each.weighed(1 / sizes[clusters]) for each in (base, tuned)]
    return Compared(
        base=_sort(values[0], before.lower, before.upper),
        tuned=_sort(values[1], after.lower, after.upper),
        gain=_sort(values[1] - values[0], after.lower - before.upper, after.upper - before.lower),
    )


class _Drawn:
    """The bounds of one model, in the order of the weights."""

    def __init__(self, sums: Sums, clusters: NDArray[np.int64], num_draws: int) -> None:
        from scipy.sparse import csr_array

        shares = 1 / np.bincount(clusters)[clusters]
        member = csr_array((shares, (clusters, np.arange(len(clusters)))))
        self._totals = member @ sums.rows
        sizes = member @ sums.sizes
        # A row that is added counts as much as the cluster that counts most for the label.
        self._scale = np.asarray(sizes.max(axis=0).todense()).ravel()
        self._sums = sums
        self.lower, self.upper = np.empty(num_draws), np.empty(num_draws)

    def fill(self, part: slice, weights: Floats, added: Floats) -> None:
        """Compute the bounds of some weights."""
        totals = weights @ self._totals
        more = added[:, : len(self._scale)] * self._scale
        self.lower[part] = self._sums.score(totals + more @ self._sums.worst)
        self.upper[part] = self._sums.score(totals + more @ self._sums.best)


def _sort(value: float, lower: Floats, upper: Floats) -> Confidence:
    return Confidence(value=value, lower=np.sort(lower), upper=np.sort(upper))
