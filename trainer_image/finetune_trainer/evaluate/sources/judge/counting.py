"""What a judge's verdicts come to: scores by row, its agreement with itself, its leanings. Pure.

A pair is won by the model that won it in both orders. Where the orders disagree the verdict says
more of the judge than of the answers, and counts as a tie. Rows without a verdict that can be read
are left out of the score and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.answers import Floats
from finetune_trainer.evaluate.sources.judge.wording import HIGHEST, LOWEST, Winner
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.confidence import Interval

_OF_TUNED = {
    "base first": {"first": 0.0, "second": 1.0},
    "tuned first": {"first": 1.0, "second": 0.0},
}
FAIR = 0.5
"""The share of a judge that leans to neither side."""
_PLACE = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One pair of answers and what the judge said of it.

    Attributes:
        base_first: Who won where the base model's answer stood first; None for no verdict.
        tuned_first: The same where the tuned model's did.
        longer: 1 where the tuned model's answer is the longer one, -1 the base's, 0 neither.
        is_alike: Both models answered alike, and nobody was asked.
    """

    base_first: Winner | None = "tie"
    tuned_first: Winner | None = "tie"
    longer: int = 0
    is_alike: bool = False

    @property
    def is_judged(self) -> bool:
        """Whether both orders have a verdict."""
        return self.base_first is not None and self.tuned_first is not None

    @property
    def agrees(self) -> bool:
        """Whether both orders say the same."""
        first = _OF_TUNED["base first"].get(self.base_first or "", 0.5)
        return first == _OF_TUNED["tuned first"].get(self.tuned_first or "", 0.5)

    @property
    def tuned_wins(self) -> float:
        """1 where the tuned model won in both orders, 0 where the base did, else one half."""
        won = _OF_TUNED["base first"].get(self.base_first or "", 0.5)
        return won if self.agrees else 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaning:
    """A share that is one half where a judge leans to neither side.

    Attributes:
        share: The share, with its interval.
        number: Pairs behind it.
    """

    share: Interval
    number: int

    @property
    def is_shown(self) -> bool:
        """Whether its interval leaves one half out."""
        return not self.share.low <= FAIR <= self.share.high


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCount:
    """All pairs together.

    Attributes:
        scores: Of each pair that has a verdict what the tuned model scored; NaN elsewhere.
        agreement: Share of asked pairs with the same verdict in both orders; None if none was.
        first: Share of verdicts for the answer that stood first.
        longer: Share of pairs with a winner in both orders that the longer answer won.
    """

    scores: Floats
    agreement: float | None
    first: Leaning | None
    longer: Leaning | None


def count_pairs(
    pairs: Sequence[Pair], clusters: NDArray[np.int64], *, certainty: float, seed: int
) -> PairCount:
    """Count the verdicts over pairs.

    Args:
        pairs: The pairs.
        clusters: Cluster of each: rows of one are not independent.
        certainty: Of the intervals.
        seed: Of what is drawn for them.
    """
    scores = np.array([pair.tuned_wins if pair.is_judged else np.nan for pair in pairs])
    asked = [i for i, pair in enumerate(pairs) if pair.is_judged and not pair.is_alike]
    won = [i for i in asked if pairs[i].tuned_wins != 0.5 and pairs[i].longer]

    def lean(places: Sequence[int], shares: Sequence[float]) -> Leaning | None:
        if not places:
            return None
        _, numbers = np.unique(clusters[list(places)], return_inverse=True)
        share = confidence_of_mean(np.array(shares), numbers, seed=seed).interval(certainty)
        return Leaning(share=share, number=len(places))

    firsts = [
        (_PLACE[pairs[i].base_first or "tie"] + _PLACE[pairs[i].tuned_first or "tie"]) / 2
        for i in asked
    ]
    longer = [float((pairs[i].tuned_wins == 1) == (pairs[i].longer > 0)) for i in won]
    return PairCount(
        scores=scores,
        agreement=float(np.mean([pairs[i].agrees for i in asked])) if asked else None,
        first=lean(asked, firsts),
        longer=lean(won, longer),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """What two answers to one question got.

    Attributes:
        base: Points of the base model's answer by criterion; None for no verdict.
        tuned: The same of the tuned model's.
    """

    base: dict[str, int] | None
    tuned: dict[str, int] | None

    @property
    def is_judged(self) -> bool:
        """Whether both answers have points."""
        return self.base is not None and self.tuned is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class PointCount:
    """All points together.

    Attributes:
        base: Of each question the base model's score from 0 to 1; NaN where either has none.
        tuned: The same of the tuned model.
        by_criterion: Mean points of base and tuned model.
    """

    base: Floats
    tuned: Floats
    by_criterion: dict[str, tuple[float, float]] = field(default_factory=dict)


def count_points(rows: Sequence[Points]) -> PointCount:
    """Return the score of each row: the mean of its points, brought to 0 to 1."""
    judged = [(row.base, row.tuned) for row in rows if row.base and row.tuned]
    names = judged[0][0] if judged else ()
    return PointCount(
        base=np.array([score_points(row.base) if row.is_judged else np.nan for row in rows]),
        tuned=np.array([score_points(row.tuned) if row.is_judged else np.nan for row in rows]),
        by_criterion={
            name: (
                float(np.mean([base[name] for base, _ in judged])),
                float(np.mean([tuned[name] for _, tuned in judged])),
            )
            for name in names
        },
    )


def score_points(points: dict[str, int] | None) -> float:
    """Return the mean of points, brought to 0 to 1."""
    values = list((points or {}).values())
    return (float(np.mean(values)) - LOWEST) / (HIGHEST - LOWEST)
