"""The prepared data set, and the decision on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, APIModel
from finetune_api.v1alpha1.status.fields import Count, Reason, ShortText, StoredURI, Text, Timestamp


class Rows(APIModel):
    """Rows per side of the split."""

    train: Count = 0
    """Training rows."""
    validation: Count = 0
    """Validation rows."""
    test: Count = 0
    """Held-out rows."""


class InvalidRowPlace(APIModel):
    """A row that cannot be used; never with its text."""

    file: Annotated[str, Field(max_length=80)]
    """File, as the source names it; a long name is cut at its beginning."""
    line: Count
    """Line the row begins on, from 1; position of the row in files without lines."""
    reason: Reason
    """CamelCase cause."""


InvalidRowPlaces = Annotated[
    list[InvalidRowPlace], Field(max_length=20, json_schema_extra=ATOMIC_LIST)
]


class QuestionStatus(APIModel):
    """How many held-out questions are asked, where `evaluation.maxSamples` is `auto`."""

    number: Count | None = None
    """Questions."""
    enough: bool | None = None
    """False where goal or gates take more than are held out."""
    message: Text | None = None
    """Which of them decided, and what it takes."""


class AnchorStatus(APIModel):
    """The test rows that were sealed: those of the first cycle that was evaluated."""

    job: ShortText
    """Name of its FineTuneJob."""
    digest: Annotated[str, Field(max_length=64)]
    """Digest of its data set."""
    test_sha256: Annotated[str, Field(max_length=64)]
    """SHA-256 of its `test.jsonl`."""


class TakenOverStatus(APIModel):
    """A complete run of an earlier FineTuneJob of the same name and content."""

    uid: Annotated[str, Field(max_length=64)]
    """UID of that FineTuneJob. Its run has adapter and evaluation."""
    is_published: bool
    """Whether its candidate was a version already."""


class DatasetStatus(APIModel):
    """The prepared data set."""

    digest: ShortText | None = None
    """Content digest, the version of the data."""
    uri: StoredURI | None = None
    """Folder of the prepared data set."""
    test_sha256: ShortText | None = None
    """SHA-256 of its `test.jsonl`: what `dataset.anchor` of a later job names."""
    rows: Rows | None = None
    """Rows per side."""
    num_tokens: Count | None = None
    """Tokens of the training side."""
    num_invalid_rows: Count | None = None
    """Rows left out as invalid; all of them are in `invalid-rows.jsonl` of the data set."""
    invalid_rows: InvalidRowPlaces = []
    """The first of them, at most 20."""
    num_truncated_rows: Count | None = None
    """Rows longer than `maxSequenceLength`."""
    questions: QuestionStatus | None = None
    """How many held-out questions are asked. Only where `evaluation.maxSamples` is `auto`."""
    taken_over: TakenOverStatus | None = None
    """The run that stands for this job, which therefore trains nothing."""
    anchor: AnchorStatus | None = None
    """The sealed rows on record of the job's schedule, where the job itself names none."""


class DataApprovalStatus(APIModel):
    """The decision on the data set that the job goes by."""

    name: ShortText
    """Name of the FineTuneApproval."""
    decision: Literal["Approved", "Rejected"]
    """What was decided."""
    digest: Annotated[str, Field(max_length=64)]
    """Digest of the data set it names. Nothing else is trained on."""
    by: Annotated[str, Field(max_length=512)]
    """Who decided."""
    reason: Annotated[str, Field(max_length=512)] | None = None
    """Why."""
    time: Timestamp | None = None
    """When the FineTuneApproval was created."""
