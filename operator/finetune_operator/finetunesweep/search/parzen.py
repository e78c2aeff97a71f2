"""Densities of one parameter, estimated from its values so far (Parzen 1962).

There is one kernel for each value and a flat one for the prior. The width of a kernel is the larger
distance to its neighbours, within limits, as in Bergstra et al. 2011, "Algorithms for
Hyper-Parameter Optimization", section 4.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

MAX_KERNELS_PER_WIDTH = 100
"""The narrowest kernel is a hundredth of the range, and wider while there are few values."""
PRIOR_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class RangeDensity:
    """Normal kernels on [0, 1], cut off at its ends.

    Attributes:
        kernels: Mean and width of each.
        totals: Running sum of their weights, the last of which is 1.
        bin_width: Share of the range that is one value; 0 for decimals.
    """

    kernels: tuple[NormalDist, ...]
    totals: tuple[float, ...]
    bin_width: float

    def draw(self, uniforms: Iterator[float]) -> float:
        """Return a place in [0, 1], drawn with two of ``uniforms``."""
        kernel = self.kernels[_index_in(self.totals, next(uniforms))]
        low, high = kernel.cdf(0.0), kernel.cdf(1.0)
        share = low + next(uniforms) * (high - low)
        if not 0.0 < share < 1.0:
            return kernel.mean
        return min(1.0, max(0.0, kernel.inv_cdf(share)))

    def log_density(self, place: float) -> float:
        """Return the logarithm of the density at a place, or of the chance of its bin."""
        total, before = 0.0, 0.0
        for kernel, until in zip(self.kernels, self.totals, strict=True):
            within = kernel.cdf(1.0) - kernel.cdf(0.0)
            total += (until - before) * self._mass(kernel, place) / within
            before = until
        return math.log(max(total, 1e-300))

    def _mass(self, kernel: NormalDist, place: float) -> float:
        if not self.bin_width:
            return kernel.pdf(place)
        half = self.bin_width / 2
        return kernel.cdf(min(1.0, place + half)) - kernel.cdf(max(0.0, place - half))


@dataclass(frozen=True, slots=True)
class ChoiceDensity:
    """Probabilities of values without an order.

    Attributes:
        totals: Running sum of the probabilities, the last of which is 1.
    """

    totals: tuple[float, ...]

    def draw(self, uniforms: Iterator[float]) -> int:
        """Return the index of a value, drawn with one of ``uniforms``."""
        return _index_in(self.totals, next(uniforms))

    def log_density(self, index: int) -> float:
        """Return the logarithm of a value's chance."""
        before = self.totals[index - 1] if index else 0.0
        return math.log(self.totals[index] - before)


def estimate_range(
    places: Sequence[float], weights: Sequence[float], bin_width: float
) -> RangeDensity:
    """Return the density of places in [0, 1] that were seen, each with its weight."""
    narrowest = 1.0 / min(MAX_KERNELS_PER_WIDTH, len(places) + 2)
    order = sorted(range(len(places)), key=lambda position: places[position])
    kernels = [NormalDist(0.5, 1.0)]
    for rank, position in enumerate(order):
        gaps = [
            abs(places[order[other]] - places[position])
            for other in (rank - 1, rank + 1)
            if 0 <= other < len(order)
        ]
        # A single value has no neighbours: use the ends of the range.
        width = max(gaps, default=max(places[position], 1.0 - places[position]))
        kernels.append(NormalDist(places[position], min(1.0, max(narrowest, width))))
    totals = _running_shares([PRIOR_WEIGHT, *(weights[position] for position in order)])
    return RangeDensity(tuple(kernels), totals, bin_width)


def estimate_choice(
    indices: Sequence[int], weights: Sequence[float], num_values: int
) -> ChoiceDensity:
    """Return the chances of values: how often each was seen, and once more for the prior."""
    counts = [PRIOR_WEIGHT] * num_values
    for index, weight in zip(indices, weights, strict=True):
        counts[index] += weight
    return ChoiceDensity(_running_shares(counts))


def _running_shares(weights: Sequence[float]) -> tuple[float, ...]:
    sums = list(itertools.accumulate(weights))
    return tuple(each / sums[-1] for each in sums)


def _index_in(totals: Sequence[float], uniform: float) -> int:
    return min(len(totals) - 1, bisect.bisect_right(totals, uniform))
