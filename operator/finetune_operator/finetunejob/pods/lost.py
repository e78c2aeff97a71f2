"""Pods that should have ended and do not: their node does not answer.

A node that is cut off keeps its Node object. Its pods are marked for deletion after five minutes,
and stay so for ever: only their kubelet could say that they have ended. The Job controller waits
for that before it replaces a pod, and before it calls a Job complete. Kubernetes itself declares
such pods failed once an administrator taints the node as out of service; the operator does it for
the pods of its jobs. What a pod writes that runs on unseen is never mistaken for a later attempt's
(docs/adr/0017-incidents-not-pods.md).
"""

from __future__ import annotations

from typing import Any

from finetune_operator.finetunejob.state.actions import FailPod
from finetune_operator.finetunejob.state.retry import is_disrupted
from finetune_operator.finetunejob.state.stages import StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.finetunejob.state.trimmed import TrimmedPod
from finetune_operator.status.conditions import Reason, parse_timestamp

Object = dict[str, Any]


def declare_lost(step: Step, view: StageView) -> None:
    """Have pods declared failed that did not end within their time."""
    for pod in view.pods:
        left = _seconds_left(step, pod)
        if left is None:
            continue
        if left > 0:
            step.look_again(left)
            continue
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        where = f"Its node {node} does not answer" if node else "It was never on a node"
        message = (
            f"The pod is to be deleted and has not ended {step.config.lost_pod_seconds} s after its"
            f" grace period. {where}: it is taken for lost, and replaced."
        )
        step.draft.announce(
            Reason.NODE_LOST, f"{view.stage.value}: pod {name}: {message}", warning=True
        )
        action = FailPod(
            name=name,
            uid=pod["metadata"]["uid"],
            message=message,
            is_explained=is_disrupted(pod),
        )
        step.then.append(action)


def _seconds_left(step: Step, pod: TrimmedPod) -> float | None:
    """Return the seconds a pod that is being deleted has to end; None if it is not waited for."""
    # The API server sets the time at which the grace period is over.
    due = parse_timestamp(pod["metadata"].get("deletionTimestamp"))
    if due is None or pod["status"]["phase"] in ("Succeeded", "Failed"):
        return None
    return step.config.lost_pod_seconds - (step.now - due).total_seconds()
