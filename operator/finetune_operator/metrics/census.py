"""One look at all FineTuneJobs: how many are in which state, what they hold, who waits too long.

Pure: the cached objects and the present in, numbers out. One pass over the cache at each scrape.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.reasons import OPERATOR_REASONS
from finetune_api.trainer import CPU_STAGES, Stage
from finetune_operator.status.conditions import ConditionType, find_condition, parse_timestamp

Object = dict[str, Any]

OTHER = "Other"
"""Label of every reason that is not listed: reasons of pods and of Kueue are not ours to bound."""
WAITING_SECONDS = 300.0
"""A job that waits for less has no series of its own."""
MAX_WAITING = 100
"""Series of single jobs, the longest waits first."""
_STAGE_OF_PHASE = {
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """All jobs at one moment.

    Attributes:
        jobs: Number of jobs by namespace, phase and reason.
        gpus: GPUs by namespace and state: ``held`` by pods, or ``queued`` for.
        waits: Jobs that have waited for ``WAITING_SECONDS`` or more, the longest first, at most
            ``MAX_WAITING``.
    """

    jobs: Counter[tuple[str, str, str]]
    gpus: Counter[tuple[str, str]]
    waits: list[Wait]


def take_census(jobs: Iterable[Object], now: datetime, *, expects_progress: bool) -> Census:
    """Count all jobs.

    Args:
        jobs: FineTuneJobs as the API server holds them.
        now: The present.
        expects_progress: Whether trainer pods report their progress here.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    gpus: Counter[tuple[str, str]] = Counter()
    waits: list[Wait] = []
    for job in jobs:
        namespace = job["metadata"]["namespace"]
        phase = phase_of(job)
        counts[namespace, phase, reason_of(job)] += 1
        if phase == "Queued":
            gpus[namespace, "queued"] += gpus_of(job, current_stage(job))
        elif (stage := _STAGE_OF_PHASE.get(phase)) is not None:
            gpus[namespace, "held"] += gpus_of(job, stage)
        wait = find_wait(job, now, expects_progress=expects_progress)
        if wait is not None and wait.seconds >= WAITING_SECONDS:
            waits.append(wait)
    return Census(
        jobs=counts,
        gpus=+gpus,
        waits=heapq.nlargest(MAX_WAITING, waits, key=lambda wait: wait.seconds),
    )


def phase_of(job: Object) -> str:
    """Return the phase; a job that no operator has looked at is pending."""
    return str((job.get("status") or {}).get("phase") or "Pending")


def reason_of(job: Object) -> str:
    """Return why a job is in its phase, as one of a fixed set of words.

    A failed job's is its class: the exact reason is the trainer's, and its number is not bounded.
    """
    status = job.get("status") or {}
    if status.get("phase") == "Failed":
        return class_of(status)
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


def gpus_of(job: Object, stage: Stage) -> int:
    """Return the GPUs that all pods of a stage ask for."""
    spec = job.get("spec") or {}
    nodes = int((spec.get("resources") or {}).get("nodes") or 1)
    return gpus_per_pod(job, stage) * (nodes if stage is Stage.TRAIN else 1)


def gpus_per_pod(job: Object, stage: Stage) -> int:
    """Return the GPUs that one pod of a stage asks for."""
    spec = job.get("spec") or {}
    per_node = int((spec.get("resources") or {}).get("gpusPerNode", 1))
    if stage in CPU_STAGES:
        return 0
    asked = (spec.get("evaluation") or {}).get("gpus", "auto")
    return int(asked) if stage is Stage.EVALUATE and isinstance(asked, int) else per_node


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
    stage = _STAGE_OF_PHASE.get(phase)
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
