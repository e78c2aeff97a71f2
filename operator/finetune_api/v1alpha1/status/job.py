"""Status of a FineTuneJob: what the operator reports. Stays below 20 KB."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_NAME, MAP_BY_TYPE, APIModel
from finetune_api.v1alpha1.approval import Subject
from finetune_api.v1alpha1.status.attempts import Attempts, Failure, QueueStatus, StageStatus
from finetune_api.v1alpha1.status.cost import CostStatus, EstimateStatus
from finetune_api.v1alpha1.status.dataset import DataApprovalStatus, DatasetStatus
from finetune_api.v1alpha1.status.evaluation import (
    Artifact,
    EvaluationStatus,
    PublicationStatus,
    SelectionStatus,
    TrackingStatus,
)
from finetune_api.v1alpha1.status.fields import Condition, Count, Reason, Timestamp
from finetune_api.v1alpha1.status.plan import PlanStatus
from finetune_api.v1alpha1.status.progress import Metric, Progress, ValidationStatus
from finetune_api.v1alpha1.status.traffic import TrafficPlace

Phase = Literal[
    "Pending",
    "Preparing",
    "AwaitingApproval",
    "Queued",
    "Training",
    "AwaitingSelection",
    "Evaluating",
    "Publishing",
    "Suspended",
    "Succeeded",
    "Failed",
    "Pruned",
]


class TrainerImage(APIModel):
    """The image of all pods of the run, fixed at the first."""

    name: Annotated[str, Field(max_length=512)]
    """Reference that later pods ask for: by digest where the first pod's node told one."""
    image_id: Annotated[str, Field(max_length=512, alias="imageID")] = ""
    """What the first pod's node ran, in the words of its container runtime."""


class ApprovalPolicyStatus(APIModel):
    """What the administrator's policy asked about approvals when the job was accepted."""

    required: Annotated[list[Subject], Field(max_length=2, json_schema_extra=ATOMIC_LIST)] = []
    """What the job waits for a FineTuneApproval of, whatever its spec says (`requireApproval`)."""
    requester_may_approve: bool = True
    """Whether a FineTuneApproval by `spec.requestedBy` counts (`requesterMayApprove`). One that
    rejects always does."""
    reviewers_are_users: bool = False
    """Whether each reviewer approves the panel's result by a FineTuneApproval of their own
    (`reviewersAreUsers`)."""


class FineTuneJobStatus(APIModel):
    """What the operator reports."""

    observed_generation: Count | None = None
    """Generation of the spec this status was computed from."""
    phase: Phase | None = None
    """For columns only; the conditions are the contract."""
    reason: Reason | None = None
    """Why the job is in this phase, for columns only: the reason of the condition that decides it,
    or of the last failure once the job has failed."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra=MAP_BY_TYPE,
        ),
    ] = []
    """State by type."""
    start_time: Timestamp | None = None
    """When the first stage started."""
    completion_time: Timestamp | None = None
    """When the job reached its end."""
    trainer_image: TrainerImage | None = None
    """The trainer image that the run is bound to."""
    job_digest: Annotated[str, Field(max_length=64)] | None = None
    """sha256 of `job.json`, the effective job that all stages read. Each stage's Job names it, and
    a stage that finds another file ends. Absent of a run that an older operator began."""
    stages: Annotated[
        list[StageStatus],
        Field(
            max_length=4,
            json_schema_extra=MAP_BY_NAME,
        ),
    ] = []
    """The Jobs of the stages; `publish` has one only where something stood between the evaluation
    and its publication."""
    progress: Progress | None = None
    """How far the current stage is."""
    metrics: Annotated[
        list[Metric],
        Field(
            max_length=24,
            json_schema_extra=MAP_BY_NAME,
        ),
    ] = []
    """Latest training metrics."""
    validation: ValidationStatus | None = None
    """How the validation loss has come along; absent before the first measurement, and without
    validation rows."""
    dataset: DatasetStatus | None = None
    """The prepared data set."""
    approval_policy: ApprovalPolicyStatus | None = None
    """What the administrator's policy asked about approvals when the job was accepted. It stays so;
    absent where nothing was asked."""
    traffic: Annotated[list[TrafficPlace], Field(max_length=4, json_schema_extra=ATOMIC_LIST)] = []
    """Where the answers of its sources `traffic://` lie, as the endpoints said when the job was
    accepted. It stays so."""
    data_approval: DataApprovalStatus | None = None
    """Who approved or rejected the data set, where `dataset.approval` is `Required` or the policy
    asks for it. It stays as it was when training began, whatever becomes of the
    FineTuneApproval."""
    publication: PublicationStatus | None = None
    """Who decided on the candidate's publication, where somebody did: a candidate that missed its
    goal or a gate may be published all the same (`finetune publish --override`)."""
    plan: PlanStatus | None = None
    """What training runs, known once it has begun."""
    selection: SelectionStatus | None = None
    """The step that was chosen."""
    artifact: Artifact | None = None
    """The published adapter."""
    evaluation: EvaluationStatus | None = None
    """How the tuned model compares."""
    tracking: TrackingStatus | None = None
    """The run in the trackers of `spec.tracking`."""
    queue: QueueStatus | None = None
    """Where the present stage stands in Kueue's queues; absent without one."""
    attempts: Attempts | None = None
    """How often pods were started."""
    cost: CostStatus | None = None
    """GPU hours and their price, as far as stages are over."""
    estimate: EstimateStatus | None = None
    """What the job will take, beside what it has cost so far."""
    last_failure: Failure | None = None
    """The last failure."""
