"""What a FineTuneJob waits for, and for how long: read off its status alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.protocol.trainer import Stage
from finetune_api.reasons import OPERATOR_REASONS
from finetune_operator.status.conditions import ConditionType, find_condition, parse_timestamp

Object = dict[str, Any]

OTHER = "Other"
"""Label of every reason that is not listed: reasons of pods and of Kueue are not ours to bound."""
STAGE_OF_PHASE = {
    "Preparing": Stage.PREPARE,
    "Training": Stage.TRAIN,
    "Evaluating": Stage.EVALUATE,
    "Publishing": Stage.PUBLISH,
}
_CONDITION_OF_STAGE = {
    Stage.PREPARE: ConditionType.DATASET_READY,
    Stage.TRAIN: ConditionType.TRAINING,
    Stage.EVALUATE: ConditionType.EVALUATED,
    Stage.PUBLISH: ConditionType.PUBLISHED,
}
_AT_WORK = frozenset({"Preparing", "Evaluating", "Publishing"})
"""Reasons of a condition that is not true yet because its stage is at work."""
_AT_REST = frozenset({"Suspended", "AwaitingApproval", "AwaitingSelection"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """A job that waits for something.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        state: ``Queued``, ``AwaitingApproval``, ``AwaitingSelection``, ``NotStarting``, ``Silent``
            or ``NoProgress``.
        reason: Reason in its status, bounded.
        seconds: For how long.
    """

    namespace: str
    name: str
    state: str
    reason: str
    seconds: float


def phase_of(job: Object) -> str:
    """Return the phase; a job that no operator has looked at is pending."""
    return str((job.get("status") or {}).get("phase") or "Pending")


def is_at_rest(status: Object | None) -> bool:
    """Return whether a job waits for a person, or a sweep, to change it: nothing of it runs."""
    return (status or {}).get("phase") in _AT_REST


def reason_of(job: Object) -> str:
    """Return why a job is in its phase, as one of a fixed set of words.

    A failed job's is its class: the exact reason is the trainer's, and its number is not bounded.
    """
    status = job.get("status") or {}
    return class_of(status) if status.get("phase") == "Failed" else bounded_reason(status)


def bounded_reason(status: Object) -> str:
    """Return the reason of a status, of a job or a sweep, as one of a fixed set of words."""
    reason = str(status.get("reason") or "")
    return reason if not reason or reason in OPERATOR_REASONS else OTHER


def class_of(status: Object) -> str:
    """Return the class of a status' last failure, as one of a fixed set of words."""
    found = str((status.get("lastFailure") or {}).get("class") or "")
    return found if found in OPERATOR_REASONS else OTHER


def current_stage(job: Object) -> Stage:
    """Return the stage that is under way, or that comes next."""
    done = {
        item["name"]
        for item in (job.get("status") or {}).get("stages") or ()
        if item.get("completionTime")
    }
    return next((stage for stage in Stage if stage.value not in done), Stage.EVALUATE)


def find_wait(job: Object, now: datetime, *, expects_progress: bool) -> Wait | None:
    """Return what a job waits for, if anything, and for how long already."""
    metadata, status = job["metadata"], job.get("status") or {}
    phase = phase_of(job)
    created = metadata.get("creationTimestamp")

    def wait(state: str, since: str | None, *, reason: str = "") -> Wait:
        begun = parse_timestamp(since) or parse_timestamp(created) or now
        return Wait(
            namespace=metadata["namespace"],
            name=metadata["name"],
            state=state,
            reason=reason or reason_of(job),
            seconds=max(0.0, (now - begun).total_seconds()),
        )

    def condition(kind: ConditionType) -> Object:
        return find_condition(status.get("conditions"), kind) or {}

    if phase == "Queued":
        # Kueue's own reason: that it is queued is what the state says already.
        told = condition(ConditionType.QUOTA_RESERVED)
        return wait("Queued", told.get("lastTransitionTime"), reason=told.get("reason") or "")
    if phase == "Pending":
        kind = _CONDITION_OF_STAGE[current_stage(job)]
        return wait("NotStarting", condition(kind).get("lastTransitionTime"))
    if phase == "AwaitingApproval":
        is_late = current_stage(job) is Stage.PUBLISH
        told = condition(ConditionType.PUBLISHED if is_late else ConditionType.DATA_APPROVED)
        return wait(phase, told.get("lastTransitionTime"))
    if phase == "AwaitingSelection":
        return wait(phase, condition(ConditionType.EVALUATED).get("lastTransitionTime"))
    stage = STAGE_OF_PHASE.get(phase)
    if stage is None:
        return None
    told = condition(_CONDITION_OF_STAGE[stage])
    since = told.get("lastTransitionTime")
    if told.get("status") != "True" and told.get("reason") not in _AT_WORK:
        return wait("NotStarting", since)
    progress = status.get("progress") or {}
    heartbeat = progress.get("lastHeartbeatTime") if progress.get("stage") == stage.value else None
    if heartbeat:
        # RFC 3339 in UTC, to the second: the order of the strings is the order of the times.
        return wait("Silent", max(heartbeat, since or ""))
    if stage is Stage.TRAIN and expects_progress:
        return wait("NoProgress", since)
    return None
