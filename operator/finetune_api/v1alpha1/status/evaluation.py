"""What came of the job: chosen step, scores, gates, publication."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_NAME, PROSE, APIModel
from finetune_api.v1alpha1.evaluation.gates import MAX_GATES
from finetune_api.v1alpha1.evaluation.probing import MAX_ALARMS
from finetune_api.v1alpha1.evaluation.scoring import BaselineName
from finetune_api.v1alpha1.spec.tracking import MAX_TRACKERS
from finetune_api.v1alpha1.status.fields import (
    Count,
    Number,
    Reason,
    Sentence,
    ShortText,
    StoredURI,
    Text,
    Timestamp,
)

MAX_GATE_MESSAGE = 160
"""Characters of what the status says of one gate."""
GateMessage = Annotated[str, Field(max_length=MAX_GATE_MESSAGE, json_schema_extra={PROSE: True})]


class PublicationStatus(APIModel):
    """The decision that the candidate's publication goes by."""

    name: ShortText
    """Name of the FineTuneApproval."""
    decision: Literal["Approved", "Rejected"]
    """What was decided."""
    digest: Annotated[str, Field(max_length=64)]
    """Digest of the evaluation it names."""
    panel: Annotated[str, Field(max_length=64)] | None = None
    """Digest of the panel's result it names."""
    by: Annotated[str, Field(max_length=512)]
    """Who decided."""
    reason: Annotated[str, Field(max_length=512)] | None = None
    """Why."""
    time: Timestamp | None = None
    """When the FineTuneApproval was created."""
    run: Count | None = None
    """Run of stage `publish` that acts on it, of a job that had ended."""


class ValidationScoreStatus(APIModel):
    """What the tuned model's answers to validation rows score (`evaluation.validation`)."""

    metric: Annotated[str, Field(max_length=63)]
    """Metric."""
    value: Number | None = None
    """Its value; absent where there is none."""
    low: Number | None = None
    """Lower end of its interval."""
    high: Number | None = None
    """Upper end."""
    num_samples: Count = 0
    """Validation rows that were answered."""
    reason: Reason | None = None
    """Why there is no score."""
    message: Sentence | None = None
    """The same for people."""


class SelectionStatus(APIModel):
    """The step whose weights are published, among the steps that were trained."""

    step: Count | None = None
    """Its weights are the published ones."""
    validation_loss: Number | None = None
    """Validation loss after it."""
    last_step: Count | None = None
    """The last step that was trained."""
    last_validation_loss: Number | None = None
    """Validation loss after the last step."""
    planned_steps: Count | None = None
    """Steps that would have been trained without early stopping."""
    score: ValidationScoreStatus | None = None
    """What their answers to validation rows score."""


class Artifact(APIModel):
    """The published adapter."""

    uri: StoredURI | None = None
    """Folder of the adapter."""
    version: Count | None = None
    """Published version of this job's name."""
    sha256: ShortText | None = None
    """Digest of the weights file."""
    bytes: Count | None = None
    """Size of the weights file."""
    manifest_uri: StoredURI | None = None
    """Manifest of the published version."""
    origin_digest: ShortText | None = None
    """Manifest digest of the weights that training began from (`spec.initFrom`)."""


class ScoreStatus(APIModel):
    """One metric on the held-out side."""

    name: Annotated[str, Field(max_length=63)]
    """Metric."""
    base: Number
    """Score of the base model, asked as `baseline` says."""
    baseline: BaselineName | None = None
    """How the base model came to it, the best of the ways that were tried: `AsIs`, the question
    alone; `Prompted`, behind an instruction with examples; `Likelihood`, the likeliest label.
    Absent where it was asked the question alone."""
    tuned: Number
    """Score of the tuned model."""
    published: Number | None = None
    """Score of `publishedVersion`."""


class GateStatus(APIModel):
    """Whether a gate of `evaluation.gates` holds."""

    name: Annotated[str, Field(max_length=40)]
    """Gate."""
    met: bool
    """Whether it holds; false also where it could not be measured."""
    applicable: bool | None = None
    """False where there is nothing to compare with: it counts as met."""
    severity: Literal["Block", "Warn"] = "Block"
    """Whether it keeps the adapter from being published."""
    message: GateMessage | None = None
    """Of a gate that is missed or does not apply: number, bound, what would be enough. Of all gates
    the report tells."""


class JudgeStatus(APIModel):
    """What to know of the judge beside its score."""

    rows: Count = 0
    """Held-out questions that its score rests on."""
    agreement: Number | None = None
    """Share of pairs with the same verdict in both orders."""
    first: Number | None = None
    """Share of verdicts for the answer that stood first; one half is fair."""
    message: GateMessage | None = None
    """Why its metric is not measured, or what to know of its verdicts first."""


class LookStatus(APIModel):
    """How often candidates were held against the same held-out side."""

    number: Count | None = None
    """Which evaluation against it this is, from 1; absent where nobody could count."""
    message: Sentence | None = None
    """The same in a sentence."""


class EvaluationStatus(APIModel):
    """How the tuned model compares with the base model."""

    scores: Annotated[
        list[ScoreStatus],
        Field(
            max_length=16,
            json_schema_extra=MAP_BY_NAME,
        ),
    ] = []
    """Scores by metric."""
    num_samples: Count | None = None
    """Held-out questions that the goal's metric scores; without a goal all that were asked."""
    goal_met: bool | None = None
    """Whether the goal was met; absent without a goal."""
    message: Text | None = None
    """The goal and the score in words."""
    gates: Annotated[
        list[GateStatus], Field(max_length=MAX_GATES + MAX_ALARMS, json_schema_extra=MAP_BY_NAME)
    ] = []
    """Whether each gate holds."""
    judge: JudgeStatus | None = None
    """What to know of the judge; absent where none was asked."""
    published_version: Count | None = None
    """The version that gates compare with."""
    newer_version: Count | None = None
    """One that was published meanwhile."""
    look: LookStatus | None = None
    """Which evaluation against its held-out side this is, over all jobs of the output."""
    report_uri: StoredURI | None = None
    """The full report."""
    digest: Annotated[str, Field(max_length=64)] | None = None
    """Digest of the evaluation's manifest: what a decision to publish names."""


class TrackingStatus(APIModel):
    """What became of telling the job's trackers."""

    uris: Annotated[
        list[StoredURI],
        Field(max_length=MAX_TRACKERS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """Page of the run in each tracker."""
    message: Sentence | None = None
    """Why a tracker lacks something of the last stage; absent if all have all."""
