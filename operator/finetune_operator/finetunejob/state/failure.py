"""From the end of a pod to a cause a person can act on.

Three kinds of evidence, best first: the termination message the trainer left, the exit code, and
what Kubernetes says of the pod (evicted, out of memory, turned away). Every message says what
happened and what to do, because ``kubectl describe`` must be enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import CLASS_OF_EXIT_CODE, ExitCode, FailureClass, Stage
from finetune_api.v1alpha1.status.dataset import InvalidRowPlace
from finetune_operator.finetunejob.state.retry import UNSEEN, is_disrupted, is_lost
from finetune_operator.finetunejob.state.trimmed import (
    TrimmedPod,
    container_of,
    init_container_of,
    stage_of,
)
from finetune_operator.status.conditions import find_condition, shorten

_PROBLEM_CHARACTERS = 300
_OWN_CLASSES = frozenset(CLASS_OF_EXIT_CODE.values())
"""Classes that a container can tell of itself; the others are the operator's to say."""
_MORE_MEMORY = {
    Stage.PREPARE: "Have the operator's prepareMemory raised, or use fewer examples.",
    Stage.TRAIN: (
        "Raise spec.resources.memory, or lower hyperparameters.microBatchSize or maxSequenceLength."
    ),
    Stage.EVALUATE: "Raise spec.resources.memory, or lower evaluation.batchSize.",
    Stage.PUBLISH: "Have the operator's prepareMemory raised.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a pod failed, or does not start.

    Attributes:
        failure_class: Coarse class.
        reason: CamelCase cause, stable.
        message: What happened and what to do.
        exit_code: Exit code of the container, if it ended.
        pod: Name of the pod.
        node: Name of its node.
        time: When, as an API timestamp.
        is_hopeless: Whether waiting cannot help.
        invalid_rows: The first rows that the data was refused for.
    """

    failure_class: FailureClass
    reason: str
    message: str
    exit_code: int | None = None
    pod: str = ""
    node: str = ""
    time: str = ""
    is_hopeless: bool = False
    invalid_rows: tuple[InvalidRowPlace, ...] = ()

    def to_wire(self, stage: Stage) -> dict[str, Any]:
        """Return ``status.lastFailure``."""
        wire: dict[str, Any] = {
            "class": self.failure_class.value,
            "reason": self.reason[:63],
            "stage": stage.value,
            "message": shorten(self.message),
            "exitCode": self.exit_code,
            "pod": self.pod or None,
            "node": self.node or None,
            "time": self.time or None,
            "invalidRows": [place.to_wire() for place in self.invalid_rows] or None,
        }
        return {name: value for name, value in wire.items() if value is not None}


def read_termination_message(pod: TrimmedPod) -> TerminationMessage | None:
    """Parse the last words of a pod's container; None if there are none or they are not its own.

    A pod speaks of its own stage only.
    """
    words = _parse_words(_text_of(pod))
    return words if isinstance(words, TerminationMessage) and _is_own(words, pod) else None


def problem_of_words(pod: TrimmedPod) -> str:
    """Return why the last words of a pod are not taken, in words; empty if there is nothing to say.

    Empty also where they are no whole JSON: the kubelet cuts what is longer than 4,096 bytes.
    """
    words = _parse_words(_text_of(pod))
    if isinstance(words, str):
        return words
    if words is None or (_is_own(words, pod) and words.result is None):
        return ""
    of = words.stage.value if words.result is None else words.result.stage
    own = stage_of(pod)
    return "" if own is None or of == own else f"a {own.value} pod reports no result of stage {of}"


def _text_of(pod: TrimmedPod) -> str:
    return (container_of(pod).get("terminated") or {}).get("message") or ""


def _is_own(words: TerminationMessage, pod: TrimmedPod) -> bool:
    return stage_of(pod) in (None, words.stage)


@lru_cache(maxsize=1024)
def _parse_words(text: str) -> TerminationMessage | str | None:
    """Return the message; why it is none of ours, where it seems to be; None where it does not."""
    if not text.startswith("{"):
        return None
    # Every plan reads the last words of all stages again. A newer trainer may say more.
    try:
        return TerminationMessage.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return None
    return shorten(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", _PROBLEM_CHARACTERS)


def cause_of_failure(pod: TrimmedPod, *, memory: str = "") -> Cause | None:
    """Explain a pod that ended badly; None if it did not.

    Args:
        pod: The trimmed pod.
        memory: Its memory limit, for the message of an out-of-memory kill.
    """
    status = pod["status"]
    ended = container_of(pod).get("terminated")
    if is_disrupted(pod):
        return _disrupted(pod, ended)
    if status.get("reason") == "Evicted":
        return _over_its_limits(pod, ended or {})
    # A kubelet that begins anew looks for a container also where it had turned the pod away.
    was_none = ended is None or (status.get("reason") and ended.get("reason") == UNSEEN)
    if status["phase"] == "Failed" and was_none:
        return _never_began(pod)
    if ended is None or ended.get("exitCode") == 0:
        return None
    return _exited(pod, ended, memory)


def place_of(pod: TrimmedPod, *, at: str | None = None) -> dict[str, Any]:
    """Return what a cause says of where and when; without a time, the pod's creation."""
    return {
        "pod": pod["metadata"]["name"],
        "node": pod["spec"]["nodeName"],
        "time": at or pod["metadata"].get("creationTimestamp", ""),
    }


def _goes_on(pod: TrimmedPod) -> str:
    if stage_of(pod) is Stage.TRAIN:
        return "resumes at the last checkpoint"
    return "starts the stage again"


def _disrupted(pod: TrimmedPod, ended: Mapping[str, Any] | None) -> Cause:
    """Explain a pod that Kubernetes ended for reasons of its own."""
    status = pod["status"]
    disrupted = find_condition(status.get("conditions"), "DisruptionTarget") or {}
    message = disrupted.get("message") or status.get("message") or "no reason given"
    return Cause(
        failure_class=FailureClass.EVICTED,
        reason=disrupted.get("reason") or "Evicted",
        message=(
            f"The pod was evicted: {message.rstrip('. ')}. This does not count against"
            f" backoffLimit; the next pod {_goes_on(pod)}."
        ),
        exit_code=None if ended is None else ended.get("exitCode"),
        **place_of(pod, at=disrupted.get("lastTransitionTime")),
    )


def _over_its_limits(pod: TrimmedPod, ended: Mapping[str, Any]) -> Cause:
    """Explain a pod that its kubelet evicted for writing more than it may."""
    message = pod["status"].get("message") or "the kubelet gave no reason"
    remedy = "Have its disk space raised: scratchSize of the operator, LimitRange of the namespace"
    if '"shm"' in message:
        remedy = "Raise spec.resources.sharedMemory"
    return Cause(
        failure_class=FailureClass.EVICTED,
        reason="Evicted",
        message=(
            f"The kubelet evicted the pod: {message.rstrip('. ')}. {remedy}. This counts against"
            f" backoffLimit; a next pod {_goes_on(pod)}."
        ),
        exit_code=ended.get("exitCode"),
        **place_of(pod, at=ended.get("finishedAt")),
    )


def _never_began(pod: TrimmedPod) -> Cause:
    """Explain a pod that failed before its container existed."""
    before = init_container_of(pod)
    ended = None if before is None else before["state"].get("terminated")
    if before is None or ended is None or pod["status"].get("reason"):
        return _rejected(pod)
    if is_lost(pod):
        return _lost(pod, ended)
    metadata, name = pod["metadata"], before["name"]
    text = (ended.get("message") or "").strip()
    return Cause(
        failure_class=FailureClass.RETRYABLE,
        reason="InitContainerFailed",
        message=(
            f"Init container {name}, which comes before the stage's own, ended with exit code"
            f" {ended.get('exitCode')}{f': {text}' if text else ''}. The operator has not put it"
            " there: an admission webhook adds it to pods. Its log: kubectl -n"
            f" {metadata.get('namespace')} logs {metadata['name']} -c {name}"
        ),
        **place_of(pod, at=ended.get("finishedAt")),
    )


def _rejected(pod: TrimmedPod) -> Cause:
    """Explain a pod that the kubelet turned away."""
    status = pod["status"]
    reason = status.get("reason") or "PodFailed"
    message = status.get("message") or "Kubernetes gave no reason"
    return Cause(
        failure_class=FailureClass.UNSCHEDULABLE,
        reason=reason,
        message=f"The node refused the pod: {message}.",
        **place_of(pod),
    )


def _exited(pod: TrimmedPod, ended: Mapping[str, Any], memory: str) -> Cause:
    code = int(ended.get("exitCode") or 0)
    words = read_termination_message(pod)
    where = place_of(pod, at=ended.get("finishedAt"))
    if ended.get("reason") == "OOMKilled":
        limit = f" of {memory}" if memory else ""
        return Cause(
            failure_class=FailureClass.OUT_OF_MEMORY,
            reason="OOMKilled",
            message=f"The container went over its memory limit{limit} and was killed."
            f" {_MORE_MEMORY[stage_of(pod) or Stage.TRAIN]}",
            exit_code=code,
            **where,
        )
    if words is not None and (words.message or words.reason):
        failure_class = CLASS_OF_EXIT_CODE.get(code, FailureClass.INTERNAL)
        if words.failure_class in _OWN_CLASSES:
            failure_class = words.failure_class
        rank = "" if words.rank in (None, 0) else f" (rank {words.rank})"
        return Cause(
            failure_class=failure_class,
            reason=words.reason or failure_class.value,
            message=f"{words.message}{rank}",
            exit_code=code,
            invalid_rows=tuple(words.invalid_rows) if words.stage is Stage.PREPARE else (),
            **where,
        )
    if is_lost(pod):
        return _lost(pod, ended)
    failure_class, reason, message = _of_exit_code(code, ended)
    return Cause(
        failure_class=failure_class, reason=reason, message=message, exit_code=code, **where
    )


def _lost(pod: TrimmedPod, ended: Mapping[str, Any]) -> Cause:
    """Explain a container whose end nobody saw."""
    code = ended.get("exitCode")
    return Cause(
        failure_class=FailureClass.RETRYABLE,
        reason="ContainerLost",
        message=(
            f"The node does not know how the container ended ({ended.get('reason')}, exit code"
            f" {code}): it or its container runtime was restarted, or the pod was deleted before"
            " it had started. This does not count against backoffLimit; the next pod"
            f" {_goes_on(pod)}. If it happens again and again, look at the node; more than"
            " backoffLimit + 1 such ends in a row without a new step end the job."
        ),
        exit_code=code,
        **place_of(pod, at=ended.get("finishedAt")),
    )


def _of_exit_code(code: int, ended: Mapping[str, Any]) -> tuple[FailureClass, str, str]:
    text = (ended.get("message") or "").strip()
    if ended.get("reason") in ("StartError", "ContainerCannotRun") or code in (126, 127, 128):
        return (
            FailureClass.IMAGE_ERROR,
            ended.get("reason") or "ContainerCannotRun",
            f"The container could not be started: {text or 'its command does not exist'}. Is"
            " spec.trainer.image an image of this trainer?",
        )
    if code in (137, 143):
        name = "SIGKILL" if code == 137 else "SIGTERM"
        return (
            FailureClass.RETRYABLE,
            f"Killed{name}",
            f"The container was ended by {name} and left no message: its node ran out of memory,"
            " or it did not save within terminationGracePeriodSeconds.",
        )
    failure_class = CLASS_OF_EXIT_CODE.get(code, FailureClass.INTERNAL)
    if code == ExitCode.OUT_OF_MEMORY:
        return (
            failure_class,
            "OutOfMemory",
            "The GPU ran out of memory. Lower hyperparameters.microBatchSize or"
            " maxSequenceLength, or choose strategy ZeRO3 or FSDP2.",
        )
    last_words = f": {text}" if text else " and left no message"
    return (
        failure_class,
        f"ExitCode{code}" if code not in CLASS_OF_EXIT_CODE else failure_class.value,
        f"The container ended with exit code {code}{last_words}. See its log: kubectl logs.",
    )


def latest_cause(pods: Iterable[TrimmedPod], *, memory: str = "") -> Cause | None:
    """Explain the failure that matters most among a stage's pods.

    A cause that is the pod's own beats that of a peer which only noticed (exit 75) or was asked to
    stop (79); among equals the latest wins.
    """
    followers = (FailureClass.RETRYABLE, FailureClass.STOPPED)
    ranked = [
        ((cause.failure_class not in followers), cause.time, cause)
        for pod in pods
        if (cause := cause_of_failure(pod, memory=memory)) is not None
    ]
    if not ranked:
        return None
    return max(ranked, key=lambda item: item[:2])[2]
