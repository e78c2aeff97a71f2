"""Incidents: what ended an attempt, found among the pods that ended with it.

When one rank fails, the others lose it and end as well, seconds or minutes later. Counted by pods,
one failure of a job of 16 nodes would cost 16 retries, or, where those that only noticed do not
count, nothing bounds how often a rank may fail. So the endings that belong together are one
incident, whose cause is the rank that failed of itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from finetune_api.protocol.trainer import ExitCode, FailureClass
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.retry import IncidentClass
from finetune_operator.finetunejob.pods.rounds import PEERS_MISSING
from finetune_operator.finetunejob.state.failure import (
    Cause,
    cause_of_failure,
    read_termination_message,
)
from finetune_operator.finetunejob.state.retry import (
    exit_code_of,
    is_disrupted,
    is_lost,
    is_over_its_limits,
)
from finetune_operator.finetunejob.state.trimmed import (
    Running,
    Terminated,
    TrimmedPod,
    completion_index,
    container_of,
)
from finetune_operator.status.conditions import parse_timestamp

RACE_SECONDS = 5.0
"""Ranks that fail so close to each other may be seen in any order: the class decides."""
SETTLE_SECONDS = 5.0
"""How long the pods of other ranks are waited for: one of them may have failed first."""

LOST_NODE_REASONS = frozenset({"DeletionByTaintManager", "DeletionByPodGC", "NodeLost"})
"""Reasons of ``DisruptionTarget`` that say the node is gone, not that somebody wanted it."""
_FOLLOWER_REASONS = frozenset({"PeerLost", PEERS_MISSING, FailureClass.RETRYABLE.value})
"""Reasons of exit code 75 by which a rank says that it only noticed."""
_ASKED_TO_STOP = frozenset({ExitCode.RETRYABLE, ExitCode.STOPPED, 137, 143})
"""How a container ends whose pod is being deleted."""

_CLASS_OF: Mapping[str, IncidentClass] = {
    "UserError": "User",
    "DataError": "Data",
    "StorageError": "Storage",
    "OutOfMemory": "OutOfMemory",
    "Hang": "Hang",
    "Retryable": "Infrastructure",
    "Unschedulable": "Infrastructure",
    "Stopped": "Preemption",
}
"""By failure class; all others are ``Internal``."""
_FIRST_TO_BLAME: tuple[IncidentClass, ...] = (
    "User",
    "Data",
    "OutOfMemory",
    "Hang",
    "Storage",
    "Preemption",
    "Infrastructure",
    "Internal",
)
"""Of ranks that fail together, which is the cause: an unnamed crash may be a lost connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """One ending of one attempt.

    Attributes:
        incident_class: What it is to the retry budget.
        cause: What the rank died of that failed of itself.
        rank: That rank.
        began: When its pod started.
        at: When it failed.
        is_free: Whether it costs no retry.
        pods: Names of the pods that failed with it.
        is_settled: Whether no earlier failure can turn up any more.
        from_step: Step the attempt had begun at, if the trainer said so.
        to_step: Step it had come to, if the trainer said so.
    """

    incident_class: IncidentClass
    cause: Cause
    rank: int
    began: datetime
    at: datetime
    is_free: bool
    pods: frozenset[str]
    is_settled: bool
    from_step: int | None = None
    to_step: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ending:
    pod: TrimmedPod
    rank: int
    began: datetime
    at: datetime
    cause: Cause
    incident_class: IncidentClass


def find_incidents(
    pods: Iterable[TrimmedPod], now: datetime, *, memory: str = "", has_peers: bool = True
) -> list[Incident]:
    """Return the incidents that the pods of a stage tell of, oldest first.

    Args:
        pods: The trimmed pods; those that failed stay as long as their Job.
        now: The present.
        memory: Their memory limit, for messages.
        has_peers: Whether an attempt has several pods. One that has a single pod has lost nobody
            but a process of its own.
    """
    known = list(pods)
    endings = [
        end
        for pod in known
        if (end := _ending_of(pod, now, memory, has_peers=has_peers)) is not None
    ]
    groups: list[list[_Ending]] = []
    for ending in sorted(endings, key=lambda end: (end.at, end.rank)):
        group = next((group for group in groups if _belongs(ending, group)), None)
        if group is None:
            groups.append([ending])
        else:
            group.append(ending)
    return [_incident_of(group, known, now) for group in groups]


def _ending_of(pod: TrimmedPod, now: datetime, memory: str, *, has_peers: bool) -> _Ending | None:
    """Return how a pod ended of itself; None if it did not, or only followed others."""
    state = container_of(pod)
    ended: Terminated = state.get("terminated") or {}
    if not ended and pod["status"]["phase"] != "Failed":
        return None
    cause = cause_of_failure(pod, memory=memory)
    if cause is None or _is_follower(pod, cause, has_peers=has_peers):
        return None
    created = parse_timestamp(pod["metadata"].get("creationTimestamp")) or now
    running: Running = state.get("running") or {}
    return _Ending(
        pod=pod,
        rank=completion_index(pod),
        began=parse_timestamp(ended.get("startedAt") or running.get("startedAt")) or created,
        at=parse_timestamp(cause.time) or created,
        cause=cause,
        incident_class=_class_of(pod, cause),
    )


def _is_follower(pod: TrimmedPod, cause: Cause, *, has_peers: bool) -> bool:
    """Return whether a pod ended because of others: a peer, or whoever deleted it."""
    if is_disrupted(pod):
        return False
    code = exit_code_of(pod)
    if has_peers and code == ExitCode.RETRYABLE and cause.reason in _FOLLOWER_REASONS:
        return True
    is_deleted = bool(pod["metadata"].get("deletionTimestamp"))
    is_killed_for_memory = cause.failure_class is FailureClass.OUT_OF_MEMORY
    never_began = code is None
    return is_deleted and (never_began or code in _ASKED_TO_STOP) and not is_killed_for_memory


def _class_of(pod: TrimmedPod, cause: Cause) -> IncidentClass:
    if is_disrupted(pod):
        return "Infrastructure" if cause.reason in LOST_NODE_REASONS else "Preemption"
    return _CLASS_OF.get(cause.failure_class.value, "Internal")


def is_free(pod: TrimmedPod) -> bool:
    """Return whether the end of a pod costs no retry: it was no fault of what ran in it.

    Ends with exit code 75 and with a restarted node are bounded otherwise, by whether they get
    anywhere.
    """
    if is_over_its_limits(pod):
        return False
    code = exit_code_of(pod)
    return is_disrupted(pod) or is_lost(pod) or code in (ExitCode.RETRYABLE, ExitCode.STOPPED)


def _belongs(ending: _Ending, group: list[_Ending]) -> bool:
    """Return whether a pod is of the attempt that a group ended: it had begun before that."""
    return ending.began <= group[0].at and all(ending.rank != other.rank for other in group)


def _incident_of(group: list[_Ending], pods: list[TrimmedPod], now: datetime) -> Incident:
    first = group[0].at
    suspects = [end for end in group if (end.at - first).total_seconds() <= RACE_SECONDS]
    root = min(suspects, key=lambda end: _FIRST_TO_BLAME.index(end.incident_class))
    words = read_termination_message(root.pod)
    return Incident(
        incident_class=root.incident_class,
        cause=root.cause,
        rank=root.rank,
        began=root.began,
        at=root.at,
        is_free=is_free(root.pod),
        pods=frozenset(end.pod["metadata"]["name"] for end in group),
        is_settled=(now - first).total_seconds() >= SETTLE_SECONDS or not _has_others(group, pods),
        from_step=words.resumed_from_step if words else None,
        to_step=words.step if words else None,
    )


def _has_others(group: list[_Ending], pods: list[TrimmedPod]) -> bool:
    """Return whether pods of other ranks run that may have failed first."""
    ranks = {end.rank for end in group}
    return any(
        "running" in container_of(pod)
        and pod["status"]["phase"] == "Running"
        and completion_index(pod) not in ranks
        for pod in pods
    )


# ---- budgets -----------------------------------------------------------------------------------

_NEVER: tuple[IncidentClass, ...] = ("User", "Data")
_NAMED: Mapping[IncidentClass, tuple[str, str]] = {
    "Storage": ("storage", "storage"),
    "OutOfMemory": ("out_of_memory", "outOfMemory"),
    "Hang": ("hang", "hang"),
    "Infrastructure": ("infrastructure", "infrastructure"),
}
"""Fields of ``spec.retryPolicy`` by class: here, and on the wire."""


def why_not_again(
    spec: FineTuneJobSpec, incident_class: IncidentClass, counts: Mapping[str, int]
) -> str | None:
    """Return why a stage is not tried again after an incident that counts; None if it is.

    Args:
        spec: The user's spec.
        incident_class: Class of the incident.
        counts: Incidents of the stage that count, by class, this one included.
    """
    if incident_class in _NEVER:
        return ""
    own = _own_limit(spec, incident_class)
    if own is not None:
        name, limit, used = f"retryPolicy.{_NAMED[incident_class][1]}", own, counts[incident_class]
    else:
        name, limit = "backoffLimit", spec.backoff_limit
        used = sum(
            count
            for each, count in counts.items()
            if each not in _NAMED or _own_limit(spec, each) is None
        )
    if used <= limit:
        return None
    if limit == 0:
        return f" It is not tried again: {name} is 0."
    return f" All retries of {name} ({limit}) are used up."


def has_own_limit(spec: FineTuneJobSpec, incident_class: IncidentClass) -> bool:
    """Return whether ``retryPolicy`` names the class: its user has decided how often."""
    return _own_limit(spec, incident_class) is not None


def _own_limit(spec: FineTuneJobSpec, incident_class: str) -> int | None:
    if spec.retry_policy is None or incident_class not in _NAMED:
        return None
    limit: int | None = getattr(spec.retry_policy, _NAMED[incident_class][0])  # type: ignore[index]
    return limit
