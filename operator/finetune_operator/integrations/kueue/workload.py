"""Kueue's Workload objects: where to find them, and what they say of a stage.

Kueue owns a queued Job's ``spec.suspend``; the operator only labels the Job, mirrors the reason
and pauses through ``Workload.spec.active``, which Kueue offers for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune_operator.finetunejob.observed import QueueState
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Forbidden, NotFound
from finetune_operator.kube.resource import Resource

Object = dict[str, Any]

WORKLOADS = Resource(group="kueue.x-k8s.io", version="v1beta2", plural="workloads", kind="Workload")
MINIMUM_KUEUE = "0.15"
"""The first release that serves this version of its API."""
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
BY_JOB_UID = "job-uid"
_CONDITIONS = frozenset({"QuotaReserved", "Admitted", "Evicted", "Finished"})


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
    status = obj.get("status") or {}
    labels = metadata.get("labels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "metadata": {
            **{key: metadata[key] for key in kept if metadata.get(key)},
            "labels": {JOB_UID_LABEL: labels.get(JOB_UID_LABEL, "")},
            "job": _job_name(metadata),
        },
        "spec": {"active": (obj.get("spec") or {}).get("active", True)},
        "status": {
            "past": int(status.get("accumulatedPastExecutionTimeSeconds") or 0),
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


def index_by_job_uid(obj: Object) -> Iterable[str]:
    """Index by the UID of the Job a Workload stands for."""
    uid = (obj["metadata"].get("labels") or {}).get(JOB_UID_LABEL)
    return (uid,) if uid else ()


def queue_state(workload: Object) -> QueueState:
    """Read a trimmed Workload."""
    conditions = {item["type"]: item for item in workload["status"]["conditions"]}

    def holds(kind: str) -> bool:
        return (conditions.get(kind) or {}).get("status") == "True"

    is_admitted = holds("QuotaReserved")
    is_evicted = holds("Evicted") and not is_admitted
    telling = conditions.get("Evicted" if is_evicted else "QuotaReserved") or {}
    return QueueState(
        workload=workload["metadata"]["name"],
        is_active=workload["spec"]["active"],
        is_admitted=is_admitted,
        reason=telling.get("reason") or ("QuotaReserved" if is_admitted else "WaitingForQuota"),
        message=telling.get("message") or "Waiting for Kueue to reserve quota.",
        past_active_seconds=workload["status"]["past"],
        is_evicted=is_evicted,
    )
