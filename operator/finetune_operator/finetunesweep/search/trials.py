"""The search's view of a trial: values, state, curve and score.

Lower is better; the caller negates measures of which more is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from finetune_operator.finetunesweep.search.space import Assignment


class TrialState(StrEnum):
    """How far a trial is."""

    RUNNING = "Running"
    """Created and not at its end; also waiting in a queue."""
    COMPLETE = "Complete"
    """Trained to its end."""
    PRUNED = "Pruned"
    """Stopped by the sweep."""
    FAILED = "Failed"
    """Ended without a result of its own."""


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation on validation rows while a trial trains.

    Attributes:
        step: Work done so far, in the same unit for all trials of a sweep: steps, or tokens where a
            parameter changes the tokens per step.
        loss: May be NaN or infinite.
    """

    step: int
    loss: float


Curve: TypeAlias = tuple[Point, ...]
"""The evaluations of one trial, by rising step."""


def measured_at(curve: Curve, step: int) -> Point | None:
    """Return the first measurement at a step or after it; None where the curve ends before."""
    return next((point for point in curve if point.step >= step), None)


def loss_by(curve: Curve, step: int) -> float | None:
    """Return the loss at a step; None where the curve ends before.

    Losses between two known points are interpolated. The line lies above a convex falling curve, so
    missing points stop no trial.
    """
    after = measured_at(curve, step)
    before = next((point for point in reversed(curve) if point.step < step), None)
    if after is None or before is None or after.step == step:
        return None if after is None else after.loss
    share = (step - before.step) / (after.step - before.step)
    return before.loss + share * (after.loss - before.loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: Counts from 0 within the sweep.
        assignment: Its values, as they were suggested.
        score: Score of a complete trial, None if unknown; of others the best validation loss so
            far.
        tie: Of equal scores the lower one wins; None for none.
        curve: Its losses; may be empty where only the score is known.
        replicate_of: The trial whose values it repeats with another seed; None for one that was
            suggested.
    """

    number: int
    assignment: Assignment
    state: TrialState
    score: float | None = None
    tie: float | None = None
    curve: Curve = ()
    replicate_of: int | None = None

    @property
    def has_finite_score(self) -> bool:
        """Whether its score can be compared."""
        return self.score is not None and math.isfinite(self.score)

    @property
    def tie_breaker(self) -> float:
        """What decides between equal scores: nothing known comes last."""
        return math.inf if self.tie is None or math.isnan(self.tie) else self.tie
