"""Jobs and pods as they are cached: what is left of them has a type each.

Keys are those of the API, but for what stands for a part of the object: ``owner``, ``container``,
``image``, ``scheduledTime``. ``trimming.py`` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Required, TypeAlias, TypedDict

from finetune_api.names import STAGE_LABEL, run_of
from finetune_api.protocol.trainer import Stage
from finetune_operator.status.conditions import parse_timestamp

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
MAX_NAME_CHARACTERS = 253
"""No name, UID or kind that is looked for is longer. The API server bounds those of owners by
nothing."""
MAX_DIGITS = 10
_STAGES = {stage.value: stage for stage in Stage}


class Condition(TypedDict, total=False):
    """A condition of a Job or a pod."""

    type: Required[str]
    status: str | None
    reason: str | None
    message: str | None
    lastTransitionTime: str | None


class ControllerReference(TypedDict):
    """Whose child an object is."""

    kind: str
    name: str
    uid: str


class ChildMetadata(TypedDict, total=False):
    """Metadata of a child; ``owner`` stands for the owner reference of its controller."""

    name: Required[str]
    namespace: Required[str]
    uid: Required[str]
    resourceVersion: str
    creationTimestamp: str
    deletionTimestamp: str
    labels: Required[dict[str, str]]
    annotations: dict[str, str]
    owner: ControllerReference


class JobSpec(TypedDict, total=False):
    """Of a Job's spec; ``managedBy`` only where its pods are made elsewhere."""

    suspend: Required[bool]
    completions: Required[int | None]
    managedBy: str


class JobStatus(TypedDict, total=False):
    """Of a Job's status; what is absent is 0, or has not come yet."""

    startTime: str
    completionTime: str
    active: int
    ready: int
    failed: int
    succeeded: int
    conditions: list[Condition]


class TrimmedJob(TypedDict):
    """A batch/v1 Job as it is cached: what decisions read."""

    metadata: ChildMetadata
    spec: JobSpec
    status: JobStatus


class Waiting(TypedDict, total=False):
    """A container that has not started."""

    reason: str
    message: str


class Running(TypedDict, total=False):
    """A container that runs."""

    startedAt: str | None


class Terminated(TypedDict, total=False):
    """A container that has ended; if nobody saw it, when its pod was no longer ready."""

    exitCode: int
    reason: str
    message: str
    startedAt: str
    finishedAt: str
    signal: int


class ContainerState(TypedDict, total=False):
    """One of the three."""

    waiting: Waiting
    running: Running
    terminated: Terminated


class InitContainer(TypedDict):
    """A container that comes before the stage's own and is not done."""

    name: str
    state: ContainerState


class PodSpec(TypedDict, total=False):
    """Of a pod's spec; ``nodeName`` is empty while no node has it, ``image`` the trainer's.

    ``schedulerName`` is kept while no node has it.
    """

    nodeName: Required[str]
    schedulerName: str
    image: str


class PodStatus(TypedDict, total=False):
    """Of a pod's status; ``container`` and ``imageID`` are the trainer's.

    ``initContainer`` is the first that the trainer's waits for, or that failed the pod.
    ``scheduledTime`` is since when it has a node, ``remaining`` names the containers that have not
    ended although the trainer's has; without native sidecars, which the kubelet ends.
    """

    phase: Required[str]
    reason: str
    message: str
    conditions: list[Condition]
    scheduledTime: str
    container: ContainerState
    initContainer: InitContainer
    imageID: str
    remaining: list[str]


class TrimmedPod(TypedDict):
    """A pod as it is cached: what decisions read."""

    metadata: ChildMetadata
    spec: PodSpec
    status: PodStatus


TrimmedChild: TypeAlias = TrimmedJob | TrimmedPod


def owner_uid(child: TrimmedChild) -> str:
    """Return the UID of the controller of a trimmed object, or the empty string."""
    owner = child["metadata"].get("owner")
    return "" if owner is None else str(owner["uid"] or "")


def seconds_since_created(child: TrimmedChild, now: datetime) -> float:
    """Return the age of a trimmed object, in seconds; 0 if it is not known."""
    created = parse_timestamp(child["metadata"].get("creationTimestamp"))
    return 0.0 if created is None else (now - created).total_seconds()


def container_of(pod: TrimmedPod) -> ContainerState:
    """Return the state of a pod's trainer container; empty before the kubelet tells of it."""
    return pod["status"].get("container") or {}


def init_container_of(pod: TrimmedPod) -> InitContainer | None:
    """Return the first container that the trainer's waits for, or that failed the pod; or None."""
    return pod["status"].get("initContainer")


def stage_of(child: TrimmedChild) -> Stage | None:
    """Return the stage a trimmed object belongs to, by its label."""
    return _STAGES.get(child["metadata"]["labels"].get(STAGE_LABEL, ""))


def newest_runs(jobs: Iterable[TrimmedJob]) -> dict[Stage, TrimmedJob]:
    """Return of each stage the trimmed Job of its newest run."""
    found: dict[Stage, TrimmedJob] = {}
    for job in sorted(jobs, key=lambda job: run_of(job["metadata"]["name"])):
        stage = stage_of(job)
        if stage is not None:
            found[stage] = job
    return found


def completion_index(pod: TrimmedPod) -> int:
    """Return the rank of a pod's node; 0 for Jobs that are not indexed."""
    return read_count(pod["metadata"]["labels"].get(INDEX_LABEL))


def read_count(text: str | None) -> int:
    """Read a count that anybody may have written; 0 if it is none, or has more than ten digits."""
    is_count = text is not None and text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return int(text or 0) if is_count else 0
