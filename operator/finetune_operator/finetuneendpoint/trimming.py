"""What is kept of serving pods and of their Deployments, and what both say about a workload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import FRONT, MANAGED_BY, MANAGED_BY_LABEL, SERVER_LABEL, SERVING_LABEL
from finetune_api.protocol.serving import MAX_REPORTED
from finetune_operator.finetuneendpoint.observed import Workload
from finetune_operator.status.conditions import find_condition, is_true, shorten

Object = dict[str, Any]

APPLIED_ANNOTATION = "finetune.dev/applied"
"""On a Deployment whose parts are all applied: the digest of the wanted manifest, and the digest of
the spec that the API server has made of it."""
MAX_RESTARTS = 2
"""A container that was restarted more often and is not ready is a problem while it runs too."""
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of waiting containers that pass by themselves."""


def trim_serving_pod(pod: Object) -> Object:
    """Keep the fields of a pod that a plan reads.

    ``deployment`` and ``address`` are empty if it is not asked.

    The address of a pod is asked only if a ReplicaSet of the Deployment that its labels name
    controls it. That of a pod in the network of its node is never asked: it is the node's.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    deployment = FRONT if labels.get(SERVING_LABEL) == "front" else labels.get(SERVER_LABEL, "")
    is_ours = bool(deployment) and _is_of(metadata, f"{deployment}-")
    spec = pod.get("spec") or {}
    is_ours = is_ours and not spec.get("hostNetwork")
    runs = status.get("phase") == "Running" and not metadata.get("deletionTimestamp")
    return {
        "metadata": _head(metadata),
        "deployment": deployment if is_ours else "",
        "address": str(status.get("podIP") or "") if is_ours and runs else "",
        "node": str(spec.get("nodeName") or ""),
        "isReady": runs and is_true(status.get("conditions"), "Ready"),
        "problem": _problem_of_pod(status),
    }


def trim_deployment(deployment: Object) -> Object:
    """Keep the fields of a Deployment that a plan reads.

    ``digest`` is that of its spec as it is stored, without the number of pods. ``isWritten`` tells
    that the operator is among those who have written it.
    """
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    failure = find_condition(status.get("conditions"), "ReplicaFailure") or {}
    writers = {entry.get("manager") for entry in metadata.get("managedFields") or ()}
    spec = deployment.get("spec") or {}
    return {
        "metadata": {**_head(metadata), "ownerReferences": _endpoints_of(metadata)},
        "isLabelled": (metadata.get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY,
        "isWritten": MANAGED_BY in writers,
        "digest": _digest_of({**spec, "replicas": None}),
        "applied": (metadata.get("annotations") or {}).get(APPLIED_ANNOTATION, ""),
        "numWanted": int(spec.get("replicas", 1)),
        "numReady": int(status.get("readyReplicas") or 0),
        "numUpdated": int(status.get("updatedReplicas") or 0),
        "numWaiting": int(status.get("unavailableReplicas") or 0),
        "problem": str(failure.get("message") or "") if failure.get("status") == "True" else "",
    }


def workload_of(deployment: Object, pods: Iterable[Object]) -> Workload:
    """Return a workload from its trimmed Deployment and pods.

    A pod's own status is newer than the count in that of the Deployment.
    """
    pods = tuple(pods)
    num_ready = sum(bool(pod["isReady"]) for pod in pods)
    problems = [str(deployment["problem"]), *sorted(str(pod["problem"]) for pod in pods)]
    return Workload(
        num_ready=max(num_ready, deployment["numReady"]),
        num_wanted=deployment["numWanted"],
        num_updated=deployment["numUpdated"],
        problem=next((shorten(text) for text in problems if text), ""),
    )


def _head(metadata: Object) -> Object:
    kept = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
    return {key: metadata[key] for key in kept if metadata.get(key)}


def _endpoints_of(metadata: Object) -> list[Object]:
    """Return the references to endpoints, of no more than a namespace can have in one report."""
    owners = metadata.get("ownerReferences") or ()
    return [owner for owner in owners if owner.get("kind") == ENDPOINT_KIND][:MAX_REPORTED]


def _is_of(metadata: Object, prefix: str) -> bool:
    """Return whether a ReplicaSet that is named after a Deployment controls a pod."""
    return any(
        owner.get("controller")
        and owner.get("kind") == "ReplicaSet"
        and str(owner.get("name", "")).startswith(prefix)
        for owner in metadata.get("ownerReferences") or ()
    )


def _digest_of(spec: Object) -> str:
    return hashlib.sha256(orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _problem_of_pod(status: Object) -> str:
    scheduled = find_condition(status.get("conditions"), "PodScheduled") or {}
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "")
    told = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    for each in told:
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in _HARMLESS:
            message = f": {waiting['message']}" if waiting.get("message") else ""
            return f"Container {each.get('name')}: {waiting['reason']}{message}"
    for each in told:
        # Between two restarts it runs for a while, and its trouble is not over.
        ended, num_restarts = (
            (each.get("lastState") or {}).get("terminated"),
            each.get("restartCount", 0),
        )
        if ended and num_restarts > MAX_RESTARTS and not each.get("ready"):
            ends = f"has ended {num_restarts} times, with exit code {ended.get('exitCode')}"
            return f"Container {each.get('name')} {ends}"
    return ""
