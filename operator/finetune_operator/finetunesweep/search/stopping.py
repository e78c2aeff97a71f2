"""Early stopping of trials, by comparison of their curves.

The caller names the step up to which it judged a trial before; later points are judged against the
present trials. Step 0 judges the whole curve again. A NaN or infinite loss stops its trial at once,
and is left out of comparisons.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from finetune_operator.finetunesweep.search.rungs import Rungs, check_min_steps
from finetune_operator.finetunesweep.search.trials import (
    Curve,
    Trial,
    TrialState,
    loss_by,
    measured_at,
)


class Asha(Rungs):
    """Continue only the best at each rung (ASHA as Li et al. 2020, the variant that stops).

    Of n trials that reached a rung, the best n // ``reduction`` continue, at least one. A trial is
    compared with those that came before it and does not wait for others.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Median:
    """Stop a trial whose best loss so far is above the median of the complete ones at its step.

    Attributes:
        min_steps: No trial is stopped before this step.
        min_trials: No trial is stopped before this many are complete.

    Raises:
        ValueError: Less than one step or trial.
    """

    min_steps: int
    min_trials: int = 5

    def __post_init__(self) -> None:
        check_min_steps(self.min_steps)
        if self.min_trials < 1:
            raise ValueError(f"min_trials is {self.min_trials}; it is to be at least 1")


Rule: TypeAlias = Asha | Median


def rungs(rule: Asha, num_steps: int) -> tuple[int, ...]:
    """Return the steps of all rungs that a trial of ``num_steps`` comes to."""
    return tuple(rule.between(0, num_steps))


def should_prune(
    rule: Rule, trial: Trial, others: Iterable[Trial], *, judged_step: int = 0
) -> bool:
    """Return whether a running trial is to be stopped.

    Args:
        rule: The way of comparison.
        trial: The trial, judged by its last loss.
        others: All other trials of the sweep in any order, stopped and complete ones too.
        judged_step: Its step at the last verdict; 0 for none.
    """
    if not trial.curve or trial.curve[-1].step <= judged_step:
        return False
    if not math.isfinite(trial.curve[-1].loss):
        return True
    if isinstance(rule, Asha):
        return _falls_behind(rule, trial.curve, [each.curve for each in others], judged_step)
    complete = [each.curve for each in others if each.state is TrialState.COMPLETE]
    return _is_above_median(rule, trial.curve, complete)


def _falls_behind(rule: Asha, curve: Curve, others: list[Curve], judged_step: int) -> bool:
    for rung in rule.between(judged_step, curve[-1].step):
        own = measured_at(curve, rung)
        assert own is not None  # the rung is not beyond the curve
        if not math.isfinite(own.loss):
            return True
        come = [each for each in others if measured_at(each, rung) is not None]
        losses = (loss_by(each, min(own.step, each[-1].step)) for each in come)
        found = [own.loss, *(loss for loss in losses if loss is not None and math.isfinite(loss))]
        num_kept = max(1, len(found) // rule.reduction)
        if own.loss > sorted(found)[num_kept - 1]:
            return True
    return False


def _is_above_median(rule: Median, curve: Curve, complete: list[Curve]) -> bool:
    step = curve[-1].step
    if step < rule.min_steps or len(complete) < rule.min_trials:
        return False
    found = (loss_by(each, step) for each in complete)
    losses = [loss for loss in found if loss is not None and math.isfinite(loss)]
    if not losses:
        return False
    best = min(point.loss for point in curve if math.isfinite(point.loss))
    return best > statistics.median(losses)
