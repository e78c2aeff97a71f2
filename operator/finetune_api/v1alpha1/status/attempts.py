"""Stages and their attempts: where they wait, and how they ended."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_NAME, APIModel
from finetune_api.v1alpha1.spec.retry import IncidentClass
from finetune_api.v1alpha1.status.dataset import InvalidRowPlaces
from finetune_api.v1alpha1.status.fields import (
    Count,
    ExitStatus,
    Reason,
    ShortText,
    StageName,
    Text,
    Timestamp,
)


class IncidentStatus(APIModel):
    """The end of one attempt, with its root cause."""

    incident_class: Annotated[IncidentClass, Field(alias="class")]
    """What it is to the retry budget."""
    reason: Reason = ""
    """CamelCase cause."""
    stage: StageName
    """Stage it ended."""
    rank: Count | None = None
    """Node rank of the pod that failed of itself."""
    node: ShortText | None = None
    """Node it ran on."""
    pod: ShortText | None = None
    """Pod that failed of itself."""
    from_step: Count | None = None
    """Step that the attempt had begun at, where training told it."""
    to_step: Count | None = None
    """Step that it had come to, as far as it was reported."""
    counted: bool = False
    """Whether it used up a retry."""
    time: Timestamp
    """When."""


class QueueStatus(APIModel):
    """Where the present stage stands in Kueue's queues."""

    local_queue: ShortText | None = None
    """LocalQueue of the stage's Job."""
    cluster_queue: ShortText | None = None
    """ClusterQueue that quota is reserved in."""
    workload: ShortText | None = None
    """Kueue's Workload of the stage: `kubectl describe workload` shows what Kueue says."""
    position: Annotated[int, Field(ge=1, le=2147483647)] | None = None
    """Place among all that wait for the same ClusterQueue; 1 is next. Of the first hundred of a
    LocalQueue, from 11 on rounded up to tens; looked at every half minute. Absent once quota is
    reserved, further behind, and where Kueue's visibility API is not open to the operator."""
    position_in_local_queue: Annotated[int, Field(ge=1, le=2147483647)] | None = None
    """The same among those of its LocalQueue."""


class Attempts(APIModel):
    """How often stages were tried."""

    total: Count = 0
    """Pods started over all stages, retries included."""
    counted: Count = 0
    """Incidents that used up a retry."""
    preemptions: Count = 0
    """Evictions and preemptions, by the cluster or by Kueue, which do not count."""
    history: Annotated[
        list[IncidentStatus], Field(max_length=10, json_schema_extra=ATOMIC_LIST)
    ] = []
    """The last incidents, oldest first."""


class Failure(APIModel):
    """The last failure, with enough to act on."""

    failure_class: Annotated[str, Field(max_length=63, alias="class")]
    """UserError, DataError, StorageError, OutOfMemory, ImageError, Unschedulable, Evicted ..."""
    reason: Reason = ""
    """CamelCase cause."""
    stage: StageName | None = None
    """Stage that failed."""
    exit_code: ExitStatus | None = None
    """Exit code of the container."""
    message: Text = ""
    """What was tried, on what, what came back, what to do."""
    invalid_rows: InvalidRowPlaces = []
    """The first rows that the data was refused for, at most 20."""
    pod: ShortText | None = None
    """Pod that failed."""
    node: ShortText | None = None
    """Node it ran on."""
    time: Timestamp | None = None
    """When."""


class IncidentCount(APIModel):
    """Incidents of one class that used up retries."""

    name: IncidentClass
    """Class."""
    count: Count = 0
    """How many."""


class FruitlessStatus(APIModel):
    """Ends in a row that cost no retry and came before a new step was made."""

    step: Count = 0
    """Step that they are counted from."""
    evictions: Count = 0
    """By a kubelet whose node ran out of disk or memory."""
    deletions: Count = 0
    """By whoever deleted its Job."""
    others: Count = 0
    """By others: preempted, drained, its node lost."""


class OutageStatus(APIModel):
    """Why a stage that has run before does not run: it has let its nodes go, and tries again."""

    since: Timestamp
    """Since when it gets nowhere."""
    step: Count = 0
    """Step that was reached by then; a later one ends the outage."""
    releases: Count = 0
    """How often it has let its nodes go since then."""
    retry_time: Timestamp | None = None
    """When it tries again; absent once it does."""
    held_seconds: Count = 0
    """How long it was suspended, or queued, since then, in seconds: no part of the outage."""
    held_time: Timestamp | None = None
    """Since when that is so again."""


class CutStatus(APIModel):
    """Why a stage was stopped before its end, while it is not known yet what it has stored."""

    reason: ShortText
    """The limit that it has reached, or ``PruneRequested``."""
    time: Timestamp
    """Since when."""
    active_seconds: Count = 0
    """Running time by then, in seconds: it counts until the Job's own account has caught up."""


class StageStatus(APIModel):
    """The Job of one stage."""

    name: StageName
    """Stage."""
    job: ShortText
    """Name of its Job."""
    start_time: Timestamp | None = None
    """When it first ran."""
    completion_time: Timestamp | None = None
    """When it ended."""
    active_seconds: Count | None = None
    """Running time over all attempts that have ended, in seconds: a pod of it had a node."""
    unplaced_seconds: Count | None = None
    """How long it could have run and none of its pods had a node, in seconds; not counted."""
    unplaced_since: Timestamp | None = None
    """Since when that is so again."""
    incidents: Annotated[
        list[IncidentCount], Field(max_length=8, json_schema_extra=MAP_BY_NAME)
    ] = []
    """Retries used up, by class."""
    evictions: Count | None = None
    """How often Kueue took the quota back and stopped the pods."""
    first_run_time: Timestamp | None = None
    """When a container of it first ran."""
    fruitless: FruitlessStatus | None = None
    """Ends that came to nothing; absent without one."""
    outage: OutageStatus | None = None
    """The last outage, if there was one."""
    cut: CutStatus | None = None
    """Why it was stopped before its end; absent unless it was."""
    past_seconds: Count | None = None
    """Running time up to its last pause, in seconds; the known part once its Job is gone."""
    run_time: Timestamp | None = None
    """Since when it runs after that."""
    deleted_time: Timestamp | None = None
    """Since when its Job is gone, deleted by somebody; it is made again."""
