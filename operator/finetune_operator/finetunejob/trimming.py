"""How Jobs and pods are trimmed before they enter a cache.

Only what decisions read is kept, so that 10,000 jobs fit into memory, and so that a change nobody
reads wakes nobody.
"""

from __future__ import annotations

import sys
from typing import Any, cast

from finetune_api.names import (
    ACTIVE_SECONDS_ANNOTATION,
    ACTIVE_START_ANNOTATION,
    CONTAINER,
    ENGINE_CONTAINER,
    JOB_LABEL,
    PAUSED_ANNOTATION,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    RED_TEAM_CONTAINER,
    STAGE_LABEL,
)
from finetune_operator.finetunejob.trimmed import (
    INDEX_LABEL,
    ChildMetadata,
    Condition,
    ContainerState,
    ControllerReference,
    JobSpec,
    JobStatus,
    PodSpec,
    PodStatus,
    Terminated,
    TrimmedChild,
    TrimmedJob,
    TrimmedPod,
    Waiting,
)
from finetune_operator.status.conditions import find_condition

Object = dict[str, Any]

_KEPT_LABELS = (JOB_LABEL, STAGE_LABEL, INDEX_LABEL, QUEUE_LABEL, PRIORITY_LABEL)
_KEPT_ANNOTATIONS = (PAUSED_ANNOTATION, ACTIVE_SECONDS_ANNOTATION, ACTIVE_START_ANNOTATION)
_POD_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})
_JOB_CONDITIONS = frozenset({"Complete", "Failed", "Suspended"})
JOB_CONTROLLER = "kubernetes.io/job-controller"
"""What ``spec.managedBy`` of a Job is, if anything, where its pods are made in this cluster."""
_IMAGES_BESIDE = {ENGINE_CONTAINER: "vLLM's, vllmImage", RED_TEAM_CONTAINER: "garak's, garakImage"}
"""Containers beside a stage, with whose image it is and which setting names it."""
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
)


def trim_job(obj: Object) -> TrimmedJob:
    """Keep of a batch/v1 Job what decisions read."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    read = ("startTime", "completionTime", "active", "ready", "failed", "succeeded")
    kept = cast("JobStatus", {key: status[key] for key in read if status.get(key)})
    if conditions := _trim_conditions(status, _JOB_CONDITIONS):
        kept["conditions"] = conditions
    kept_spec: JobSpec = {
        "suspend": bool(spec.get("suspend")),
        "completions": spec.get("completions", 1),
    }
    if spec.get("managedBy") not in (None, JOB_CONTROLLER):
        kept_spec["managedBy"] = spec["managedBy"]
    return {"metadata": _trim_metadata(obj["metadata"]), "spec": kept_spec, "status": kept}


def trim_pod(obj: Object) -> TrimmedPod:
    """Keep of a pod what decisions read."""
    status = obj.get("status") or {}
    kept: PodStatus = {"phase": status.get("phase", "Pending")}
    if status.get("reason"):
        kept["reason"] = status["reason"]
    if status.get("message"):
        kept["message"] = status["message"]
    conditions = [
        condition
        for condition in _trim_conditions(status, _POD_CONDITIONS)
        if not (condition["type"] == "PodScheduled" and condition.get("status") == "True")
    ]
    if conditions:
        kept["conditions"] = conditions
    scheduled = find_condition(status.get("conditions"), "PodScheduled") or {}
    if scheduled.get("status") == "True" and scheduled.get("lastTransitionTime"):
        kept["scheduledTime"] = scheduled["lastTransitionTime"]
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            state = _trim_state(_state_of_start(container, status))
            _date_the_end(state, obj["metadata"], status)
            kept["container"] = state
            if container.get("imageID"):
                # The same few for thousands of pods.
                kept["imageID"] = sys.intern(container["imageID"])
    if remaining := _names_of_remaining(kept, status):
        kept["remaining"] = remaining
    spec = obj.get("spec") or {}
    kept_spec: PodSpec = {"nodeName": spec.get("nodeName", "")}
    for container in spec.get("containers") or ():
        if container.get("name") == CONTAINER and container.get("image"):
            kept_spec["image"] = sys.intern(container["image"])
    return {"metadata": _trim_metadata(obj["metadata"]), "spec": kept_spec, "status": kept}


def _state_of_start(container: Object, status: Object) -> Object:
    """Return the state of the stage's container, or of what stands beside it and comes first.

    Then the kubelet says of the stage's container only that it waits.
    """
    state: Object = container.get("state") or {}
    others = status.get("initContainerStatuses") or ()
    beside = [each for each in others if each.get("name") in _IMAGES_BESIDE]
    if not beside or (state.get("waiting") or {}).get("reason") != "PodInitializing":
        return state
    # They start one after the other: the first that waits for a reason holds up the rest.
    reasons = [((each.get("state") or {}).get("waiting") or {}, each["name"]) for each in beside]
    named = (each for each in reasons if each[0].get("reason") not in (None, "PodInitializing"))
    waiting, name = next(named, reasons[0])
    reason = waiting.get("reason", "PodInitializing")
    # Of one that fails again and again the pod's events tell more.
    if reason in ("PodInitializing", "CrashLoopBackOff"):
        return {"waiting": {"reason": "ContainerCreating"}}
    words = (
        f"{waiting.get('message') or reason} ({_IMAGES_BESIDE[name]} in the operator's "
        "configuration)"
    )
    return {"waiting": {"reason": reason, "message": words}}


def _names_of_remaining(kept: PodStatus, status: Object) -> list[str]:
    """Return the containers that keep a pod running whose trainer has ended."""
    if kept["phase"] != "Running" or "terminated" not in (kept.get("container") or {}):
        return []
    return [
        container.get("name", "")
        for container in status.get("containerStatuses") or ()
        if "terminated" not in (container.get("state") or {})
    ]


def _trim_conditions(status: Object, kinds: frozenset[str]) -> list[Condition]:
    return [
        {
            "type": condition["type"],
            "status": condition.get("status"),
            "reason": condition.get("reason"),
            "message": condition.get("message"),
            "lastTransitionTime": condition.get("lastTransitionTime"),
        }
        for condition in status.get("conditions") or ()
        if condition.get("type") in kinds
    ]


def _trim_metadata(metadata: Object) -> ChildMetadata:
    kept = cast("ChildMetadata", {key: metadata[key] for key in _METADATA if metadata.get(key)})
    labels = metadata.get("labels") or {}
    kept["labels"] = {key: labels[key] for key in _KEPT_LABELS if key in labels}
    annotations = metadata.get("annotations") or {}
    if own := {key: annotations[key] for key in _KEPT_ANNOTATIONS if key in annotations}:
        kept["annotations"] = own
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            read = ("kind", "name", "uid")
            kept["owner"] = cast("ControllerReference", {key: owner.get(key) for key in read})
            break
    return kept


def _trim_state(state: Object) -> ContainerState:
    if "terminated" in state:
        ended = state["terminated"]
        read = ("exitCode", "reason", "message", "startedAt", "finishedAt", "signal")
        kept = {key: ended[key] for key in read if ended.get(key) is not None}
        return {"terminated": cast("Terminated", kept)}
    if "running" in state:
        return {"running": {"startedAt": state["running"].get("startedAt")}}
    waiting = state.get("waiting") or {}
    kept = {key: waiting[key] for key in ("reason", "message") if waiting.get(key)}
    return {"waiting": cast("Waiting", kept)}


def _date_the_end(state: ContainerState, metadata: Object, status: Object) -> None:
    """Date the end of a container that nobody saw to when its pod was no longer ready.

    Its times are missing, or the zero of the runtime's clock: from before the pod was made.
    """
    ended = state.get("terminated")
    if ended is None:
        return
    created = metadata.get("creationTimestamp") or ""
    if ended.get("startedAt", "") < created:
        ended.pop("startedAt", None)
    if ended.get("finishedAt", "") < created:
        ended.pop("finishedAt", None)
        ready = find_condition(status.get("conditions"), "Ready") or {}
        if ready.get("status") == "False" and ready.get("lastTransitionTime"):
            ended["finishedAt"] = ready["lastTransitionTime"]


def is_changed(old: TrimmedChild | None, new: TrimmedChild) -> bool:
    """Return whether a trimmed child differs in anything that decisions read."""
    if old is None:
        # A newborn says nothing that was not known from creating its Job.
        return new["status"] not in ({}, {"phase": "Pending"})
    if old["status"] != new["status"] or old["spec"] != new["spec"]:
        return True
    before, after = old["metadata"], new["metadata"]
    read = ("deletionTimestamp", "annotations", "labels")
    return any(before.get(key) != after.get(key) for key in read)
