"""The progress of a cycle, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import Any

from finetune_api.names import published_name
from finetune_api.v1alpha1.status.dataset import AnchorStatus
from finetune_api.v1alpha1.status.schedule import (
    ActiveCycle,
    BackoffStatus,
    EndedCycle,
    FineTuneScheduleStatus,
    Outcome,
)
from finetune_operator.finetuneschedule.cron import times_of
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
_NO = (Reason.GOAL_NOT_MET, Reason.GATES_NOT_MET, Reason.DATA_REJECTED, Reason.PUBLICATION_REJECTED)
"""Reasons of jobs that have done their work, and whose result is not wanted."""
MESSAGE_CHARACTERS = 300
WITHOUT_VERSION = ("RolledBack", "Refused", "NotPublished", "Failed", "Deleted", "TimedOut")
"""Outcomes of cycles that have brought no version to stay."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=10), timedelta(hours=12)
"""Between the begins of two cycles, the first of which brought no version. It doubles."""
LEAST_DEADLINE = timedelta(days=14)
"""Of a cycle without ``cycleDeadlineSeconds``: people approve, and traffic decides, in days."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The end of a cycle."""

    outcome: Outcome
    message: str


def look_at(observed: Observed, cycle: ActiveCycle, now: datetime) -> ActiveCycle | EndedCycle:
    """Return a cycle as it is now."""
    cycle = _with_job(observed, cycle)
    end = _end_of(observed, cycle)
    if end is None and now >= (late := deadline_of(observed, cycle)):
        text = f"It lasted longer than until {timestamp(late)} and waited for: {cycle.waits_for}."
        end = End(outcome="TimedOut", message=text)
    if end is None:
        return cycle
    known = cycle.model_dump(exclude={"waits_for"})
    message = shorten(end.message, MESSAGE_CHARACTERS)
    return EndedCycle(**known, outcome=end.outcome, message=message, end_time=timestamp(now))


def deadline_of(observed: Observed, cycle: ActiveCycle) -> datetime:
    """Return when a cycle ends whatever it waits for."""
    begin = datetime.fromisoformat(cycle.time)
    if (seconds := observed.spec.cycle_deadline_seconds) is not None:
        return begin + timedelta(seconds=seconds)
    times = times_of(observed.spec.triggers)
    starts = [] if times is None or times.problem else islice(times.after(begin), 2)
    return begin + max([LEAST_DEADLINE, *(later - start for start, later in pairwise(starts))])


def pause_after(
    observed: Observed, known: BackoffStatus | None, cycle: EndedCycle
) -> BackoffStatus | None:
    """Return the pause that follows an ended cycle; None after one that has brought a version."""
    if cycle.outcome not in WITHOUT_VERSION:
        return None
    is_same = known is not None and known.generation == observed.generation
    cycles = known.cycles + 1 if known is not None and is_same else 1
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(cycles - 1, 10))
    until = timestamp(datetime.fromisoformat(cycle.time) + pause)
    return BackoffStatus(cycles=cycles, generation=observed.generation, until=until)


def jobs_to_delete(observed: Observed, state: FineTuneScheduleStatus) -> tuple[Object, ...]:
    """Return the FineTuneJobs that are no longer kept: ended ones beyond the limits of the spec.

    The newest that has published always stays, and the job of the cycle under way. A job that has
    not ended is deleted only if its cycle is ``TimedOut``.
    """
    spec = observed.spec
    active = None if state.active is None else state.active.job
    late = {each.job for each in state.history if each.outcome == "TimedOut"}
    published: list[Object] = []
    failed: list[Object] = []
    found: list[Object] = []
    for job in sorted(observed.jobs, key=_age, reverse=True):
        status = job.get("status") or {}
        if job["metadata"].get("deletionTimestamp") or job["metadata"]["name"] == active:
            continue
        if is_terminal(status):
            (published if _age(job)[0] else failed).append(job)
        elif job["metadata"]["name"] in late:
            found.append(job)
    found += published[spec.successful_jobs_history_limit :]
    return (*found, *failed[spec.failed_jobs_history_limit :])


def _age(job: Object) -> tuple[int, str, str]:
    """Return what orders jobs: the version that was published (0: none), and time of creation."""
    version = ((job.get("status") or {}).get("artifact") or {}).get("version")
    metadata = job["metadata"]
    return int(version or 0), str(metadata.get("creationTimestamp") or ""), metadata["name"]


def seal(job: Object | None, known: AnchorStatus | None) -> AnchorStatus | None:
    """Return the anchor of a schedule: the one on record, else the first evaluated job's test rows.

    Nobody has looked at those of an earlier job, which failed or whose data was rejected. A
    schedule that was restored without its status learns from its next job what is on record.
    """
    status = {} if job is None else job.get("status") or {}
    dataset = status.get("dataset") or {}
    if known is None and dataset.get("anchor"):
        return AnchorStatus.model_validate(dataset["anchor"])
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
        "look": ((status.get("evaluation") or {}).get("look") or {}).get("number"),
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
    job, followed = observed.job or {}, (endpoint.get("spec") or {}).get("jobRef") or {}
    if job.get("spec") and published_name(job) != followed.get("name"):
        # Its jobRef cannot change: it is another endpoint of this name, and numbers say nothing.
        text = f"Version {version} is published, and endpoint {reference.name} follows another job."
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
