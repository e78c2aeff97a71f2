"""What the parts of a status have in common: types of fields, and conditions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import APIModel

Text = Annotated[str, Field(max_length=1024)]
ShortText = Annotated[str, Field(max_length=253)]
Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
Number = Annotated[str, Field(max_length=32)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A number of something; larger ones are no numbers to many readers of JSON."""

ExitStatus = Annotated[int, Field(ge=-2147483648, le=2147483647)]

StageName = Literal["prepare", "train", "evaluate", "publish"]


class Condition(APIModel):
    """As in meta/v1."""

    type: Annotated[str, Field(max_length=63)]
    """Accepted, DatasetReady, DataApproved, QuotaReserved, Training, Evaluated, GoalMet, Published,
    WithinBudget, Suspended, Stalled, Complete, Failed or Pruned."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=63)]
    """CamelCase cause, stable: scripts may compare it."""
    message: Text = ""
    """For people: what happened and what to do."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: Count | None = None
    """Generation of the spec this was computed from."""
