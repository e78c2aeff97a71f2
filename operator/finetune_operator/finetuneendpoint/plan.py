"""``plan(observed, now)``: decisions on one FineTuneEndpoint. Pure and total.

The status is the routing table of the fronts and the task of the servers, so it is written before
anything is created or deleted. All that decisions rest on is in it: an operator that starts anew
decides the same.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from finetune_operator.finetuneendpoint.actions import Plan
from finetune_operator.finetuneendpoint.draft import EndpointDraft
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import (
    Rotation,
    is_same_version,
    read_rotation,
)
from finetune_operator.finetuneendpoint.serving import next_look, serving_of
from finetune_operator.finetuneendpoint.telling import set_conditions
from finetune_operator.finetuneendpoint.traffic import enter, is_tripped, judge, rules_of
from finetune_operator.finetuneendpoint.verification import Outcome, Verdict, look_at
from finetune_operator.finetuneendpoint.versions import (
    follow,
    forgive_pinned,
    takes_over_at_once,
)
from finetune_operator.status.conditions import ConditionType, Reason
from finetune_operator.status.draft import Announce

__all__ = ["plan"]

MAX_ROUNDS = 8
"""Changes of the rotation in one plan. Two versions cannot make more of them."""
FREQUENT_SECONDS = 1.0
SELDOM_SECONDS = 30.0


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
        return _status_unreadable(error)
    rotation = settle(observed, forgive_pinned(observed, stored), now)
    draft.put_rotation(rotation)
    set_conditions(draft, observed, rotation)
    status, counts_wait = draft.to_wire(observed.written_at)
    waits = [] if counts_wait is None else [counts_wait]
    if observed.refusal is not None:
        waits.append(observed.refusal.retry_seconds)
    look, wait = next_look(observed, rotation, now)
    if wait is not None:
        waits.append(wait)
    if rotation.candidate is not None:
        waits.append(SELDOM_SECONDS if not _is_resting(rotation) else FREQUENT_SECONDS)
    return Plan(
        status=status,
        events=tuple(draft.events),
        serving=serving_of(observed, rotation),
        look=look,
        requeue_after=min(waits, default=None),
        report_interval_seconds=FREQUENT_SECONDS if rotation.candidate else SELDOM_SECONDS,
    )


def settle(observed: Observed, rotation: Rotation, now: datetime) -> Rotation:
    """Return the rotation after all changes that the facts ask for now."""
    for _ in range(MAX_ROUNDS):
        before = rotation
        rotation = _go_on(observed, follow(observed, rotation, now), now)
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
        return judge(observed, rotation, rules_of(rollout), now)
    outcome = look_at(observed, candidate)
    if outcome.verdict is Verdict.VERIFIED:
        if at_once or rollout is None:
            return _take_over(rotation, outcome, now)
        return enter(rotation, rules_of(rollout), outcome, now)
    is_move = rotation.active is not None and is_same_version(rotation.active, candidate)
    if outcome.verdict is Verdict.OPEN or is_move:
        # A version that fails on its new server goes on answering on the present one.
        return rotation
    refused = rotation.reject(now, outcome.reason, outcome.message, outcome.sha256)
    return refused.record(now, candidate, "Refused", f"{outcome.reason}: {outcome.message}")


def _take_over(rotation: Rotation, outcome: Outcome, now: datetime) -> Rotation:
    verified = rotation.verify(now, outcome.sha256)
    candidate = verified.candidate
    assert candidate is not None
    promoted = verified.record(now, candidate, "Verified", outcome.message).promote(now)
    return promoted.record(now, candidate, "Promoted", "It answers all requests.", 100)


def _is_resting(rotation: Rotation) -> bool:
    last = rotation.last_decision
    return last is not None and last.action == "Held"


def _spec_unreadable(draft: EndpointDraft, observed: Observed) -> Plan:
    """Leave everything as it is: fronts and servers go on by the status."""
    message = _cannot_read(f"the spec: {observed.problem}")
    draft.conditions.set(ConditionType.STALLED, True, Reason.INVALID_SPEC, message)
    status, _ = draft.to_wire(None)
    return Plan(status=status)


def _status_unreadable(error: ValidationError) -> Plan:
    """Write nothing: fronts and servers may be able to read what this operator cannot."""
    field = ".".join(str(part) for part in error.errors()[0]["loc"])
    message = _cannot_read(f"status.{field}")
    return Plan(events=(Announce(kind="Warning", reason="InvalidStatus", message=message),))


def _cannot_read(what: str) -> str:
    return (
        f"This version of the operator cannot read {what}. Versions in rotation go on answering."
        " Nothing is changed until CRD and operator are of one version."
    )
