"""Successive halving: which trials wait at a rung, end there, or continue.

When all trials have trained to a rung, the best n // ``reduction`` continue to the next
(Jamieson and Talwalkar 2016; Karnin et al. 2013). So the order in which trials begin does not
matter. The verdict is a function of the present trials: an interrupted change is completed later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator.finetunesweep.search.rungs import Rungs
from finetune_operator.finetunesweep.search.trials import (
    Trial,
    TrialState,
    loss_by,
    measured_at,
)


class Halving(Rungs):
    """Where trials wait for each other, and how many go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict on the remaining trials; those in neither set continue.

    Attributes:
        ending: Numbers of the trials that end now.
        waiting: Numbers of the trials that wait at a rung for others.
        rung: Step at which they wait; 0 where none waits.
    """

    ending: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()
    rung: int = 0


def judge_rungs(
    rule: Halving, trials: Iterable[Trial], *, num_trials: int, is_complete: bool
) -> Verdict:
    """Return the trials that end and those that wait.

    Args:
        rule: The rungs.
        trials: All trials of the search, in any order; stopped and failed ones are ignored.
        num_trials: Size of the search, with stopped, failed and deleted trials.
        is_complete: Whether all of them were created.
    """
    left = [t for t in trials if t.state in (TrialState.RUNNING, TrialState.COMPLETE)]
    lost = frozenset(t.number for t in left if t.curve and not math.isfinite(t.curve[-1].loss))
    if lost:
        return Verdict(ending=lost)
    rung, num_kept = rule.min_steps, num_trials // rule.reduction
    while any(trial.curve and trial.curve[-1].step >= rung for trial in left):
        there = [trial for trial in left if _has_come(trial, rung)]
        num_more = len(left) - max(1, num_kept)
        if not is_complete or (num_more > 0 and len(there) < len(left)):
            waiting = frozenset(t.number for t in there if t.state is TrialState.RUNNING)
            return Verdict(waiting=waiting, rung=rung if waiting else 0)
        if num_more > 0:
            step = _measured_step(left, rung)
            worst = sorted(left, key=lambda t: (_loss_of(t, step), t.number))[-num_more:]
            return Verdict(ending=frozenset(trial.number for trial in worst))
        # Rungs before the same measurement are one rung: it halves once.
        step, num_kept = _measured_step(left, rung), num_kept // rule.reduction
        while rung <= step:
            rung *= rule.reduction
    return Verdict()


def _has_come(trial: Trial, rung: int) -> bool:
    return trial.state is TrialState.COMPLETE or measured_at(trial.curve, rung) is not None


def _measured_step(trials: Iterable[Trial], rung: int) -> int:
    """Return the step of the first measurement at a rung or after it.

    It is computed from the first point, because points are evenly spaced and a long curve lacks
    some.
    """
    interval = min((trial.curve[0].step for trial in trials if trial.curve), default=rung)
    return -(-rung // max(1, interval)) * max(1, interval)


def _loss_of(trial: Trial, step: int) -> float:
    """Return the loss at a step; of a trial that ended before it, its last one."""
    found = loss_by(trial.curve, step)
    if found is None:
        of_complete = trial.score if trial.tie is None else trial.tie
        found = trial.curve[-1].loss if trial.curve else of_complete
    return math.inf if found is None else found
