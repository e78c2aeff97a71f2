"""Status of a FineTuneJob: what the operator reports. Stays below 20 KB."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_NAME, MAP_BY_TYPE, APIModel
from finetune_api.v1alpha1.gates import MAX_GATES
from finetune_api.v1alpha1.probing import MAX_ALARMS
from finetune_api.v1alpha1.retry import IncidentClass
from finetune_api.v1alpha1.scoring import BaselineName
from finetune_api.v1alpha1.tracking import MAX_TRACKERS

Text = Annotated[str, Field(max_length=1024)]
ShortText = Annotated[str, Field(max_length=253)]
Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
Number = Annotated[str, Field(max_length=32)]

MAX_VALIDATION_POINTS = 24
"""Measurements of the validation loss that the status holds."""
MAX_GATE_MESSAGE = 160
"""Characters of what the status says of one gate."""

StageName = Literal["prepare", "train", "evaluate", "publish"]

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


class Condition(APIModel):
    """As in meta/v1."""

    type: Annotated[str, Field(max_length=63)]
    """Accepted, DatasetReady, DataApproved, QuotaReserved, Training, Evaluated, GoalMet, Published,
    Suspended, Stalled, Complete, Failed or Pruned."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=63)]
    """CamelCase cause, stable: scripts may compare it."""
    message: Text = ""
    """For people: what happened and what to do."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: int | None = None
    """Generation of the spec this was computed from."""


class Progress(APIModel):
    """How far the current stage is."""

    stage: StageName | None = None
    """The stage that `percent` and the times are about: the current one."""
    step: int | None = None
    """Optimiser steps done; stays while the job is evaluated."""
    total_steps: int | None = None
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
    step: int | None = None
    """Step it was measured at."""


class ValidationPoint(APIModel):
    """One measurement of the validation loss."""

    step: int
    """Optimiser steps done by then."""
    loss: Number
    """Mean loss over all validation rows, as a decimal string."""


class ValidationStatus(APIModel):
    """The validation loss so far: what jobs are compared by before any of them is evaluated."""

    best_step: int | None = None
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


class Rows(APIModel):
    """Rows per side of the split."""

    train: int = 0
    """Training rows."""
    validation: int = 0
    """Validation rows."""
    test: int = 0
    """Held-out rows."""


class PlanMemory(APIModel):
    """Estimated bytes of one rank at its peak, by what they are."""

    weights: int = 0
    """Base weights."""
    adapter: int = 0
    """Adapter weights."""
    gradients: int = 0
    """Gradients that are there at the peak."""
    optimizer: int = 0
    """AdamW's states."""
    gathered: int = 0
    """Weights that a sharding strategy holds whole for a moment."""
    activations: int = 0
    """Saved for the backward pass, and its largest temporaries."""
    logits: int = 0
    """The output head's tile and its gradients."""
    overhead: int = 0
    """Process, CUDA context, fragmentation."""
    total: int = 0
    """All of it."""
    available: int = 0
    """What one rank has."""


class PlanReason(APIModel):
    """Why one automatic setting is as it is."""

    name: Annotated[str, Field(max_length=63)]
    """Setting, for example `learningRate`."""
    reason: ShortText
    """The rule that chose it."""


class PlanStatus(APIModel):
    """What training runs: every setting that was `auto`, and the memory it needs."""

    rows: int = 0
    """Training rows."""
    tokens: int = 0
    """Their tokens, cut to `maxSequenceLength`."""
    parameters: int = 0
    """Weights of the base model."""
    trainable_parameters: int = 0
    """Weights that are trained."""
    learning_rate: Number = "0"
    """Peak learning rate."""
    global_batch_size: int = 0
    """Examples per optimiser step."""
    micro_batch_size: int = 0
    """Examples per rank and forward pass."""
    accumulation_steps: int = 0
    """Forward passes per optimiser step."""
    world_size: int = 0
    """Ranks."""
    total_steps: int = 0
    """Optimiser steps of the run."""
    strategy: Annotated[str, Field(max_length=16)] = ""
    """DDP, ZeRO2, ZeRO3 or FSDP2."""
    precision: Annotated[str, Field(max_length=16)] = ""
    """BFloat16 or Float32."""
    layout: Annotated[str, Field(max_length=16)] = ""
    """PaddingFree, Padded or Packed."""
    activation_checkpointing: bool = False
    """Whether activations are recomputed."""
    memory: PlanMemory | None = None
    """Estimated memory of one rank."""
    reasons: Annotated[
        list[PlanReason],
        Field(
            max_length=8,
            json_schema_extra=MAP_BY_NAME,
        ),
    ] = []
    """Why each automatic setting was chosen."""


class InvalidRowPlace(APIModel):
    """A row that cannot be used; never with its text."""

    file: Annotated[str, Field(max_length=80)]
    """File, as the source names it; a long name is cut at its beginning."""
    line: int
    """Line the row begins on, from 1; position of the row in files without lines."""
    reason: Annotated[str, Field(max_length=63)]
    """CamelCase cause."""


InvalidRowPlaces = Annotated[
    list[InvalidRowPlace], Field(max_length=20, json_schema_extra=ATOMIC_LIST)
]


class DatasetStatus(APIModel):
    """The prepared data set."""

    digest: ShortText | None = None
    """Content digest, the version of the data."""
    uri: Text | None = None
    """Folder of the prepared data set."""
    rows: Rows | None = None
    """Rows per side."""
    num_tokens: int | None = None
    """Tokens of the training side."""
    num_invalid_rows: int | None = None
    """Rows left out as invalid; all of them are in `invalid-rows.jsonl` of the data set."""
    invalid_rows: InvalidRowPlaces = []
    """The first of them, at most 20."""
    num_truncated_rows: int | None = None
    """Rows longer than `maxSequenceLength`."""


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
    run: int | None = None
    """Run of stage `publish` that acts on it, of a job that had ended."""


class SelectionStatus(APIModel):
    """The step whose weights are published, among the steps that were trained."""

    step: int | None = None
    """Its weights are the published ones."""
    validation_loss: Number | None = None
    """Validation loss after it."""
    last_step: int | None = None
    """The last step that was trained."""
    last_validation_loss: Number | None = None
    """Validation loss after the last step."""
    planned_steps: int | None = None
    """Steps that would have been trained without early stopping."""


class Artifact(APIModel):
    """The published adapter."""

    uri: Text | None = None
    """Folder of the adapter."""
    version: int | None = None
    """Published version of this job's name."""
    sha256: ShortText | None = None
    """Digest of the weights file."""
    bytes: int | None = None
    """Size of the weights file."""
    manifest_uri: Text | None = None
    """Manifest of the published version."""
    origin_digest: ShortText | None = None
    """Manifest digest of the weights that training began from (`spec.initFrom`)."""
    origin_step: int | None = None
    """Where nothing was trained (`initFrom.train: false`): the step of their run after which these
    weights, unchanged, were taken."""


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
    message: Annotated[str, Field(max_length=MAX_GATE_MESSAGE)] | None = None
    """Of a gate that is missed or does not apply: number, bound, what would be enough. Of all gates
    the report tells."""


class JudgeStatus(APIModel):
    """What to know of the judge beside its score."""

    rows: int = 0
    """Held-out questions that its score rests on."""
    agreement: Number | None = None
    """Share of pairs with the same verdict in both orders."""
    first: Number | None = None
    """Share of verdicts for the answer that stood first; one half is fair."""
    message: Annotated[str, Field(max_length=MAX_GATE_MESSAGE)] | None = None
    """Why its metric is not measured, or what to know of its verdicts first."""


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
    num_samples: int | None = None
    """Held-out rows scored."""
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
    published_version: int | None = None
    """The version that gates compare with."""
    newer_version: int | None = None
    """One that was published meanwhile."""
    report_uri: Text | None = None
    """The full report."""
    digest: Annotated[str, Field(max_length=64)] | None = None
    """Digest of the evaluation's manifest: what a decision to publish names."""


class TrackingStatus(APIModel):
    """What became of telling the job's trackers."""

    uris: Annotated[
        list[Annotated[str, Field(max_length=512)]],
        Field(max_length=MAX_TRACKERS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """Page of the run in each tracker; for TensorBoard the folder of its files."""
    message: Annotated[str, Field(max_length=300)] | None = None
    """Why a tracker lacks something of the last stage; absent if all have all."""


class IncidentStatus(APIModel):
    """The end of one attempt, with its root cause."""

    incident_class: Annotated[IncidentClass, Field(alias="class")]
    """What it is to the retry budget."""
    reason: Annotated[str, Field(max_length=63)] = ""
    """CamelCase cause."""
    stage: StageName
    """Stage it ended."""
    rank: int | None = None
    """Node rank of the pod that failed of itself."""
    node: ShortText | None = None
    """Node it ran on."""
    from_step: int | None = None
    """Step that the attempt had begun at, where training told it."""
    to_step: int | None = None
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
    position: Annotated[int, Field(ge=1)] | None = None
    """Place among all that wait for the same ClusterQueue; 1 is next. Of the first hundred of a
    LocalQueue, from 11 on rounded up to tens; looked at every half minute. Absent once quota is
    reserved, further behind, and where Kueue's visibility API is not open to the operator."""
    position_in_local_queue: Annotated[int, Field(ge=1)] | None = None
    """The same among those of its LocalQueue."""


class Attempts(APIModel):
    """How often stages were tried."""

    total: int = 0
    """Pods started over all stages, retries included."""
    counted: int = 0
    """Incidents that used up a retry."""
    preemptions: int = 0
    """Evictions and preemptions, by the cluster or by Kueue, which do not count."""
    history: Annotated[
        list[IncidentStatus], Field(max_length=10, json_schema_extra=ATOMIC_LIST)
    ] = []
    """The last incidents, oldest first."""


class Failure(APIModel):
    """The last failure, with enough to act on."""

    failure_class: Annotated[str, Field(max_length=63, alias="class")]
    """UserError, DataError, StorageError, OutOfMemory, ImageError, Unschedulable, Evicted ..."""
    reason: Annotated[str, Field(max_length=63)] = ""
    """CamelCase cause."""
    stage: StageName | None = None
    """Stage that failed."""
    exit_code: int | None = None
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
    count: int = 0
    """How many."""


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
    active_seconds: int | None = None
    """Running time over all attempts that have ended, in seconds."""
    incidents: Annotated[
        list[IncidentCount], Field(max_length=8, json_schema_extra=MAP_BY_NAME)
    ] = []
    """Retries used up, by class."""
    evictions: int | None = None
    """How often Kueue took the quota back and stopped the pods."""


class TrainerImage(APIModel):
    """The image of all pods of the run, fixed at the first."""

    name: Annotated[str, Field(max_length=512)]
    """Reference that later pods ask for: by digest where the first pod's node told one."""
    image_id: Annotated[str, Field(max_length=512, alias="imageID")] = ""
    """What the first pod's node ran, in the words of its container runtime."""


class CostStatus(APIModel):
    """What the stages that are over have cost; of a job at its end, all of them."""

    gpu_hours: Number = "0"
    """GPUs times running time, over all stages and attempts."""
    amount: Number | None = None
    """The same at the price that held then; absent without a price."""


class FineTuneJobStatus(APIModel):
    """What the operator reports."""

    observed_generation: int | None = None
    """Generation of the spec this status was computed from."""
    phase: Phase | None = None
    """For columns only; the conditions are the contract."""
    reason: Annotated[str, Field(max_length=63)] | None = None
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
    data_approval: DataApprovalStatus | None = None
    """Who approved or rejected the data set, where `dataset.approval` is `Required`. It stays as it
    was when training began, whatever becomes of the FineTuneApproval."""
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
    last_failure: Failure | None = None
    """The last failure."""
