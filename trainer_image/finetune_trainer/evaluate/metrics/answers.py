"""What one model said, and what a metric makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.resampling import Resampled
from finetune_trainer.statistics.sums import Sums

Floats = NDArray[np.float64]

References = Sequence[Sequence[str]]
"""Of each question the accepted answers, in their order in the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one model said.

    Attributes:
        texts: One answer per question that has a prompt; empty where there is none.
        nll_sums: Summed negative log-likelihood of each question's reference tokens, in nats.
        num_tokens: Reference tokens behind each sum.
        preferred: Of each question, the share of its pairs whose better answer the model holds for
            likelier; None where there are no pairs.
        num_bytes: Bytes of the text behind each sum, in UTF-8; None if nobody counted.
        seconds: Time that each answer took; None if nobody measured.
        unended: Places of the texts that are empty because reasoning before them has no end.
        cut: Places of the texts that the limit of tokens cut.
        judged: What a judge gave each answer, by metric; NaN where it gave nothing. None where none
            was asked about these answers.
    """

    texts: Sequence[str]
    nll_sums: Floats
    num_tokens: Floats
    preferred: Floats | None = None
    num_bytes: Floats | None = None
    seconds: Floats | None = None
    unended: frozenset[int] = frozenset()
    cut: frozenset[int] = frozenset()
    judged: Mapping[str, Floats] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One metric of one model.

    Attributes:
        rows: The score of each row by itself.
        over: Returns the score over the rows of the given indices, which may repeat. What does not
            depend on them is computed already.
        is_mean: The score over several rows is the mean of theirs.
        sums: The sums over rows that it follows from; None where it is a mean or has no limits.
    """

    rows: Floats
    over: Resampled
    is_mean: bool = False
    sums: Sums | None = None


def mean_of(scores: Sequence[float] | Floats) -> Measured:
    """Return the metric that is the mean of its rows' scores."""
    rows = np.asarray(scores, dtype=np.float64)
    return Measured(rows=rows, over=lambda indices: float(rows[indices].mean()), is_mean=True)
