"""Status of a FineTuneSweep.

Below 20 KB with a hundred trials of five parameters; 25 KB with eight, the most there may be.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_NAME, MAP_BY_TYPE, APIModel
from finetune_api.v1alpha1.status.fields import (
    Condition,
    Count,
    Number,
    Reason,
    ShortText,
    Timestamp,
)

MAX_TRIALS_LISTED = 48
"""Trials of which the status tells one by one: those under way, then the best."""

SweepPhase = Literal[
    "Pending", "Searching", "Replicating", "Publishing", "Suspended", "Succeeded", "Failed"
]
TrialStateName = Literal[
    "Pending",
    "Running",
    "Suspended",
    "Waiting",
    "Trained",
    "Pruned",
    "Failed",
    "Publishing",
    "Published",
    "Deleted",
]


class SweepCondition(Condition):
    """As in meta/v1."""

    type: Annotated[str, Field(max_length=63)]
    """Accepted, Progressing, Published, Suspended, Stalled, Complete or Failed."""


Setting = Annotated[
    dict[Annotated[str, Field(max_length=63)], Annotated[str, Field(max_length=32)]],
    Field(max_length=8),
]


class TrialStatus(APIModel):
    """One trial."""

    name: ShortText
    """Name of its FineTuneJob."""
    state: TrialStateName
    """How far it is. `Waiting`: it has saved and stopped at a rung, until the others come there.
    `Trained`: it waits for the choice. `Pruned`: stopped by the sweep, or not
    chosen. `Publishing`: chosen, and evaluated on the test side. `Failed` with its reason."""
    reason: Reason | None = None
    """Why, of a trial that has failed, waits for somebody, was trained and has no score, or was
    deleted."""
    parameters: Setting = {}
    """What was varied, by path."""
    score: Number | None = None
    """What it is compared by: the lowest validation loss so far, or the score of another metric,
    once it is trained."""
    low: Number | None = None
    """Lower end of the score's interval, where it has one."""
    high: Number | None = None
    """Upper end."""
    loss: Number | None = None
    """Lowest validation loss so far, where `score` is another metric."""
    step: Count | None = None
    """Last step whose validation loss is known."""
    tokens: Count | None = None
    """Tokens trained on, where training told it."""
    replicate_of: ShortText | None = None
    """The trial whose values it has, with another seed."""


class ObjectiveStatus(APIModel):
    """What trials are compared by."""

    metric: Annotated[str, Field(max_length=63)]
    """`validationLoss`, or a metric of the answers to validation rows."""
    direction: Literal["Minimize", "Maximize"]
    """Which way is better."""


class BestStatus(APIModel):
    """The best trial so far; once one was chosen, that one."""

    name: ShortText
    """Name of its FineTuneJob."""
    score: Annotated[str, Field(max_length=32)]
    """Its score by the objective; `unknown` of a trial that was chosen without one."""
    parameters: Setting = {}
    """What was varied, by path."""
    chosen: bool = False
    """Whether it was chosen: it is evaluated on the test side and published through its gates."""
    mean: Number | None = None
    """Mean score over its replicates and itself."""
    spread: Number | None = None
    """Their standard deviation: a difference below it is none that can be relied on."""


class CountsStatus(APIModel):
    """Trials by state, replicates included."""

    total: Count = 0
    """As many as there will be."""
    created: Count = 0
    """As were created."""
    running: Count = 0
    """As are under way, also waiting or suspended."""
    trained: Count = 0
    """As were trained to their end."""
    pruned: Count = 0
    """As were stopped early."""
    failed: Count = 0
    """As have failed, or were deleted by somebody."""


class SpentStatus(APIModel):
    """What all trials have used."""

    gpu_hours: Number = "0"
    """GPUs times running time: of all stages, and of training that runs up to when this was
    written. Deleted trials included."""
    tokens: Count = 0
    """Reported tokens trained on."""


MAX_NUMBERS = 110
"""Trials and replicates that a sweep may have."""
TrialNumbers = Annotated[list[Count], Field(max_length=MAX_NUMBERS, json_schema_extra=ATOMIC_LIST)]


class DeletedStatus(APIModel):
    """Trials that somebody has deleted, or taken from the sweep: they stay counted."""

    numbers: TrialNumbers = []
    """Which. They are not created again."""
    replicates: TrialNumbers = []
    """Numbers of deleted replicates."""
    gpu_hours: Number = "0"
    """GPU hours that they had used when they were missed."""
    tokens: Count = 0
    """Tokens that `spent` had counted of them."""


class FineTuneSweepStatus(APIModel):
    """What the operator reports."""

    observed_generation: Count | None = None
    """Generation of the spec this status was computed from."""
    phase: SweepPhase | None = None
    """For columns only; the conditions are the contract."""
    reason: Reason | None = None
    """Why, for columns only: the reason of the condition that decides the phase."""
    progress: Annotated[str, Field(max_length=16)] | None = None
    """Trials that are over, of all: `3/8`. For columns only."""
    conditions: Annotated[
        list[SweepCondition], Field(max_length=12, json_schema_extra=MAP_BY_TYPE)
    ] = []
    """State by type."""
    start_time: Timestamp | None = None
    """When the first trial was created."""
    completion_time: Timestamp | None = None
    """When the sweep reached its end."""
    counts: CountsStatus | None = None
    """Trials by state."""
    objective: ObjectiveStatus | None = None
    """What trials are compared by."""
    best: BestStatus | None = None
    """The best trial that has a score."""
    spent: SpentStatus | None = None
    """What all trials have used."""
    deleted: DeletedStatus | None = None
    """The trials that were deleted; absent while none was."""
    trials: Annotated[
        list[TrialStatus],
        Field(max_length=MAX_TRIALS_LISTED, json_schema_extra=MAP_BY_NAME),
    ] = []
    """The trials, in their order: of more than 48 those under way and the best. All of them are
    FineTuneJobs with the label `finetune.dev/sweep`."""
