"""Phase and reason: two words for columns. Derived from the conditions, never decided on."""

from __future__ import annotations

from typing import Any

from finetune_operator.status.conditions import Conditions, ConditionType, Reason


def phase_of(conditions: Conditions, under_way: str, *, is_queued: bool) -> str:
    """Return the phase.

    Args:
        conditions: The conditions as planned.
        under_way: Phase of the present stage; empty before the first one.
        is_queued: Whether it waits for Kueue.
    """
    if conditions.status_of(ConditionType.FAILED) == "True":
        return "Failed"
    if conditions.status_of(ConditionType.COMPLETE) == "True":
        return "Succeeded"
    if conditions.status_of(ConditionType.PRUNED) == "True":
        return "Pruned"
    if conditions.status_of(ConditionType.SUSPENDED) == "True":
        return "Suspended"
    if is_queued:
        return "Queued"
    return under_way or "Pending"


def reason_of(
    conditions: Conditions, phase: str, of_stage: ConditionType, failure: dict[str, Any] | None
) -> str:
    """Return the reason of the condition that decides a job's phase.

    Args:
        conditions: The conditions as planned.
        phase: The phase.
        of_stage: Condition of the current stage.
        failure: The last failure, more exact than the condition that ended the job.
    """
    match phase:
        case "Failed":
            found = (failure or {}).get("reason") or conditions.reason_of(ConditionType.FAILED)
        case "Succeeded":
            found = conditions.reason_of(ConditionType.PUBLISHED)
        case "Pruned":
            found = conditions.reason_of(ConditionType.PRUNED)
        case "Suspended":
            found = conditions.reason_of(ConditionType.SUSPENDED)
        case "Queued":
            found = conditions.reason_of(ConditionType.QUOTA_RESERVED)
            if found in (None, "Pending"):  # Kueue's reason for all waits
                found = conditions.reason_of(of_stage) or Reason.QUEUED
        case _:
            found = conditions.reason_of(of_stage) or conditions.reason_of(ConditionType.ACCEPTED)
    return str(found or "")[:63]
