"""What a plan may ask for: a closed set of writes, each idempotent by name or by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from finetune_api.protocol.trainer import Stage
from finetune_operator.status.draft import Announce
from finetune_operator.status.fitting import FittedStatus

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateStage:
    """Create the Job of a stage, and before it the objects its pods need.

    Attributes:
        stage: Which stage.
        needs: ConfigMap and Service, created if they are not there.
        job: The Job.
        job_digest: The only job file that a ConfigMap which is there may hold; None for any.
    """

    stage: Stage
    needs: tuple[Object, ...]
    job: Object
    job_digest: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmMissing:
    """Read a Job live that the cache does not have and the status says was created."""

    stage: Stage
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LookUpWarnings:
    """Read the warning events of pods that do not start, or of a Job that gets no pods.

    Attributes:
        kind: Kind of the objects.
        names: Their names.
        since: Warnings told before this moment are over.
    """

    kind: Literal["Pod", "Job"]
    names: tuple[str, ...]
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreNeeds:
    """Create again what pods need and somebody deleted; what is there already stays.

    Attributes:
        objects: What is missed.
    """

    objects: tuple[Object, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseJob:
    """Set ``spec.suspend`` of a Job that no queue owns; its pods save and stop.

    Attributes:
        stage: Which stage.
        name: Name of the Job.
        active_seconds: Its running time up to now, in seconds.
        started: ``status.startTime`` of the run that this time includes; empty for none.
        why: Value of the pause annotation.
    """

    stage: Stage
    name: str
    active_seconds: int
    started: str = ""
    why: str = "true"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeJob:
    """Clear ``spec.suspend`` of a Job that the operator paused."""

    stage: Stage
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivateWorkload:
    """Set ``spec.active`` of the Workload of a queued stage."""

    stage: Stage
    name: str
    active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RelabelJob:
    """Carry an edit of queue or priority to a stage's Job; Kueue follows the labels.

    Attributes:
        stage: Which stage.
        name: Name of the Job.
        labels: The labels that change, and their new values.
        event: What is told once they are changed.
    """

    stage: Stage
    name: str
    labels: Mapping[str, str]
    event: Announce


@dataclass(frozen=True, kw_only=True, slots=True)
class FailPod:
    """Declare a pod failed whose kubelet does not answer any more.

    Attributes:
        name: Name of the pod.
        uid: Its UID: another pod of that name is left alone.
        message: What is written into its status.
        is_explained: Whether its status says already why it is disrupted.
    """

    name: str
    uid: str
    message: str
    is_explained: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteSelf:
    """Delete the finished FineTuneJob; the garbage collector takes its children."""


Read: TypeAlias = ConfirmMissing | LookUpWarnings | RestoreNeeds
"""What a plan may ask for before it goes on, beside the Job of a stage."""


Write: TypeAlias = PauseJob | ResumeJob | ActivateWorkload | RelabelJob | FailPod | DeleteSelf
"""What follows the status."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        first: Reads and creations whose outcome the status must tell; afterwards plan again.
        status: The operator's part of the status, complete; None to leave it as it is.
        events: Events of what changed, recorded after the status is written.
        then: Writes that follow the status: a terminal state is stored before anything is stopped.
        requeue_after: Look again after this many seconds, or None.
    """

    first: tuple[Read | CreateStage, ...] = ()
    status: FittedStatus | None = None
    events: tuple[Announce, ...] = ()
    then: tuple[Write, ...] = ()
    requeue_after: float | None = None
