"""Rank correlation of a parameter with the validation loss.

Pure. It misses a best value in the middle; the page says so. Below eight runs there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.experiments.recipe import Parameter
from finetune_trainer.statistics.confidence import Interval, tail_of

MIN_RUNS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """Spearman's correlation of a parameter with the loss, with its interval."""

    parameter: Parameter
    correlation: Interval

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.correlation.low > 0 or self.correlation.high < 0


def rank_parameters(
    parameters: Sequence[Parameter], losses: Sequence[float | None], *, certainty: float
) -> tuple[list[Importance], str]:
    """Return the numeric parameters, that with the largest correlation first.

    ``certainty`` is that all intervals hold together (Bonferroni). Sources: Spearman 1904; Bonett
    and Wright 2000 on the interval.

    Returns:
        The parameters, and why there are none.
    """
    places = [place for place, loss in enumerate(losses) if loss is not None]
    if len(places) < MIN_RUNS:
        return [], (
            f"{len(places)} runs have a validation loss on the same rows: fewer than {MIN_RUNS} "
            "say nothing of what matters"
        )
    numeric = [p for p in parameters if p.numbers is not None]
    if not numeric:
        return [], "no setting with a number differs between the runs"
    known = np.array([loss for loss in losses if loss is not None])
    each_certainty = 1 - (1 - certainty) / len(numeric)
    found = []
    for parameter in numeric:
        assert parameter.numbers is not None
        values = np.array([parameter.numbers[place] for place in places])
        found.append(
            Importance(parameter=parameter, correlation=_correlate(values, known, each_certainty))
        )
    return sorted(found, key=lambda each: -abs(each.correlation.value)), ""


def _correlate(
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    losses: np.ndarray[tuple[int], np.dtype[np.float64]],
    certainty: float,
) -> Interval:
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = [rankdata(each) for each in (values, losses)]
    if any(np.ptp(each) == 0 for each in ranks):
        return Interval(value=0.0, low=-1.0, high=1.0)
    value = float(np.clip(np.corrcoef(*ranks)[0, 1], -1.0, 1.0))
    error = math.sqrt((1 + value**2 / 2) / (len(values) - 3))
    room = float(ndtri(1 - tail_of(certainty))) * error
    # At the ends of the scale the transform is infinite.
    middle = math.atanh(min(0.999999, max(-0.999999, value)))
    low, high = math.tanh(middle - room), math.tanh(middle + room)
    return Interval(value=value, low=min(low, value), high=max(high, value))
