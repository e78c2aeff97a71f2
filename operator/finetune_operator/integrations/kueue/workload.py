"""Kueue's Workload objects: where to find them, and what of them is kept.

Kueue owns a queued Job's ``spec.suspend``; the operator only labels the Job, mirrors the reason
and pauses through ``Workload.spec.active``, which Kueue offers for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Forbidden, NotFound
from finetune_operator.kube.resource import Resource

Object = dict[str, Any]

WORKLOADS = Resource(group="kueue.x-k8s.io", version="v1beta2", plural="workloads", kind="Workload")
MINIMUM_KUEUE = "0.15"
"""The first release that serves this version of its API."""
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
BY_JOB_UID = "job-uid"

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
"""A pause by hand, or Kueue giving up: told by other words than a preemption."""


async def is_installed(client: KubeClient, namespaces: Iterable[str] = ()) -> bool:
    """Ask the API server whether it serves Workloads, and to us.

    Without rights the answer is Forbidden whether it does or not.
    """
    namespace = next(iter(namespaces), "")
    try:
        async for _ in client.list_pages(WORKLOADS, namespace, limit=1, metadata_only=True):
            break
    except (NotFound, Forbidden):
        return False
    return True


def trim_workload(obj: Object) -> Object:
    """Keep of a Workload what is mirrored."""
    metadata = obj["metadata"]
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    labels = metadata.get("labels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    active = spec.get("active", True)
    return {
        "metadata": {
            **{key: metadata[key] for key in kept if metadata.get(key)},
            "labels": {JOB_UID_LABEL: labels.get(JOB_UID_LABEL, "")},
            "job": _job_name(metadata),
        },
        "spec": {
            "active": active,
            "deactivatedBy": "" if active else _manager_of_active(metadata),
            "queueName": spec.get("queueName") or "",
        },
        "status": {
            "past": int(status.get("accumulatedPastExecutionTimeSeconds") or 0),
            "evictions": _num_evictions(status),
            "clusterQueue": (status.get("admission") or {}).get("clusterQueue") or "",
            "requeue": _requeue(status.get("requeueState") or {}),
            "checks": _open_checks(status),
            "conditions": [
                {key: condition.get(key, "") for key in ("type", "status", "reason", "message")}
                for condition in status.get("conditions") or ()
                if condition.get("type") in _CONDITIONS
            ],
        },
    }


def _job_name(metadata: Object) -> str:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == "Job":
            return str(owner["name"])
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


def _requeue(state: Object) -> Object:
    return {"at": state.get("requeueAt") or "", "count": int(state.get("count") or 0)}


def _open_checks(status: Object) -> list[Object]:
    """Return the admission checks that have not passed."""
    return [
        {key: check.get(key) or "" for key in ("name", "state", "message")}
        for check in status.get("admissionChecks") or ()
        if check.get("state") != "Ready"
    ]


def is_waiting(workload: Object) -> bool:
    """Return whether a trimmed Workload stands in the line of its queue."""
    over = {"QuotaReserved", "Finished"}
    return bool(workload["spec"]["active"] and workload["spec"]["queueName"]) and not any(
        condition["type"] in over and condition["status"] == "True"
        for condition in workload["status"]["conditions"]
    )


def index_by_job_uid(obj: Object) -> Iterable[str]:
    """Index by the UID of the Job a Workload stands for."""
    uid = (obj["metadata"].get("labels") or {}).get(JOB_UID_LABEL)
    return (uid,) if uid else ()
