"""What incidents cost: recorded once each, held against the budgets of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.lifecycle.fruitless import (
    count_fruitless,
    evicted_by_queue,
    kind_of,
)
from finetune_operator.finetunejob.pods.incidents import Incident, has_own_limit, why_not_again
from finetune_operator.finetunejob.pods.outages import has_run, is_outage, is_released, wait_out
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.integrations.kueue.state import QueueState
from finetune_operator.status.conditions import parse_timestamp, timestamp

PATIENT_EVICTIONS = 2
"""So often in a row a pod that its kubelet has evicted is replaced at once."""


def account(
    step: Step, spec: FineTuneJobSpec, view: StageView, incidents: list[Incident]
) -> Cause | None:
    """Record the incidents that are new; return the cause to give the stage up for, if any.

    The record is the memory: it lies in the status, so that an operator that was away counts what
    it missed and none twice, also where pods are gone.
    """
    last, told = step.draft.last_incident(view.stage), _recorded_pods(step.draft, view.stage)
    given_up: Cause | None = None
    for incident in incidents:
        if incident.pods & told or (last is not None and _is_known(incident, last)):
            continue
        counts = step.draft.record_incident(view.stage, _entry(step, spec, view.stage, incident))
        if incident.is_free:
            given_up = given_up or _account_free(step, view, incident)
            continue
        if _passes(step, spec, incident):
            given_up = given_up or _wait_out(step, view, incident)
            continue
        suffix = why_not_again(spec, incident.incident_class, counts)
        if suffix is not None:
            return replace(incident.cause, message=f"{incident.cause.message}{suffix}")
    return given_up


def _account_free(step: Step, view: StageView, incident: Incident) -> Cause | None:
    """Count an end that costs no retry; return the cause to give the stage up for, if any.

    A node that evicts again and again is left alone for longer each time.
    """
    kind = kind_of(incident.cause.reason)
    in_a_row, given_up = count_fruitless(
        step,
        view,
        incident.cause,
        kind,
        reached=incident.to_step or 0,
        seconds=(incident.at - incident.began).total_seconds(),
    )
    if given_up is None and kind == "evictions" and in_a_row > PATIENT_EVICTIONS:
        return _wait_out(step, view, incident)
    return given_up


def _passes(step: Step, spec: FineTuneJobSpec, incident: Incident) -> bool:
    """Return whether an incident is an outage that uses up no retry: no budget is named for it."""
    return is_outage(step.draft, step.observed.ledger.step, incident.cause) and not has_own_limit(
        spec, incident.incident_class
    )


def _wait_out(step: Step, view: StageView, incident: Incident) -> Cause | None:
    """Wait for the end of an outage, unless the stage waits already or is over."""
    if view.has_ended or is_released(step.draft, view):
        return None
    return wait_out(step, view, incident.cause)


def record_eviction(step: Step, view: StageView, queue: QueueState) -> Cause | None:
    """Record that Kueue took the quota of a stage back, which costs no retry.

    Its pods are deleted with their Job's suspension and tell nothing of it. Whatever began before
    and ends now is a part of it.

    Returns:
        The cause to give the stage up for, if it has come to nothing too often.
    """
    cause = evicted_by_queue(queue.reason, queue.message, step.now)
    reached = step.observed.ledger.step if view.stage is Stage.TRAIN else 0
    _record_free(step, view, cause, to_step=reached or None)
    if not has_run(step.draft, step.observed.ledger.step, view):
        return None  # it held quota, and no pod of it ran
    seconds = _admitted_seconds(step.observed.job, view, queue, step.now)
    return count_fruitless(step, view, cause, "others", seconds=seconds)[1]


def _admitted_seconds(
    job: Mapping[str, Any], view: StageView, queue: QueueState, now: datetime
) -> float:
    """Return how long the admission went on that an eviction ends.

    Once the quota is gone, Kueue tells the sum only; the record has what it was before.
    """
    began = parse_timestamp(queue.admitted_at)
    if began is not None:
        return (now - began).total_seconds()
    assert view.job is not None
    name = view.job["metadata"]["name"]
    stages = (job.get("status") or {}).get("stages") or ()
    known = [int(entry.get("pastSeconds") or 0) for entry in stages if entry.get("job") == name]
    return view.past_seconds - sum(known)


def record_deletion(step: Step, view: StageView, cause: Cause) -> Cause | None:
    """Record that the Job of a stage was deleted, which costs no retry.

    Returns:
        The cause to give the stage up for, if it has come to nothing too often.
    """
    _record_free(step, view, cause)
    return count_fruitless(step, view, cause, "deletions")[1]


def _record_free(step: Step, view: StageView, cause: Cause, *, to_step: int | None = None) -> None:
    """Record an end of a stage that no pod tells of and that costs no retry."""
    entry: dict[str, object] = {
        "class": "Preemption",
        "reason": cause.reason[:63],
        "stage": view.stage.value,
        "counted": False,
        "time": cause.time,
    }
    if to_step is not None:
        entry["toStep"] = to_step
    step.draft.record_incident(view.stage, entry)


def _recorded_pods(draft: JobDraft, stage: Stage) -> frozenset[str]:
    """Return the pods of the stage's recorded incidents: clocks of nodes may be wrong."""
    history = (draft.get("attempts") or {}).get("history") or ()
    told = (entry.get("pod") for entry in history if entry.get("stage") == stage.value)
    return frozenset(pod for pod in told if pod)


def _is_known(incident: Incident, last: Mapping[str, Any]) -> bool:
    """Return whether an incident is recorded, or is a late part of the one recorded last."""
    moment = parse_timestamp(last.get("time"))
    if moment is None:
        return False
    if incident.at <= moment:
        return True
    return incident.began <= moment and incident.rank != last.get("rank")


def _entry(
    step: Step, spec: FineTuneJobSpec, stage: Stage, incident: Incident
) -> dict[str, object]:
    entry: dict[str, object] = {
        "class": incident.incident_class,
        "reason": incident.cause.reason[:63],
        "stage": stage.value,
        "rank": incident.rank,
        "counted": not (incident.is_free or _passes(step, spec, incident)),
        # A node whose clock is ahead would hide what fails after it.
        "time": timestamp(min(incident.at, step.now)),
    }
    for name, place in (("node", incident.cause.node), ("pod", incident.cause.pod)):
        if place:
            entry[name] = place
    to_step = incident.to_step
    if to_step is None and stage is Stage.TRAIN:
        to_step = step.observed.ledger.step or None
    for key, value in (("fromStep", incident.from_step), ("toStep", to_step)):
        if value is not None:
            entry[key] = value
    return entry
