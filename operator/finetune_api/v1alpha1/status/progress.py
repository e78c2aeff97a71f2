"""How far a stage is, and how training goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, APIModel
from finetune_api.v1alpha1.status.fields import Count, Number, StageName, Timestamp

MAX_VALIDATION_POINTS = 24
"""Measurements of the validation loss that the status holds."""


class Progress(APIModel):
    """How far the current stage is."""

    stage: StageName | None = None
    """The stage that `percent` and the times are about: the current one."""
    step: Count | None = None
    """Optimiser steps done; stays while the job is evaluated."""
    total_steps: Count | None = None
    """Optimiser steps in all."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the current stage done. Starts at 0 again with every stage; 100 at the end of a
    published job."""
    epoch: Number | None = None
    """Passes over the training side."""
    last_heartbeat_time: Timestamp | None = None
    """When the trainer last reported."""
    estimated_completion_time: Timestamp | None = None
    """When the stage should end at its present speed."""


class Metric(APIModel):
    """Latest value of one training metric."""

    name: Annotated[str, Field(max_length=63)]
    """Name, for example `loss`, `tokens_per_second`, or `num_tokens`: those trained so far."""
    value: Number
    """Value as a decimal string."""
    step: Count | None = None
    """Step it was measured at."""


class ValidationPoint(APIModel):
    """One measurement of the validation loss."""

    step: Count
    """Optimiser steps done by then."""
    loss: Number
    """Mean loss over the measured validation rows, as a decimal string."""


class ValidationStatus(APIModel):
    """The validation loss so far: what jobs are compared by before any of them is evaluated."""

    best_step: Count | None = None
    """Step of the lowest loss, the earliest where several are equal."""
    best_loss: Number | None = None
    """The lowest loss."""
    curve: Annotated[
        list[ValidationPoint],
        Field(max_length=MAX_VALIDATION_POINTS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """The measurements in the order of their steps. Of more than 24 every second, fourth, eighth
    and so on from the first, with the best and the last; all of them are in `metrics.jsonl` of the
    run."""
