"""How Jobs and pods are trimmed before they enter a cache.

Only what decisions read is kept, so that 10,000 jobs fit into memory, and so that a change nobody
reads wakes nobody. Anybody who may create Jobs and pods may label them as ours, and the API server
bounds few of their texts: a name that is too long is left out, any other text is cut.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar, cast

from finetune_api.names import (
    ACTIVE_SECONDS_ANNOTATION,
    ACTIVE_START_ANNOTATION,
    CONTAINER,
    JOB_LABEL,
    MONITOR_LABEL,
    PAUSED_ANNOTATION,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    STAGE_LABEL,
)
from finetune_operator.finetunejob.state.trimmed import (
    INDEX_LABEL,
    MAX_NAME_CHARACTERS,
    ChildMetadata,
    Condition,
    ContainerState,
    ControllerReference,
    InitContainer,
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
T = TypeVar("T")

_KEPT_LABELS = (JOB_LABEL, STAGE_LABEL, MONITOR_LABEL, INDEX_LABEL, QUEUE_LABEL, PRIORITY_LABEL)
_KEPT_ANNOTATIONS = (PAUSED_ANNOTATION, ACTIVE_SECONDS_ANNOTATION, ACTIVE_START_ANNOTATION)
_POD_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})
_JOB_CONDITIONS = frozenset({"Complete", "Failed", "Suspended"})
JOB_CONTROLLER = "kubernetes.io/job-controller"
"""What ``spec.managedBy`` of a Job is, if anything, where its pods are made in this cluster."""
_MAX_IMAGE_CHARACTERS = 1024
_MAX_TEXT_CHARACTERS = 4096
"""What the kubelet lets a container say at its end; no other text that is read is longer."""
_MAX_REMAINING = 16
"""Names of containers that keep a pod running, at most."""
KEPT_METADATA = (
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
    job: TrimmedJob = {
        "metadata": _trim_metadata(obj["metadata"]),
        "spec": kept_spec,
        "status": kept,
    }
    return _cut(job)


def trim_pod(obj: Object) -> TrimmedPod:
    """Keep of a pod what decisions read."""
    status = obj.get("status") or {}
    words = {key: status[key] for key in ("reason", "message") if status.get(key)}
    kept = cast("PodStatus", {"phase": status.get("phase", "Pending"), **words})
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
            state = _trim_state(container.get("state") or {})
            _date_the_end(state, obj["metadata"], status)
            kept["container"] = state
            if container.get("imageID"):
                # The same few for thousands of pods.
                kept["imageID"] = sys.intern(container["imageID"])
    if before := _init_container_before(kept, obj):
        kept["initContainer"] = before
    if remaining := _names_of_remaining(kept, status):
        kept["remaining"] = remaining
    spec = obj.get("spec") or {}
    kept_spec: PodSpec = {"nodeName": spec.get("nodeName", "")}
    scheduler = spec.get("schedulerName")
    if not kept_spec["nodeName"] and scheduler and len(scheduler) <= MAX_NAME_CHARACTERS:
        kept_spec["schedulerName"] = sys.intern(scheduler)
    for container in spec.get("containers") or ():
        image = container.get("image") or ""
        if container.get("name") == CONTAINER and 0 < len(image) <= _MAX_IMAGE_CHARACTERS:
            kept_spec["image"] = sys.intern(image)
    pod: TrimmedPod = {
        "metadata": _trim_metadata(obj["metadata"]),
        "spec": kept_spec,
        "status": kept,
    }
    return _cut(pod)


def _cut(trimmed: T) -> T:
    """Cut every text of a trimmed object, which is changed in place, and return it."""
    for key, value in cast("Object", trimmed).items():
        if isinstance(value, str):
            cast("Object", trimmed)[key] = value[:_MAX_TEXT_CHARACTERS]
        elif isinstance(value, dict):
            _cut(value)
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, dict):
                    _cut(each)
    return trimmed


def _init_container_before(kept: PodStatus, obj: Object) -> InitContainer | None:
    """Return the first init container that the stage's container waits for, or that failed the pod.

    They start one after the other. A native sidecar is done with once it has started, and runs on;
    where it ends it is started again, so it fails no pod.
    """
    waiting = (kept.get("container") or {}).get("waiting") or {}
    if waiting.get("reason") != "PodInitializing":
        return None
    specs = (obj.get("spec") or {}).get("initContainers") or ()
    native = {each.get("name") for each in specs if each.get("restartPolicy") == "Always"}
    for each in (obj.get("status") or {}).get("initContainerStatuses") or ():
        state = each.get("state") or {}
        if each.get("name") in native:
            is_done = each.get("started") or kept["phase"] == "Failed"
        else:
            is_done = (state.get("terminated") or {}).get("exitCode") == 0
        if not is_done:
            return {"name": each.get("name", ""), "state": _trim_state(state)}
    return None


def _names_of_remaining(kept: PodStatus, status: Object) -> list[str]:
    """Return the containers that keep a pod running whose trainer has ended."""
    if kept["phase"] != "Running" or "terminated" not in (kept.get("container") or {}):
        return []
    return [
        container.get("name", "")
        for container in status.get("containerStatuses") or ()
        if "terminated" not in (container.get("state") or {})
    ][:_MAX_REMAINING]


def _trim_conditions(status: Object, kinds: frozenset[str]) -> list[Condition]:
    read = ("type", "status", "reason", "message", "lastTransitionTime")
    return [
        cast("Condition", {key: condition.get(key) for key in read})
        for condition in status.get("conditions") or ()
        if condition.get("type") in kinds
    ]


def _trim_metadata(metadata: Object) -> ChildMetadata:
    kept = cast("ChildMetadata", {key: metadata[key] for key in KEPT_METADATA if metadata.get(key)})
    labels = metadata.get("labels") or {}
    kept["labels"] = {key: labels[key] for key in _KEPT_LABELS if key in labels}
    annotations = metadata.get("annotations") or {}
    own = {key: annotations[key] for key in _KEPT_ANNOTATIONS if key in annotations}
    if own := {key: text for key, text in own.items() if len(text) <= MAX_NAME_CHARACTERS}:
        kept["annotations"] = own
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            read = {key: owner.get(key) for key in ("kind", "name", "uid")}
            if all(len(text or "") <= MAX_NAME_CHARACTERS for text in read.values()):
                kept["owner"] = cast("ControllerReference", read)
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
