"""Pods that go on after the stage's own container has ended: another container does not end.

A mesh or a secrets agent may add a container to every pod. Where it is an ordinary one it runs for
ever, the pod with it, and the pod's GPUs stay held. The kubelet ends native sidecars (init
containers that restart always, as the operator's own are) with the pod's containers.
"""

from __future__ import annotations

from datetime import datetime

from finetune_api.names import CONTAINER
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


def tell_lingering(step: Step, view: StageView) -> bool:
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
