"""Kueue's state of one queued Job: pure, from a trimmed Workload.

Conditions of a Workload outlast their state: ``Evicted`` stays true until quota is reserved again,
``QuotaReserved`` while evicted pods still save. Here they become one state and one message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from finetune_operator.integrations.kueue.trimmed import (
    Requeue,
    TrimmedWorkload,
    WorkloadCondition,
)

Conditions: TypeAlias = dict[str, WorkloadCondition]
_ABSENT: WorkloadCondition = {"type": "", "status": "", "reason": "", "message": ""}

FIELD_MANAGER = "finetune-operator"
"""Who we are in the ``managedFields`` of a Workload: tells our pause from an administrator's."""

DEACTIVATED = "Deactivated"
"""Kueue's reason; what it deactivates itself ends in ``DueTo`` and the cause."""
FINISHED = "Finished"
_DROPPED = (
    "Kueue calls Workload {workload} finished, and its Job has not ended. If it does not run, have"
    " Kueue make another Workload: kubectl delete workload {workload}"
)
CHECKS_PENDING = "AdmissionChecksPending"
QUOTA_RESERVED = "QuotaReserved"
WAITING_FOR_QUOTA = "WaitingForQuota"

ENDINGS = frozenset({"Succeeded", "Failed"})
"""Reasons of ``Finished`` that say no more than the Job itself does."""
HOPELESS_ENDINGS = frozenset({"FailedToStart"})
"""Reasons of ``Finished`` of a Job that Kueue can never start; one that is not known is no end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Place of a Workload in the line; 1 is next.

    Attributes:
        in_cluster_queue: Among all that wait for the same ClusterQueue.
        in_local_queue: Among those of its own LocalQueue.
    """

    in_cluster_queue: int
    in_local_queue: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """Kueue's state of one queued Job.

    Attributes:
        is_active: ``spec.active``: whether Kueue may admit it.
        is_admitted: Whether its pods may run: quota reserved, every check passed, not evicted.
        reason: Kueue's reason for the present state.
        message: The state and the cause of the wait, in words.
        has_quota: Whether quota is reserved for it and not being taken back.
        is_evicted: Whether its quota was taken back and it waits again.
        past_active_seconds: Admitted time before the present admission.
        num_evictions: Number of evictions, without deactivations.
        deactivated_by: Field manager that set ``spec.active`` to false; empty if unknown.
        finished: Reason of a final end that only Kueue knows; or empty.
        is_dropped: Whether Kueue finished it for an unknown reason: it is not admitted again, and
            its Job has not ended.
        cluster_queue: ClusterQueue that quota is reserved in; or empty.
        admitted_at: Start of the time in which its pods may run, kept after an eviction; empty
            without quota, also once evicted pods have ended.
        place: Its known place in the line while it waits.
    """

    workload: str
    is_active: bool
    is_admitted: bool
    reason: str
    message: str
    has_quota: bool = False
    is_evicted: bool = False
    past_active_seconds: int = 0
    num_evictions: int = 0
    deactivated_by: str = ""
    finished: str = ""
    is_dropped: bool = False
    queue: str = ""
    cluster_queue: str = ""
    admitted_at: str = ""
    place: Place | None = None

    @property
    def was_resumed(self) -> bool:
        """Whether it was paused through ``spec.active`` and may be admitted again."""
        return self.is_active and self.reason.startswith(DEACTIVATED)

    @property
    def is_paused_by_us(self) -> bool:
        """Whether the operator deactivated it, and may activate it again."""
        return not self.is_active and self.deactivated_by == FIELD_MANAGER

    @property
    def is_held_by_others(self) -> bool:
        """Whether an administrator or Kueue itself deactivated it."""
        return not self.is_active and self.deactivated_by != FIELD_MANAGER

    @property
    def is_given_up(self) -> bool:
        """Whether Kueue deactivated it of itself, for example after too many attempts."""
        return self.is_held_by_others and self.reason.startswith(f"{DEACTIVATED}DueTo")


def queue_state(workload: TrimmedWorkload) -> QueueState:
    """Read a trimmed Workload."""
    conditions: Conditions = {c["type"]: c for c in workload["status"]["conditions"]}
    spec, status = workload["spec"], workload["status"]
    is_active = bool(spec["active"])
    is_evicted = _holds(conditions, "Evicted")
    finished = conditions["Finished"]["reason"] if _holds(conditions, "Finished") else ""
    is_dropped = _is_unknown(finished)
    has_quota = _holds(conditions, "QuotaReserved") and not is_evicted and not is_dropped
    is_admitted = _holds(conditions, "Admitted") and has_quota
    reason, message = _telling(
        workload, conditions, is_evicted=is_evicted, has_quota=has_quota, is_admitted=is_admitted
    )
    return QueueState(
        workload=workload["metadata"]["name"],
        is_active=is_active,
        is_admitted=is_admitted,
        reason=reason,
        message=message,
        has_quota=has_quota,
        is_evicted=is_evicted,
        past_active_seconds=status["past"],
        num_evictions=status["evictions"],
        deactivated_by=spec["deactivatedBy"],
        finished=finished if finished in HOPELESS_ENDINGS else "",
        is_dropped=is_dropped,
        queue=spec["queueName"],
        cluster_queue=status["clusterQueue"],
        admitted_at=status["admitted"] if _holds(conditions, "Admitted") else "",
    )


def _is_unknown(reason: str) -> bool:
    """Return whether a reason of ``Finished`` is neither the Job's end nor known to be final."""
    return bool(reason) and reason not in ENDINGS | HOPELESS_ENDINGS


def _holds(conditions: Conditions, kind: str) -> bool:
    return conditions.get(kind, _ABSENT).get("status") == "True"


def _telling(
    workload: TrimmedWorkload,
    conditions: Conditions,
    *,
    is_evicted: bool,
    has_quota: bool,
    is_admitted: bool,
) -> tuple[str, str]:
    """Return reason and message of the present state."""
    evicted = conditions.get("Evicted", _ABSENT)
    if _holds(conditions, "Finished"):
        finished = conditions["Finished"]
        words = finished["message"]
        if _is_unknown(finished["reason"]):
            name = workload["metadata"]["name"]
            words = _join(words, _DROPPED.format(workload=name))
        return finished["reason"] or FINISHED, words
    if not workload["spec"]["active"]:
        # Kueue reports this itself after a moment.
        is_told = is_evicted and evicted["reason"].startswith(DEACTIVATED)
        told = evicted if is_told else conditions.get("DeactivationTarget", _ABSENT)
        reason = evicted["reason"] if is_told else DEACTIVATED
        return reason, told.get("message") or "The workload is deactivated"
    if is_evicted:
        return evicted["reason"], _words_of_eviction(workload, conditions)
    if is_admitted:
        return QUOTA_RESERVED, _words_of_admission(conditions)
    if has_quota:
        return CHECKS_PENDING, _words_of_checks(workload, conditions)
    waiting = conditions.get("QuotaReserved", _ABSENT)
    message = waiting.get("message") or "Waiting for Kueue to reserve quota."
    return waiting.get("reason") or WAITING_FOR_QUOTA, _join(message, _words_of_gates(conditions))


def _words_of_eviction(workload: TrimmedWorkload, conditions: Conditions) -> str:
    """Return the cause of the eviction and of the wait since."""
    why = conditions["Evicted"]["message"]
    if _holds(conditions, "QuotaReserved"):
        return _join(why, "Its pods save and stop.")
    requeue = workload["status"]["requeue"]
    if requeue.get("at"):
        return _join(why, f"Kueue queues it again at {requeue['at']}{_tries(requeue)}.")
    requeued = conditions.get("Requeued", _ABSENT)
    if requeued.get("status") == "False" and requeued.get("reason", "").endswith("QueueStopped"):
        return _join(why, "It is queued again when the queue is started.")
    now = conditions.get("QuotaReserved", _ABSENT).get("message") or ""
    # Kueue repeats the eviction there until its scheduler has read the Workload again.
    waits = "" if not now or now == why else f"Now: {now}"
    return _join(why, waits, _words_of_gates(conditions))


def _tries(requeue: Requeue) -> str:
    count = requeue.get("count") or 0
    return f", the {_ordinal(count)} time" if count else ""


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def _words_of_admission(conditions: Conditions) -> str:
    ready = conditions.get("PodsReady", _ABSENT)
    lost = ready.get("status") == "False" and ready.get("reason") == "WaitForRecovery"
    return _join(
        conditions["QuotaReserved"]["message"],
        "Kueue waits for a failed pod to be ready again, and takes the quota back if that takes"
        " too long."
        if lost
        else "",
    )


def _words_of_checks(workload: TrimmedWorkload, conditions: Conditions) -> str:
    """Return each open admission check with its message."""
    requeue = workload["status"]["requeue"]
    checks = [
        f"{check['name']} ({check['state']}{': ' if check['message'] else ''}{check['message']})"
        for check in workload["status"]["checks"]
    ]
    if checks:
        return _join(
            conditions["QuotaReserved"]["message"],
            f"Waiting for admission check{'s' if len(checks) > 1 else ''} {', '.join(checks)}.",
            f"Kueue tries again at {requeue['at']}{_tries(requeue)}." if requeue.get("at") else "",
        )
    admitted = conditions.get("Admitted", _ABSENT)
    return _join(conditions["QuotaReserved"]["message"], admitted.get("message") or "")


def _words_of_gates(conditions: Conditions) -> str:
    blocked = conditions.get("BlockedOnPreemptionGates", _ABSENT)
    return blocked.get("message") or "" if blocked.get("status") == "True" else ""


def _join(*sentences: str) -> str:
    """Join sentences; Kueue ends its own without a full stop."""
    told = [text.strip() for text in sentences if text.strip()]
    ends = [text if text[-1] in ".!?" else f"{text}." for text in told[:-1]]
    return " ".join([*ends, *told[-1:]])
