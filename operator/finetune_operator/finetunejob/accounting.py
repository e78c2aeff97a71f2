"""What incidents cost: recorded once each, held against the budgets of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune_api.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.failure import Cause
from finetune_operator.finetunejob.incidents import Incident, why_not_again
from finetune_operator.finetunejob.stages import StageView
from finetune_operator.finetunejob.step import Step
from finetune_operator.status.conditions import parse_timestamp, timestamp


def account(
    step: Step, spec: FineTuneJobSpec, view: StageView, incidents: list[Incident]
) -> Cause | None:
    """Record the incidents that are new; return the cause to give the stage up for, if any.

    The record is the memory: it lies in the status, so that an operator that was away counts what
    it missed and none twice, also where pods are gone.
    """
    last = step.draft.last_incident(view.stage)
    for incident in incidents:
        if last is not None and _is_known(incident, last):
            continue
        counts = step.draft.record_incident(view.stage, _entry(step, view.stage, incident))
        if incident.is_free:
            continue
        suffix = why_not_again(spec, incident.incident_class, counts)
        if suffix is not None:
            return replace(incident.cause, message=f"{incident.cause.message}{suffix}")
    return None


def record_eviction(step: Step, view: StageView, reason: str) -> None:
    """Record that Kueue took the quota of a stage back, which costs nothing.

    Its pods are deleted with their Job's suspension and tell nothing of it. Whatever began before
    and ends now is a part of it.
    """
    entry: dict[str, object] = {
        "class": "Preemption",
        "reason": reason[:63],
        "stage": view.stage.value,
        "counted": False,
        "time": timestamp(step.now),
    }
    if view.stage is Stage.TRAIN and step.observed.ledger.step:
        entry["toStep"] = step.observed.ledger.step
    step.draft.record_incident(view.stage, entry)


def _is_known(incident: Incident, last: Mapping[str, Any]) -> bool:
    """Return whether an incident is recorded, or is a late part of the one recorded last."""
    moment = parse_timestamp(last.get("time"))
    if moment is None:
        return False
    if incident.at <= moment:
        return True
    return incident.began <= moment and incident.rank != last.get("rank")


def _entry(step: Step, stage: Stage, incident: Incident) -> dict[str, object]:
    entry: dict[str, object] = {
        "class": incident.incident_class,
        "reason": incident.cause.reason[:63],
        "stage": stage.value,
        "rank": incident.rank,
        "counted": not incident.is_free,
        "time": timestamp(incident.at),
    }
    if incident.cause.node:
        entry["node"] = incident.cause.node
    to_step = incident.to_step
    if to_step is None and stage is Stage.TRAIN:
        to_step = step.observed.ledger.step or None
    for key, value in (("fromStep", incident.from_step), ("toStep", to_step)):
        if value is not None:
            entry[key] = value
    return entry
