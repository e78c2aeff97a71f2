"""Suspending a sweep: its trials are suspended, each as a FineTuneJob is."""

from __future__ import annotations

from finetune_operator.finetunesweep.step import Step
from finetune_operator.status.conditions import ConditionType, Reason

_SUSPENDED = "spec.suspend is true: no trial begins, and those under way save and stop."
_RESUMED = "The sweep was suspended and goes on."


def suspend_or_resume(step: Step) -> None:
    """Suspend the running trials, or resume those that the sweep has suspended.

    The condition is written after all trials are changed, so that an interrupted resumption is
    completed later.
    """
    draft = step.draft
    if step.observed.spec.suspend:
        for trial in step.trials:
            if (trial.is_under_way or trial.state == "Publishing") and not trial.is_suspended:
                step.patch(trial, suspend=True)
        if not draft.is_true(ConditionType.SUSPENDED):
            draft.announce("Suspended", _SUSPENDED)
        reason = Reason.SUSPENDED_BY_USER
        draft.conditions.set(ConditionType.SUSPENDED, True, reason, _SUSPENDED)
    elif draft.is_true(ConditionType.SUSPENDED):
        for trial in step.trials:
            # Where trials wait at rungs, each resumes in its turn.
            if trial.is_suspended and not (step.halves(trial) and trial.is_under_way):
                step.patch(trial, suspend=False)
        draft.conditions.set(ConditionType.SUSPENDED, False, Reason.RESUMED, _RESUMED)
        draft.announce("Resumed", _RESUMED)
