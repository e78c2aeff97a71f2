"""``plan(observed, now)``: decisions on one FineTuneEndpoint. Pure and total.

The status is the routing table of the fronts and the task of the servers, so it is written before
anything is created or deleted. All that decisions rest on is in it: an operator that starts anew
decides the same.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from finetune_operator.finetuneendpoint.actions import Plan
from finetune_operator.finetuneendpoint.conditions import set_conditions
from finetune_operator.finetuneendpoint.draft import EndpointDraft
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import (
    Rotation,
    is_same_version,
    read_rotation,
)
from finetune_operator.finetuneendpoint.serving import next_look, seconds_to_outlive, serving_of
from finetune_operator.finetuneendpoint.traffic import (
    enter,
    is_tripped,
    judge,
    rules_of,
    waits_for_person,
)
from finetune_operator.finetuneendpoint.verification import (
    Outcome,
    Verdict,
    answering,
    look_at,
)
from finetune_operator.finetuneendpoint.versions import (
    follow,
    forgive_edited,
    recall,
    remember,
    seconds_to_retry,
    takes_over_at_once,
)
from finetune_operator.status.conditions import ConditionType, Reason

__all__ = ["plan"]

MAX_ROUNDS = 8
"""Changes of the rotation in one plan. Two versions cannot make more of them."""
FREQUENT_SECONDS = 1.0
SELDOM_SECONDS = 30.0
ROOM_SECONDS = 300.0
"""Time between two looks of an endpoint that waits for older ones to be deleted."""
_UNREADABLE = (
    "Versions in rotation go on answering. Nothing is changed until CRD and operator are of one"
    " version."
)


def plan(observed: Observed, now: datetime) -> Plan:
    """Return the decisions on one endpoint.

    Args:
        observed: The snapshot.
        now: The present, with a time zone.
    """
    if observed.endpoint["metadata"].get("deletionTimestamp"):
        # The garbage collector deletes servers and front with their last owner.
        return Plan()
    draft = EndpointDraft(observed.endpoint, now)
    if observed.parsed is None:
        return _spec_unreadable(draft, observed)
    try:
        stored = read_rotation(observed.endpoint.get("status") or {})
    except ValidationError as error:
        # Fronts and servers may be able to read what this operator cannot.
        conditions = draft.stall_unreadable(error, _UNREADABLE)
        events = tuple(draft.events)
        return Plan(conditions=conditions, events=events, requeue_after=ROOM_SECONDS)
    told = observed.endpoint.get("status") or {}
    # Anybody may name an endpoint as an owner, so this counts only where the status was lost. A
    # user may also write labels, managers of fields and records.
    is_lost = not told.get("conditions") and "observedGeneration" not in told
    has_servers = stored.served or (is_lost and observed.owned)
    if observed.num_older >= observed.config.max_endpoints and not has_servers:
        return _wait_for_room(draft, observed)
    rotation = recall(observed, forgive_edited(observed, stored), now)
    rotation = settle(observed, rotation, now)
    draft.put_rotation(rotation)
    set_conditions(draft, observed, rotation)
    status, counts_wait = draft.to_wire(observed.written_at)
    waits = [] if counts_wait is None else [counts_wait]
    active = rotation.active
    is_served = active is None or answering(observed, active).verdict is Verdict.VERIFIED
    is_unheard = observed.is_young and not is_served
    if is_unheard or draft.conditions.reason_of(ConditionType.PROGRESSING) == Reason.WAITS_FOR_TURN:
        waits.append(SELDOM_SECONDS)
    if observed.refusal is not None:
        waits.append(observed.refusal.retry_seconds)
    look, wait = next_look(observed, rotation, now)
    if wait is not None:
        waits.append(wait)
    if wait := seconds_to_outlive(observed, rotation, now):
        waits.append(wait)
    if rotation.candidate is not None:
        waits.append(SELDOM_SECONDS if not _is_resting(rotation) else FREQUENT_SECONDS)
    elif rotation.refused is not None:
        waits.append(max(SELDOM_SECONDS, seconds_to_retry(rotation.refused, now)))
    return Plan(
        status=status,
        events=tuple(draft.events),
        serving=serving_of(observed, rotation, now),
        look=look,
        requeue_after=min(waits, default=None),
        report_interval_seconds=SELDOM_SECONDS
        if is_served and rotation.candidate is None
        else FREQUENT_SECONDS,
    )


def settle(observed: Observed, rotation: Rotation, now: datetime) -> Rotation:
    """Return the rotation after all changes that the facts ask for now."""
    for _ in range(MAX_ROUNDS):
        before = rotation
        rotation = follow(observed, remember(observed, rotation), now)
        rotation = _go_on(observed, rotation, now)
        if rotation == before:
            break
    return rotation


def _go_on(observed: Observed, rotation: Rotation, now: datetime) -> Rotation:
    candidate = rotation.candidate
    if candidate is None:
        return rotation
    at_once = takes_over_at_once(observed, rotation, candidate)
    rollout = observed.spec.rollout
    if candidate.weight:
        if rollout is None or (at_once and not is_tripped(observed, candidate)):
            text = "The rollout has no more steps."
            return rotation.promote(now).record(now, candidate, "Promoted", text, 100)
        return judge(observed, rotation, rules_of(observed, candidate), now)
    outcome = look_at(observed, candidate, rotation.active)
    if outcome.verdict is Verdict.VERIFIED:
        if waits_for_person(observed, rotation, outcome):
            return rotation
        if at_once or rollout is None:
            return _take_over(rotation, outcome, now)
        return enter(rotation, rules_of(observed, candidate), outcome, now)
    is_move = rotation.active is not None and is_same_version(rotation.active, candidate)
    if outcome.verdict is Verdict.OPEN:
        return rotation
    if is_move:
        # The version goes on answering on its present server.
        return rotation.refuse_move(now, outcome.reason, outcome.message)
    refused = rotation.reject(now, outcome.reason, outcome.message, outcome.sha256)
    return refused.record(now, candidate, "Refused", f"{outcome.reason}: {outcome.message}")


def _take_over(rotation: Rotation, outcome: Outcome, now: datetime) -> Rotation:
    verified = rotation.verify(now, outcome.sha256)
    candidate = verified.candidate
    assert candidate is not None
    promoted = verified.record(now, candidate, "Verified", outcome.message).promote(now)
    before, text = rotation.active, "It answers all requests"
    if before is not None and candidate.version < before.version:
        text += f" instead of version {before.version}, because spec.version names it"
    return promoted.record(now, candidate, "Promoted", f"{text}.", 100)


def _is_resting(rotation: Rotation) -> bool:
    last = rotation.last_decision
    return last is not None and last.action == "Held"


def _wait_for_room(draft: EndpointDraft, observed: Observed) -> Plan:
    """Start nothing, because older endpoints take all places of the namespace."""
    # Without the number of older ones: a deletion would change the status of all that wait.
    reason, most = Reason.TOO_MANY_ENDPOINTS, observed.config.max_endpoints
    text = (
        f"config.maxEndpoints is {most}, and at least so many endpoints of this namespace are"
        " older: delete one of them, or ask your administrator for more."
    )
    draft.conditions.set(ConditionType.AVAILABLE, False, reason, text)
    draft.conditions.set(ConditionType.STALLED, True, reason, text)
    draft.put("phase", "Pending")
    draft.put("reason", reason.value)
    status, _ = draft.to_wire(None)
    return Plan(status=status, requeue_after=ROOM_SECONDS)


def _spec_unreadable(draft: EndpointDraft, observed: Observed) -> Plan:
    """Leave everything as it is: fronts and servers go on by the status."""
    message = (
        f"This version of the operator cannot read the spec: {observed.problem}. {_UNREADABLE}"
    )
    draft.conditions.set(ConditionType.STALLED, True, Reason.INVALID_SPEC, message)
    status, _ = draft.to_wire(None)
    return Plan(status=status)
