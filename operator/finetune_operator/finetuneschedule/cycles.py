"""The progress of a cycle, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.status.schedule import (
    ActiveCycle,
    AnchorStatus,
    EndedCycle,
    Outcome,
)
from finetune_operator.finetuneschedule.observed import Observed
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    is_terminal,
    shorten,
    timestamp,
)

Object = dict[str, Any]

_BY_TRAFFIC = (Reason.WORSE, Reason.TRIPPED)
"""Reasons of versions that answered requests before they were rejected."""
_NO = (
    Reason.GOAL_NOT_MET,
    Reason.GATES_NOT_MET,
    Reason.DATA_REJECTED,
    Reason.PUBLICATION_REJECTED,
)
"""Reasons of jobs that have done their work, and whose result is not wanted."""
MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The end of a cycle."""

    outcome: Outcome
    message: str


def look_at(observed: Observed, cycle: ActiveCycle, now: datetime) -> ActiveCycle | EndedCycle:
    """Return a cycle as it is now."""
    cycle = _with_job(observed, cycle)
    end = _end_of(observed, cycle)
    if end is None:
        return cycle
    known = cycle.model_dump(exclude={"waits_for"})
    message = shorten(end.message, MESSAGE_CHARACTERS)
    return EndedCycle(**known, outcome=end.outcome, message=message, end_time=timestamp(now))


def seal(job: Object | None, known: AnchorStatus | None) -> AnchorStatus | None:
    """Return the anchor of a schedule: the test rows of the first job that was evaluated.

    Nobody has looked at those of an earlier job, which failed or whose data was rejected.
    """
    status = {} if job is None else job.get("status") or {}
    dataset = status.get("dataset") or {}
    if known is not None or job is None or not status.get("evaluation"):
        return known
    if not (dataset.get("digest") and dataset.get("testSha256")):
        return None
    return AnchorStatus(
        job=job["metadata"]["name"], digest=dataset["digest"], test_sha256=dataset["testSha256"]
    )


def _with_job(observed: Observed, cycle: ActiveCycle) -> ActiveCycle:
    """Take over what the job's status says of data, version and verdict."""
    job = observed.job
    if job is None:
        return cycle
    status = job.get("status") or {}
    version = (status.get("artifact") or {}).get("version")
    goal = find_condition(status.get("conditions"), ConditionType.GOAL_MET) or {}
    failed = find_condition(status.get("conditions"), ConditionType.FAILED) or {}
    verdict = failed.get("reason") if failed.get("status") == "True" else goal.get("reason")
    found = {
        "job_uid": job["metadata"]["uid"],
        "data_digest": (status.get("dataset") or {}).get("digest"),
        "version": int(version) if version else None,
        "verdict": verdict,
        "waits_for": "Traffic" if version and is_terminal(status) else None,
    }
    return cycle.model_copy(update={key: value for key, value in found.items() if value})


def _end_of(observed: Observed, cycle: ActiveCycle) -> End | None:
    if cycle.waits_for == "Traffic":
        return _end_in_traffic(observed, cycle)
    if observed.job is not None:
        return _end_of_job(observed.job)
    if cycle.job_uid is not None and observed.is_job_gone:
        return End(outcome="Deleted", message=f"Somebody deleted FineTuneJob {cycle.job}.")
    refusal = observed.refusal
    if cycle.job_uid is None and refusal is not None and refusal.is_final:
        return End(outcome="Failed", message=f"{refusal.reason}: {refusal.message}")
    return None


def _end_of_job(job: Mapping[str, Any]) -> End | None:
    """Return the end of a job that has published nothing; None while it goes on."""
    status = job.get("status") or {}
    if not is_terminal(status):
        return None
    failed = find_condition(status.get("conditions"), ConditionType.FAILED) or {}
    reason, message = str(failed.get("reason") or ""), str(failed.get("message") or "")
    if failed.get("status") != "True":
        return End(outcome="NotPublished", message="The job has ended without a version.")
    outcome: Outcome = "NotPublished" if reason in _NO else "Failed"
    return End(outcome=outcome, message=f"{reason}: {message}")


def _end_in_traffic(observed: Observed, cycle: ActiveCycle) -> End | None:
    """Return what the endpoint made of the version; None while it has not decided."""
    reference, endpoint, version = observed.spec.endpoint_ref, observed.endpoint, cycle.version
    assert version is not None
    if reference is None:
        return End(outcome="Published", message=f"Version {version} is published.")
    if endpoint is None:
        text = f"Version {version} is published, and endpoint {reference.name} is gone."
        return End(outcome="Published", message=text)
    status = endpoint.get("status") or {}
    active, candidate = status.get("active") or {}, status.get("candidate") or {}
    if active.get("version") == version:
        return End(outcome="Promoted", message=f"Version {version} answers.")
    stays = f"Version {active['version']} answers." if active else "No version answers."
    if candidate.get("version") == version:
        return None
    for rejected in status.get("rejected") or ():
        if rejected.get("version") == version:
            outcome: Outcome = "RolledBack" if rejected["reason"] in _BY_TRAFFIC else "Refused"
            told = f"{rejected['reason']}: {rejected.get('message') or ''}"
            return End(outcome=outcome, message=f"{stays} {told}")
    newer = max(active.get("version") or 0, candidate.get("version") or 0)
    if newer > version:
        return End(outcome="Superseded", message=f"Version {newer} came first. {stays}")
    pinned = (endpoint.get("spec") or {}).get("version")
    if pinned is not None:
        text = f"Version {version} is published; spec.version of the endpoint pins {pinned}."
        return End(outcome="Published", message=text)
    return None
