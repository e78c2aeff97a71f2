"""Pods that should run and do not: what they wait for, as a cause a person can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.trainer import FailureClass
from finetune_operator.finetunejob.failure import Cause, place_of
from finetune_operator.finetunejob.observed import WarningEvent
from finetune_operator.finetunejob.trimmed import (
    TrimmedPod,
    container_of,
    seconds_since_created,
)
from finetune_operator.status.conditions import find_condition, parse_timestamp, timestamp

Object = dict[str, Any]

STUCK_SECONDS = 20.0
"""A pod that has a node and no running container for so long is looked into."""

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
CONFIGURATION_REASONS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
HOPELESS_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Waiting cannot help: the reference itself is wrong, or pulling is forbidden."""

VOLUME_REASONS = frozenset({"FailedMount", "FailedAttachVolume"})
"""Reasons of Events that tell of what the job names itself; all others are of the node."""

_DRAWN = re.compile(r"\b[0-9a-f]{32,}\b")
"""Names that are drawn by a container runtime."""

_REMEDY = {
    FailureClass.IMAGE_ERROR: "check spec.trainer.image, the registry and imagePullSecrets",
    FailureClass.UNSCHEDULABLE: (
        "lower spec.resources, change podTemplate.nodeSelector or tolerations, or add nodes"
    ),
}


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
    waiting = container_of(pod).get("waiting") or {}
    reason = waiting.get("reason") or ""
    message = waiting.get("message") or ""
    where = place_of(pod, at=timestamp(now))
    if reason in IMAGE_REASONS:
        return Cause(
            failure_class=FailureClass.IMAGE_ERROR,
            reason=reason,
            message=f"The image cannot be pulled: {message or reason};"
            f" {_REMEDY[FailureClass.IMAGE_ERROR]}.",
            is_hopeless=reason in HOPELESS_REASONS,
            **where,
        )
    if reason in CONFIGURATION_REASONS:
        return Cause(
            failure_class=FailureClass.USER_ERROR,
            reason=reason,
            message=f"The container cannot be created: {message or reason}.",
            **where,
        )
    if warning is not None and seconds_waiting(pod, now) >= STUCK_SECONDS:
        return _warned(pod, warning, where)
    return None


def _warned(pod: TrimmedPod, warning: WarningEvent, where: Mapping[str, Any]) -> Cause:
    """Explain a pod whose container says nothing of itself, by the pod's Events."""
    # Sandboxes are made anew at each try: their names are no news.
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
        message=f"The pod does not start on {pod['spec']['nodeName']}: {words}. It is waited for as"
        " long as that lasts. If it lasts, look at the node; another one may be better: kubectl -n"
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
        f" To go on: {_REMEDY[FailureClass.UNSCHEDULABLE]}.",
        **place_of(pod, at=scheduled.get("lastTransitionTime")),
    )


def seconds_waiting(pod: TrimmedPod, now: datetime) -> float:
    """Return how long a pod has been waiting for its container, in seconds.

    From the moment it has a node: for a node it may wait for days.
    """
    begun = parse_timestamp(pod["status"].get("scheduledTime"))
    return seconds_since_created(pod, now) if begun is None else (now - begun).total_seconds()


def is_stuck(pod: TrimmedPod, now: datetime) -> bool:
    """Return whether a pod has a node and no container, for longer than a start takes."""
    status = pod["status"]
    if status["phase"] != "Pending" or not pod["spec"]["nodeName"]:
        return False
    container = container_of(pod)
    waiting = container.get("waiting")
    if container and waiting is None:
        return False
    reason = (waiting or {}).get("reason") or "ContainerCreating"
    return reason == "ContainerCreating" and seconds_waiting(pod, now) >= STUCK_SECONDS
