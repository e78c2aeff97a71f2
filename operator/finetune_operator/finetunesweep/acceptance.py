"""Whether a sweep may run at all: asked once, before any trial is created."""

from __future__ import annotations

from finetune_operator.finetunesweep.step import Step
from finetune_operator.finetunesweep.trials.checking import find_fault
from finetune_operator.status.conditions import ConditionType, Reason

_ACCEPTED = "The spec is valid, and every trial is a FineTuneJob that this cluster takes."


def accept(step: Step) -> bool:
    """Return whether the sweep goes on; if not, the draft tells why."""
    observed, draft = step.observed, step.draft
    was_told = draft.conditions.status_of(ConditionType.ACCEPTED) in ("True", "Unknown")
    # The first trials are created before this is written, each after a plan of its own.
    was_accepted = was_told or bool(observed.trials)
    if observed.parsed is None:
        if was_accepted:
            _set_unreadable(step)
        else:
            _refuse(step, Reason.INVALID_SPEC, observed.problem)
        return False
    # Changed settings do not apply to sweeps that were accepted before.
    fault = None if was_accepted else find_fault(observed, step.config)
    if fault is not None:
        _refuse(step, fault.reason, fault.message)
        return False
    draft.conditions.set(ConditionType.ACCEPTED, True, Reason.VALID, _ACCEPTED)
    if not was_told:
        draft.announce("Accepted", f"Accepted: {observed.spec.num_trials} trials")
    return True


def _refuse(step: Step, reason: Reason, message: str) -> None:
    step.draft.conditions.set(ConditionType.ACCEPTED, False, reason, message)
    step.fail(reason, message)


def _set_unreadable(step: Step) -> None:
    """Leave a sweep unchanged that another version of the operator has accepted."""
    message = (
        f"This version of the operator cannot read the spec, which was accepted before:"
        f" {step.observed.problem}. Its trials go on, and nothing new is started, until CRD and"
        " operator are of one version."
    )
    conditions = step.draft.conditions
    if conditions.reason_of(ConditionType.ACCEPTED) != Reason.INVALID_SPEC:
        step.draft.announce(Reason.INVALID_SPEC, message, warning=True)
    conditions.set(ConditionType.ACCEPTED, "Unknown", Reason.INVALID_SPEC, message)
    step.draft.put("reason", Reason.INVALID_SPEC.value)
