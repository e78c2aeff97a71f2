"""Pods that should run and do not: what they wait for, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.names import CONTAINER, ENGINE_CONTAINER, RED_TEAM_CONTAINER
from finetune_api.protocol.trainer import FailureClass
from finetune_operator.finetunejob.state.failure import Cause, place_of
from finetune_operator.finetunejob.state.observed import WarningEvent
from finetune_operator.finetunejob.state.trimmed import (
    Running,
    TrimmedPod,
    Waiting,
    container_of,
    init_container_of,
    seconds_since_created,
)
from finetune_operator.status.conditions import find_condition, parse_timestamp, timestamp

STUCK_SECONDS = 20.0
"""Time after which the Events of a pod with a node and no running container are read."""
PENDING_SECONDS = 300.0
"""Time after which a pending pod is reported, even if no error is known."""

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
SETTINGS_REASON = "CreateContainerConfigError"
"""A container's settings cannot be read, mostly from a Secret: not a problem of its image."""
CONFIGURATION_REASONS = frozenset({SETTINGS_REASON, "CreateContainerError", "RunContainerError"})
HOPELESS_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons that do not pass: the reference itself is wrong, or pulling is forbidden."""

VOLUME_REASONS = frozenset({"FailedMount", "FailedAttachVolume"})
"""Reasons of Events about volumes that the job names; all other reasons are about the node."""

_DRAWN = re.compile(
    r"\b[0-9a-f]{32,}\b"
    # Not in the name of a volume, which does not change.
    r"|(?<!\bpvc-)\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|(?<=:)\d+(?=->)"
)
"""What changes with each attempt: names of sandboxes, network namespaces and requests, and the
source ports of connections."""

_NOT_BEGUN = frozenset({"", "PodInitializing", "ContainerCreating"})
"""Reasons of a container that waits for volumes, the network or init containers."""
_OWN_IMAGES = {ENGINE_CONTAINER: "vllmImage", RED_TEAM_CONTAINER: "garakImage"}
"""Init containers that the operator adds, with the setting that names their image."""


def cause_of_waiting(
    pod: TrimmedPod, now: datetime, *, warning: WarningEvent | None = None
) -> Cause | None:
    """Explain a pod that should run and does not; None if it runs or is merely young.

    Args:
        pod: The trimmed pod.
        now: The present.
        warning: Latest warning event of the pod, if it was looked up.
    """
    status = pod["status"]
    if status["phase"] != "Pending" or pod["metadata"].get("deletionTimestamp"):
        return None
    scheduled = find_condition(status.get("conditions"), "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        return _unschedulable(pod, scheduled)
    name, waiting = waited_for(pod)
    reason, where = waiting.get("reason") or "", place_of(pod, at=timestamp(now))
    words = waiting.get("message") or reason
    subject = f"Init container {name}" if name else "The container"
    if reason in IMAGE_REASONS:
        image = f"The image of init container {name}" if name else "The image"
        return Cause(
            failure_class=FailureClass.IMAGE_ERROR,
            reason=reason,
            message=f"{image} cannot be pulled: {words}; {_image_remedy(name)}.",
            is_hopeless=reason in HOPELESS_REASONS,
            **where,
        )
    # The operator's own containers fail only because of their image.
    is_own = name in _OWN_IMAGES and reason != SETTINGS_REASON
    remedy = f"To go on: {_image_remedy(name)}. " if is_own else ""
    if reason in CONFIGURATION_REASONS:
        return Cause(
            failure_class=FailureClass.IMAGE_ERROR if is_own else FailureClass.USER_ERROR,
            reason=reason,
            message=f"{subject} cannot be created: {words}. {remedy}".rstrip(),
            **where,
        )
    if reason not in _NOT_BEGUN:
        return Cause(
            failure_class=FailureClass.IMAGE_ERROR if is_own else FailureClass.RETRYABLE,
            reason=reason,
            message=f"{subject} does not start: {words}. {remedy}{_log_of(pod, name or CONTAINER)}",
            **where,
        )
    if warning is None or _running_before(pod) is not None:
        # A container runs, so volumes and network are ready: no Event can be about them.
        return None
    if seconds_waiting(pod, now) >= STUCK_SECONDS:
        return _warned(pod, warning, where)
    return None


def waited_for(pod: TrimmedPod) -> tuple[str, Waiting]:
    """Return the init container that a pod waits for, and its waiting state.

    Without one the name is empty, and the state is that of the stage's container.
    """
    before = init_container_of(pod)
    if before is None:
        return "", container_of(pod).get("waiting") or {}
    return before["name"], before["state"].get("waiting") or {}


def _running_before(pod: TrimmedPod) -> Running | None:
    """Return the running state of the init container that a pod waits for; None if none runs."""
    before = init_container_of(pod)
    return None if before is None else before["state"].get("running")


def _image_remedy(init_container: str) -> str:
    others = "the registry and imagePullSecrets"
    if not init_container:
        return f"check spec.trainer.image, {others}"
    if init_container in _OWN_IMAGES:
        return f"check {_OWN_IMAGES[init_container]} in the operator's configuration, {others}"
    return f"an admission webhook adds it to pods: check its settings, {others}"


def _log_of(pod: TrimmedPod, container: str) -> str:
    metadata = pod["metadata"]
    return f"Its log: kubectl -n {metadata.get('namespace')} logs {metadata['name']} -c {container}"


def _warned(pod: TrimmedPod, warning: WarningEvent, where: Mapping[str, Any]) -> Cause:
    """Explain a pod by its Events, where its container gives no reason."""
    # Another attempt with the same error must give the same text.
    words = _DRAWN.sub("...", warning.message).rstrip(". ") or warning.reason
    if warning.reason in VOLUME_REASONS:
        return Cause(
            failure_class=FailureClass.USER_ERROR,
            reason="VolumesNotReady",
            message=f"The container does not start: {words}. Do the Secrets and claims that the job"
            " names exist in its namespace?",
            **where,
        )
    metadata = pod["metadata"]
    return Cause(
        failure_class=FailureClass.RETRYABLE,
        reason=warning.reason,
        message=f"The pod does not start on {pod['spec']['nodeName']}: {words}. The job"
        " waits for it. If this lasts, look at the node. To try another node: kubectl -n"
        f" {metadata.get('namespace')} delete pod {metadata['name']}",
        **where,
    )


def _unschedulable(pod: TrimmedPod, scheduled: Mapping[str, Any]) -> Cause:
    if scheduled.get("reason") == "SchedulingGated":
        return Cause(
            failure_class=FailureClass.UNSCHEDULABLE,
            reason="SchedulingGated",
            message="The pod waits for its scheduling gates to be removed.",
            **place_of(pod, at=scheduled.get("lastTransitionTime")),
        )
    return Cause(
        failure_class=FailureClass.UNSCHEDULABLE,
        reason="Unschedulable",
        message=f"No node can take the pod: {scheduled.get('message') or 'no reason given'}"
        " To go on: lower spec.resources, change podTemplate.nodeSelector or tolerations, or add"
        " nodes.",
        **place_of(pod, at=scheduled.get("lastTransitionTime")),
    )


def seconds_waiting(pod: TrimmedPod, now: datetime) -> float:
    """Return how long a pod has been waiting for its container since it has a node, in seconds."""
    begun = parse_timestamp(pod["status"].get("scheduledTime"))
    return seconds_since_created(pod, now) if begun is None else (now - begun).total_seconds()


def is_stuck(pod: TrimmedPod, now: datetime) -> bool:
    """Return whether a pod has a node and has run no container for longer than a start takes.

    A pod whose init container runs is not stuck: its Events explain nothing.
    """
    if not _is_pending(pod) or not pod["spec"]["nodeName"] or _running_before(pod) is not None:
        return False
    _, waiting = waited_for(pod)
    is_known = (waiting.get("reason") or "") not in _NOT_BEGUN
    return not is_known and seconds_waiting(pod, now) >= STUCK_SECONDS


def _is_pending(pod: TrimmedPod) -> bool:
    """Return whether the stage's container has yet to start."""
    container = container_of(pod)
    return pod["status"]["phase"] == "Pending" and (not container or "waiting" in container)


def why_slow(pod: TrimmedPod, now: datetime) -> str | None:
    """Return what is known of a pod that has been pending for minutes; None for other pods.

    None also if a cause is known, because the cause says more.
    """
    status, metadata, spec = pod["status"], pod["metadata"], pod["spec"]
    scheduled = find_condition(status.get("conditions"), "PodScheduled") or {}
    if not _is_pending(pod) or metadata.get("deletionTimestamp"):
        return None
    if scheduled.get("status") == "False" or seconds_waiting(pod, now) < PENDING_SECONDS:
        return None
    name, before = metadata["name"], init_container_of(pod)
    more = f"kubectl -n {metadata.get('namespace')} describe pod {name}"
    running = _running_before(pod)
    if before is not None and running is not None:
        return (
            f"Pod {name} waits for its init container {before['name']}, which has been running"
            f" since {running.get('startedAt')}. {_log_of(pod, before['name'])}; the pod's Events:"
            f" {more}"
        )
    since = status.get("scheduledTime") or metadata.get("creationTimestamp")
    if not spec["nodeName"]:
        scheduler = spec.get("schedulerName") or "default-scheduler"
        return (
            f"Pod {name} has been pending since {since}, and no scheduler has tried it: does"
            f" {scheduler} run, and is it the right one (podTemplate.schedulerName)? The pod's"
            f" Events: {more}"
        )
    return (
        f"Pod {name} on {spec['nodeName']} has been pending since {since}, and no error is"
        f" known: its image may be large. The pod's Events: {more}"
    )
