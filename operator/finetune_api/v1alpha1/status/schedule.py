"""Status of a FineTuneSchedule: the cycle under way, ended ones, and what triggers count from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_TYPE, APIModel
from finetune_api.v1alpha1.status.dataset import AnchorStatus
from finetune_api.v1alpha1.status.fields import (
    Condition,
    Count,
    Number,
    Reason,
    Sentence,
    ShortText,
    Timestamp,
)

MAX_HISTORY = 50

TriggerName = Literal["Cron", "NewRows", "NewFeedback", "Drift", "Manual"]
Outcome = Literal[
    "Promoted",
    "Published",
    "RolledBack",
    "Refused",
    "Superseded",
    "NotPublished",
    "Failed",
    "Deleted",
    "TimedOut",
]


class ScheduleCondition(Condition):
    """As in meta/v1."""

    type: Annotated[str, Field(max_length=63)]
    """Ready or Stalled."""


class Cycle(APIModel):
    """One trigger and its outcome."""

    time: Timestamp
    """When it was triggered. Data sources are pinned to this time."""
    trigger: TriggerName
    """What the cause was."""
    job: ShortText
    """Name of the FineTuneJob."""
    job_uid: ShortText | None = None
    """Its UID. Absent until the job exists."""
    data_digest: ShortText | None = None
    """Digest of the data set that it was trained on."""
    version: Count | None = None
    """Version that it has published."""
    verdict: Reason | None = None
    """What goal and gates said: `GoalReached` or another reason of the job."""
    look: Count | None = None
    """Evaluations of the held-out rows, as the job counted them; before its evaluation, as the last
    evaluated job did."""


class ActiveCycle(Cycle):
    """The cycle under way."""

    waits_for: Literal["Job", "Traffic"] = "Job"
    """What its end depends on: the job, or the rollout of its version."""


class EndedCycle(Cycle):
    """A cycle that has ended."""

    outcome: Outcome
    """`Promoted`: its version answers. `Published`: there is a version, and no endpoint that was to
    take it. `RolledBack` and `Refused`: the endpoint did not keep it. `Superseded`: a later version
    came first. `NotPublished`: goal, gates or a person said no. `Failed`: the job failed.
    `Deleted`: somebody deleted the job. `TimedOut`: it lasted longer than
    `cycleDeadlineSeconds`."""
    end_time: Timestamp
    """When it ended."""
    message: Sentence = ""
    """Why, and which version answers since."""


class CountedStatus(APIModel):
    """What triggers count from: the counts of the endpoint at the last trigger."""

    since: Timestamp | None = None
    """Since when the endpoint counts. At another time everything counts from 0."""
    rows: Count = 0
    """Captured answers."""
    feedback: Count = 0
    """Corrections and ratings."""
    drift_time: Timestamp | None = None
    """When the drift began that was last reacted to."""


class UsedStatus(APIModel):
    """What was used of the budget in the present period."""

    since: Timestamp
    """Begin of the period."""
    jobs: Count = 0
    """FineTuneJobs."""
    gpu_hours: Number = "0"
    """GPU hours of its jobs that have ended."""


class BackoffStatus(APIModel):
    """The pause after cycles in a row that have brought no version."""

    cycles: Count
    """Cycles in a row."""
    generation: Count
    """Generation of the spec that they had. Another one ends the pause."""
    until: Timestamp
    """When triggers may begin the next cycle."""


class FineTuneScheduleStatus(APIModel):
    """What the operator reports."""

    observed_generation: Count | None = None
    """Generation of the spec this status was computed from."""
    reason: Reason | None = None
    """For columns only: the reason of `Stalled` where it is true, else of `Ready`."""
    conditions: Annotated[
        list[ScheduleCondition], Field(max_length=4, json_schema_extra=MAP_BY_TYPE)
    ] = []
    """State by type."""
    last_trigger_time: Timestamp | None = None
    """When the last cycle was triggered."""
    last_schedule_time: Timestamp | None = None
    """The last time of `triggers.cron` that a job was created for, or that was left out because it
    was too late."""
    next_trigger_time: Timestamp | None = None
    """The next time of `triggers.cron`."""
    handled_trigger: ShortText | None = None
    """Value of the annotation `finetune.dev/trigger` that a cycle was begun for last."""
    active: ActiveCycle | None = None
    """The cycle under way."""
    history: Annotated[
        list[EndedCycle], Field(max_length=MAX_HISTORY, json_schema_extra=ATOMIC_LIST)
    ] = []
    """Ended cycles, newest last."""
    anchor: AnchorStatus | None = None
    """What each further job holds out again, as `dataset.anchor`. Absent until a cycle was
    evaluated."""
    counted: CountedStatus | None = None
    """What triggers count from."""
    backoff: BackoffStatus | None = None
    """Absent where the last cycle has brought a version."""
    used: UsedStatus | None = None
    """What was used of the budget. Absent without a budget, and before the first trigger."""
