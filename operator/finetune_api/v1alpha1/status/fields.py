"""What the parts of a status have in common: types of fields, and conditions."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from finetune_api.meta import PROSE, APIModel

MAX_COUNT = 2**53 - 1
"""The largest whole number that a JSON schema can bound exactly.

The API server reads a ``maximum`` as a double: 2**63 - 1 becomes 2**63, which is no number of 64
bits, and it refuses every object with the field.
"""
MAX_VERSION = 1_000_000
"""The highest number of a published version."""
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?|[-+]?(nan|inf)")

_PROSE: dict[str, Any] = {PROSE: True}


def check_number(text: str) -> str:
    """Check that a text is a number; ``nan`` means not measured.

    Raises:
        ValueError: It is no number, or its exponent has more than three digits.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number; write for example '0.25' or '1e-05'")
    return text


Text = Annotated[str, Field(max_length=1024, json_schema_extra=_PROSE)]
"""Sentences for people."""
ShortText = Annotated[str, Field(max_length=253)]
"""A name of an object, or a digest."""
ShortSentence = Annotated[str, Field(max_length=253, json_schema_extra=_PROSE)]
Sentence = Annotated[str, Field(max_length=300, json_schema_extra=_PROSE)]
Reason = Annotated[str, Field(max_length=63, json_schema_extra=_PROSE)]
"""CamelCase cause."""
StoredURI = Annotated[str, Field(max_length=1280)]
"""A place below `output.uri`, which has 1,024 characters at most: what the operator and the trainer
add to it has 200."""
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
"""A whole number from 0 to ``MAX_COUNT``."""
Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
Number = Annotated[str, Field(max_length=32), AfterValidator(check_number)]
"""A number as text, also one that could not be measured: `nan`."""
ExitStatus = Annotated[int, Field(ge=-2147483648, le=2147483647)]

StageName = Literal["prepare", "train", "evaluate", "publish"]


class Condition(APIModel):
    """As in meta/v1."""

    type: Annotated[str, Field(max_length=63)]
    """Accepted, DatasetReady, DataApproved, QuotaReserved, Training, Evaluated, GoalMet, Published,
    WithinBudget, Suspended, Stalled, Complete, Failed or Pruned."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Reason
    """CamelCase cause, stable: scripts may compare it."""
    message: Text = ""
    """For people: what happened and what to do."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: Count | None = None
    """Generation of the spec this was computed from."""
