"""Pods that should have ended and do not.

**The stage's container has ended, and another container has not.** A mesh or a secrets agent may
add a container to every pod. An ordinary container runs for ever; so does the pod, and its GPUs
stay held. The kubelet ends native sidecars (init containers that restart always, as the operator's
own are) together with the pod's containers.

**The node does not answer.** A node that is cut off keeps its Node object. Its pods are marked for
deletion after five minutes and stay so for ever, because only their kubelet could say that they
have ended. The Job controller waits for that before it replaces a pod and before it calls a Job
complete. Kubernetes declares such pods failed once an administrator taints the node as out of
service. The operator does it for the pods of its jobs. Output of a pod that runs on unseen is never
mistaken for that of a later attempt (docs/adr/0017-incidents-not-pods.md).
"""

from __future__ import annotations

from datetime import datetime

from finetune_api.names import CONTAINER
from finetune_operator.finetunejob.state.actions import FailPod
from finetune_operator.finetunejob.state.retry import is_disrupted
from finetune_operator.finetunejob.state.stages import TRAITS, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.finetunejob.state.trimmed import TrimmedPod, container_of
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

ENDING_SECONDS = 30.0
"""For so long a pod may take to end after its stage's container, with others beside it."""
NATIVE_SECONDS = 300.0
"""The same where no ordinary container is left: native sidecars have the pod's grace period."""

_WAY_OUT = (
    "Keep it out of the job's pods, in a new job, by an annotation in podTemplate.annotations"
    ' (sidecar.istio.io/inject: "false", linkerd.io/inject: disabled,'
    ' vault.hashicorp.com/agent-inject: "false"), or have it added as a native sidecar, which ends'
    " with the pod."
)


def set_lingering(step: Step, view: StageView) -> bool:
    """Say that a stage's pods do not end although it has; return whether it is so."""
    alive = [pod for pod in view.pods if pod["status"]["phase"] in ("Pending", "Running")]
    alive = [pod for pod in alive if not pod["metadata"].get("deletionTimestamp")]
    ends = [end for pod in alive if (end := _ended_at(pod)) is not None]
    if not ends or len(ends) < len(alive):
        return False  # some work on, and those that have ended wait for them
    pod = next((each for each in alive if _remaining(each)), alive[0])
    others = _remaining(pod)
    left = (ENDING_SECONDS if others else NATIVE_SECONDS) - (step.now - max(ends)).total_seconds()
    if left > 0:
        step.look_again(left)
        return False
    kind, conditions = TRAITS[view.stage].condition, step.draft.conditions
    message = _message_of(pod, others)
    if conditions.reason_of(kind) != Reason.POD_NOT_ENDING:
        step.draft.announce(Reason.POD_NOT_ENDING, f"{view.stage.value}: {message}", warning=True)
    # How the stage ended is known once its pod has: until then it may yet be lost.
    conditions.set(kind, "Unknown", Reason.POD_NOT_ENDING, message)
    return True


def _message_of(pod: TrimmedPod, others: list[str]) -> str:
    name, ended = pod["metadata"]["name"], container_of(pod).get("terminated") or {}
    at = _ended_at(pod)
    assert at is not None
    begin = (
        f"Container {CONTAINER} of pod {name} ended at {timestamp(at)} with exit code"
        f" {ended.get('exitCode', 'unknown')}"
    )
    if not others:
        return (
            f"{begin}, and the pod has not: its node ({pod['spec']['nodeName'] or 'none'}) does not"
            " tell its end, or a native sidecar does not stop. What the pod holds stays held."
        )
    plural = "s" if len(others) > 1 else ""
    verb = "run" if plural else "runs"
    return (
        f"{begin}, and container{plural} {', '.join(others)} beside it still {verb}: the pod does"
        f" not end, holds what it holds, and the job goes on once it has ended. {_WAY_OUT}"
    )


def _remaining(pod: TrimmedPod) -> list[str]:
    return pod["status"].get("remaining") or []


def _ended_at(pod: TrimmedPod) -> datetime | None:
    """Return when the stage's own container ended; None while it has not."""
    return parse_timestamp((container_of(pod).get("terminated") or {}).get("finishedAt"))


def declare_lost(step: Step, view: StageView) -> None:
    """Declare pods failed that have not ended within their time."""
    for pod in view.pods:
        left = _seconds_left(pod, step.now, patience_seconds=step.config.lost_pod_seconds)
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
            name=name, uid=pod["metadata"]["uid"], message=message, is_explained=is_disrupted(pod)
        )
        step.then.append(action)


def _seconds_left(pod: TrimmedPod, now: datetime, *, patience_seconds: float) -> float | None:
    """Return the seconds a pod that is being deleted has to end; None if it is not waited for."""
    # The API server sets the time at which the grace period is over.
    due = parse_timestamp(pod["metadata"].get("deletionTimestamp"))
    if due is None or pod["status"]["phase"] in ("Succeeded", "Failed"):
        return None
    return patience_seconds - (now - due).total_seconds()
