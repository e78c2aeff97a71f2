"""Kueue's Workload objects: lookup, and the fields that are kept.

Kueue owns a queued Job's ``spec.suspend``. The operator labels the Job, mirrors the reason and
pauses through ``Workload.spec.active``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from finetune_operator.integrations.kueue.trimmed import (
    OpenCheck,
    Requeue,
    TrimmedWorkload,
    WorkloadCondition,
    WorkloadMetadata,
)
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Forbidden, NotFound, ServerUnavailable
from finetune_operator.kube.api.resource import Resource
from finetune_operator.kube.cache.scopes import require_readable

Object = dict[str, Any]

WORKLOADS = Resource(group="kueue.x-k8s.io", version="v1beta2", plural="workloads", kind="Workload")
MINIMUM_KUEUE = "0.15"
"""The first release that serves this version of its API."""
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
BY_JOB_UID = "job-uid"

_MAX_NAME_CHARACTERS = 253
_MAX_MESSAGE_CHARACTERS = 4096
_CONDITIONS = frozenset(
    {
        "QuotaReserved",
        "Admitted",
        "PodsReady",
        "Evicted",
        "Requeued",
        "DeactivationTarget",
        "BlockedOnPreemptionGates",
        "Finished",
    }
)
_UNCOUNTED_EVICTION = "Deactivated"
"""A pause by hand or by Kueue, reported in other words than a preemption."""


async def is_installed(client: KubeClient, namespaces: Iterable[str] = ()) -> bool:
    """Ask the API server whether it serves Workloads, and to us.

    Without rights the answer is always Forbidden; one namespace with rights is enough. A server
    that fails to list them (Kueue converts them) serves them.
    """
    try:
        await require_readable(client, WORKLOADS, namespaces)
    except (NotFound, Forbidden):
        return False
    except ServerUnavailable:
        pass
    return True


def trim_workload(obj: Object) -> TrimmedWorkload:
    """Keep of a Workload what is mirrored."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    active = spec.get("active", True)
    return {
        "metadata": _trim_metadata(obj["metadata"]),
        "spec": {
            "active": active,
            "deactivatedBy": "" if active else _manager_of_active(obj["metadata"]),
            "queueName": spec.get("queueName") or "",
        },
        "status": {
            "past": int(status.get("accumulatedPastExecutionTimeSeconds") or 0),
            "evictions": _num_evictions(status),
            "clusterQueue": (status.get("admission") or {}).get("clusterQueue") or "",
            "admitted": _admitted(status),
            "requeue": _requeue(status.get("requeueState") or {}),
            "checks": _open_checks(status),
            "conditions": _conditions(status),
        },
    }


def _trim_metadata(metadata: Object) -> WorkloadMetadata:
    read = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    kept = cast("WorkloadMetadata", {key: metadata[key] for key in read if metadata.get(key)})
    kept["labels"] = {JOB_UID_LABEL: (metadata.get("labels") or {}).get(JOB_UID_LABEL, "")}
    kept["job"] = _job_name(metadata)
    return kept


def _conditions(status: Object) -> list[WorkloadCondition]:
    return [
        {
            "type": condition["type"],
            "status": condition.get("status", ""),
            "reason": condition.get("reason", ""),
            "message": condition.get("message", "")[:_MAX_MESSAGE_CHARACTERS],
        }
        for condition in status.get("conditions") or ()
        if condition.get("type") in _CONDITIONS
    ]


def _admitted(status: Object) -> str:
    """Return when the condition ``Admitted`` last changed; empty without it."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Admitted":
            return str(condition.get("lastTransitionTime") or "")
    return ""


def _job_name(metadata: Object) -> str:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == "Job":
            name = str(owner["name"])
            return name if len(name) <= _MAX_NAME_CHARACTERS else ""
    return ""


def _manager_of_active(metadata: Object) -> str:
    """Return who set ``spec.active`` last, by the API server's record; empty if there is none."""
    owners = [
        entry
        for entry in metadata.get("managedFields") or ()
        if not entry.get("subresource")
        and "f:active" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    latest: Object = max(owners, key=lambda entry: str(entry.get("time") or ""), default={})
    return str(latest.get("manager") or "")


def _num_evictions(status: Object) -> int:
    """Count from Kueue's own record: it lies in the Workload and outlives every restart."""
    evictions = (status.get("schedulingStats") or {}).get("evictions") or ()
    return sum(
        int(entry.get("count") or 0)
        for entry in evictions
        if entry.get("reason") != _UNCOUNTED_EVICTION
    )


def _requeue(state: Object) -> Requeue:
    return {"at": state.get("requeueAt") or "", "count": int(state.get("count") or 0)}


def _open_checks(status: Object) -> list[OpenCheck]:
    """Return the admission checks that have not passed."""
    return [
        {
            "name": check.get("name") or "",
            "state": check.get("state") or "",
            "message": (check.get("message") or "")[:_MAX_MESSAGE_CHARACTERS],
        }
        for check in status.get("admissionChecks") or ()
        if check.get("state") != "Ready"
    ]


def is_waiting(workload: TrimmedWorkload) -> bool:
    """Return whether a trimmed Workload stands in the line of its queue."""
    over = {"QuotaReserved", "Finished"}
    return bool(workload["spec"]["active"] and workload["spec"]["queueName"]) and not any(
        condition["type"] in over and condition["status"] == "True"
        for condition in workload["status"]["conditions"]
    )


def index_by_job_uid(workload: TrimmedWorkload) -> Iterable[str]:
    """Index by the UID of the Job a Workload stands for."""
    uid = workload["metadata"]["labels"].get(JOB_UID_LABEL)
    return (uid,) if uid else ()
