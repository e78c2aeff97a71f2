"""The protocol between the starter of a stage (operator or CLI) and the trainer image.

Input: one file (``job.json``, a :class:`ResolvedJob`), environment variables and mounted
credentials. Output: files in object storage, JSON lines on stdout, an exit code and a termination
message (:mod:`finetune_api.protocol.termination`) with the stage's result
(:mod:`finetune_api.protocol.stage_results`, :mod:`finetune_api.protocol.evaluation_result`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.meta import API_VERSION, APIModel
from finetune_api.patterns import STORED
from finetune_api.protocol.publication import Publication, publication_of
from finetune_api.v1alpha1.approval import Subject
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_api.v1alpha1.rules.batches import world_size_of
from finetune_api.v1alpha1.status.traffic import TrafficPlace

PROGRESS_AUDIENCE = "finetune.dev"
"""Audience of the projected service-account token that authenticates progress pushes."""

OF_SWEEP_LABEL = "finetune.dev/sweep"
"""Name of the sweep, on a FineTuneJob that is a trial of it."""

OF_SCHEDULE_LABEL = "finetune.dev/schedule"
"""Name of the schedule, on a FineTuneJob that is a cycle of it."""


RAW_COPIES = "raw"
"""Folder of the work folder for rows as the user wrote them; it goes when ``prepare`` ends."""

JOB_DIGEST_ARGUMENT = "--job-digest"
"""Argument of a stage: the sha256 that ``job.json`` must have, in hex digits."""


class Environment:
    """Names of the environment variables a stage reads."""

    CREDENTIALS_DIR = "FINETUNE_CREDENTIALS_DIR"
    WORK_DIR = "FINETUNE_WORK_DIR"
    CACHE_DIR = "FINETUNE_CACHE_DIR"
    CACHE_IS_SHARED = "FINETUNE_CACHE_IS_SHARED"
    """`1`: later stages find what this stage puts into the cache, wherever they run."""
    NUM_GPUS = "FINETUNE_NUM_GPUS"
    """GPUs that the pod has asked the cluster for."""
    ALLOW_CPU = "FINETUNE_ALLOW_CPU"
    """`1`: a stage that sees none of its GPUs computes on the CPU, one process in place of each."""
    TRAINING_NODE = "FINETUNE_TRAINING_NODE"
    """What a node of training will have, for the estimate: JSON of `gpu` (its kind, in whatever
    words), `cpus` and `memoryBytes`. Default: what this machine has, and no GPU that is known."""
    ALLOWED_LICENCES = "FINETUNE_ALLOWED_LICENCES"
    """Licences that the base model may have: patterns, as a JSON list. Default: any."""
    SCRATCH_BYTES = "FINETUNE_SCRATCH_BYTES"
    """What the volume of the work folder may hold; a pod that writes more is evicted."""
    CHECKPOINT_BUFFER_BYTES = "FINETUNE_CHECKPOINT_BUFFER_BYTES"
    """What checkpoints may hold of the work folder while storage is away. Default: half of what is
    free there, or of `FINETUNE_SCRATCH_BYTES`."""
    STORAGE_PATIENCE_SECONDS = "FINETUNE_STORAGE_PATIENCE_SECONDS"
    """How long storage may stay away from a stage that waits for it. Default: 900."""
    IMAGE = "FINETUNE_IMAGE"
    """The container image that the pod was made with, for the record."""
    ENGINE_DIR = "FINETUNE_ENGINE_DIR"
    """Folder shared with the vLLM server beside the evaluation, which begins with the arguments it
    finds there."""
    ENGINE_PORT = "FINETUNE_ENGINE_PORT"
    """Its port on the loopback interface."""
    ENGINE_IMAGE = "FINETUNE_ENGINE_IMAGE"
    """Its container image, for the record."""
    RED_TEAM_DIR = "FINETUNE_RED_TEAM_DIR"
    """Folder shared with garak beside the evaluation, which begins with what it finds there."""
    RED_TEAM_IMAGE = "FINETUNE_RED_TEAM_IMAGE"
    """Its container image, for the record."""
    TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
    NODE_RANK = "JOB_COMPLETION_INDEX"
    RENDEZVOUS_HOST = "FINETUNE_RENDEZVOUS_HOST"
    RENDEZVOUS_PORT = "FINETUNE_RENDEZVOUS_PORT"
    NUM_NODES = "FINETUNE_NUM_NODES"
    GRACE_SECONDS = "FINETUNE_GRACE_SECONDS"
    """Seconds between SIGTERM and SIGKILL; without it a stop may take as long as it likes."""
    PROGRESS_URL = "KUBEFLOW_TRAINER_SERVER_URL"
    PROGRESS_TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 - a path, not a secret
    PROGRESS_CA_FILE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"


class Stage(StrEnum):
    """The stages of a job, in order.

    ``publish`` ends ``evaluate`` in the same pod; it is a stage of its own only after an approval.
    """

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


GPUKind = Literal[
    "h100",
    "h100-pcie",
    "h200",
    "b200",
    "a100-80",
    "a100-40",
    "l40s",
    "a10g",
    "l4",
    "rtx4090",
    "t4",
]
"""Kinds of GPU whose speed is known, for estimates."""

CPU_STAGES = frozenset({Stage.PREPARE, Stage.PUBLISH})
"""They need no GPU: no queue, no GPU nodes, the administrator's settings for small pods."""


class ExitCode(IntEnum):
    """Exit codes of a stage. 64-77 follow sysexits.h where it has a matching meaning."""

    OK = 0
    USER_ERROR = 64
    DATA_ERROR = 65
    INTERNAL = 70
    STORAGE = 73
    RETRYABLE = 75
    HANG = 76
    OUT_OF_MEMORY = 77
    STOPPED = 79


class FailureClass(StrEnum):
    """Why a stage or job failed, coarse enough to decide on a retry."""

    USER_ERROR = "UserError"
    DATA_ERROR = "DataError"
    INTERNAL = "Internal"
    STORAGE_ERROR = "StorageError"
    RETRYABLE = "Retryable"
    HANG = "Hang"
    OUT_OF_MEMORY = "OutOfMemory"
    STOPPED = "Stopped"
    IMAGE_ERROR = "ImageError"
    UNSCHEDULABLE = "Unschedulable"
    EVICTED = "Evicted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BUDGET_EXCEEDED = "BudgetExceeded"
    GOAL_NOT_MET = "GoalNotMet"
    GATES_NOT_MET = "GatesNotMet"


CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.USER_ERROR: FailureClass.USER_ERROR,
    ExitCode.DATA_ERROR: FailureClass.DATA_ERROR,
    ExitCode.INTERNAL: FailureClass.INTERNAL,
    ExitCode.STORAGE: FailureClass.STORAGE_ERROR,
    ExitCode.RETRYABLE: FailureClass.RETRYABLE,
    ExitCode.HANG: FailureClass.HANG,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.STOPPED: FailureClass.STOPPED,
}

NON_RETRYABLE_EXIT_CODES = (ExitCode.USER_ERROR, ExitCode.DATA_ERROR)
"""Running again cannot help: the job fails at once."""


class ResolvedJob(APIModel):
    """The effective job of a stage; the content of ``job.json``.

    Every attempt of every stage of a FineTuneJob reads the same bytes.
    """

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["ResolvedJob"] = "ResolvedJob"
    namespace: Annotated[str, Field(min_length=1, max_length=63)]
    name: Annotated[str, Field(min_length=1, max_length=52)]
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    sweep: Annotated[str, Field(max_length=63)] | None = None
    """The sweep that the job is a trial of, for its trackers; None where it has none."""
    schedule: Annotated[str, Field(max_length=63)] | None = None
    """The schedule that the job is a cycle of, whose sealed rows it holds out."""
    required_approvals: Annotated[list[Subject], Field(max_length=2)] | None = None
    """What the administrator's policy has a person decide on, whatever the spec says. With
    `Publication` the evaluation leaves the candidate unpublished. None: nothing."""
    traffic: Annotated[list[TrafficPlace], Field(max_length=16)] | None = None
    """Where the answers of sources `traffic://` lie; None without such sources."""
    spec: FineTuneJobSpec

    @classmethod
    def from_json(cls, text: str) -> ResolvedJob:
        """Parse ``job.json``, of a job that was accepted; raises pydantic's ValidationError."""
        return cls.model_validate_json(text, context=STORED)

    @property
    def run_prefix(self) -> str:
        """Prefix of this run under ``spec.output.uri``; unique per tenant and object."""
        return f"runs/{self.namespace}/{self.name}/{self.uid}"

    @property
    def publication(self) -> Publication:
        """When the candidate is published, if it passes."""
        return publication_of(self.spec, self.required_approvals or ())

    @property
    def published_name(self) -> str:
        """Name that versions are published under: the job's own, or ``output.publishAs``."""
        return self.spec.output.publish_as or self.name

    @property
    def versions_prefix(self) -> str:
        """Prefix of the published versions of that name."""
        return f"versions/{self.namespace}/{self.published_name}"

    @property
    def world_size(self) -> int:
        """Number of data-parallel ranks; a job without GPUs runs one process per node."""
        return world_size_of(self.spec)

    @property
    def content_digest(self) -> str:
        """Digest of what decides the result beside the data: equal for a job that is restored."""
        lived = {"uid": "", "sweep": None, "required_approvals": None, "traffic": None}
        spec = self.spec.model_copy(update={"tracking": None})
        body = self.model_copy(update={**lived, "spec": spec}).to_json()
        return hashlib.sha256(body.encode()).hexdigest()

    def to_json(self) -> str:
        """Serialise canonically: the same job always gives the same bytes."""
        return to_canonical_json(self.to_wire())


def to_canonical_json(body: dict[str, Any]) -> str:
    """Return an object as JSON text, of which equal objects have the same."""
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return json.dumps(body, sort_keys=True, indent=1) + "\n"
    return text


def resolve_job(
    job: FineTuneJob,
    *,
    namespace: str,
    uid: str,
    required_approvals: Sequence[Subject] = (),
    traffic: Sequence[TrafficPlace] = (),
) -> ResolvedJob:
    """Return the effective job for the user's object.

    Fields that only steer the life cycle (``suspend``, ``prune``, deadlines, queue, approval,
    requester) are reset to their defaults, so that they do not affect training.

    Args:
        job: The user's object.
        namespace: Its namespace.
        uid: UID of the run.
        required_approvals: Subjects that need an approval by the administrator's policy.
        traffic: Where the answers of sources `traffic://` lie.
    """
    spec = job.spec.model_copy(
        update={
            "dataset": job.spec.dataset.model_copy(update={"approval": "NotRequired"}),
            "suspend": False,
            "hold_after": None,
            "prune": False,
            "backoff_limit": FineTuneJobSpec.model_fields["backoff_limit"].default,
            "retry_policy": None,
            "active_deadline_seconds": None,
            "budget": None,
            "ttl_seconds_after_finished": None,
            "queue_name": None,
            "priority_class_name": None,
            "pod_template": None,
            "requested_by": None,
            # The ranks read it from variables of their pods.
            "resources": job.spec.resources.model_copy(update={"network": None}),
        }
    )
    sweep = job.metadata.labels.get(OF_SWEEP_LABEL) if spec.tracking else None
    fields = {
        "namespace": namespace,
        "name": job.metadata.name,
        "uid": uid,
        "sweep": sweep or None,
        "schedule": job.metadata.labels.get(OF_SCHEDULE_LABEL) or None,
        "required_approvals": list(required_approvals) or None,
        "traffic": list(traffic) or None,
    }
    # New rules apply only to new objects.
    return ResolvedJob.model_validate({**fields, "spec": spec}, context=STORED)


LOCAL_UID_PREFIX = "local-"
"""What the UID of a run without a cluster begins with; an API server's never does."""


def local_uid(job: FineTuneJob, *, namespace: str) -> str:
    """Return the stable UID of a local run: a digest of the job.

    So a second ``finetune run`` of the same file resumes or reuses the first one.
    """
    # Trackers do not affect training.
    untracked = job.model_copy(update={"spec": job.spec.model_copy(update={"tracking": None})})
    body = resolve_job(untracked, namespace=namespace, uid="local").to_json()
    return LOCAL_UID_PREFIX + hashlib.sha256(body.encode()).hexdigest()[:12]


class Event(APIModel):
    """One JSON line on a stage's stdout."""

    event: Literal["progress", "message", "result", "failure"]
    stage: Stage
    message: str = ""
    step: int | None = None
    total_steps: int | None = None
    unit: str = ""
    """What the steps count, in the plural, where they are no optimiser steps: rows, answers ..."""
    epoch: float | None = None
    percent: int | None = None
    eta_seconds: int | None = None
    metrics: dict[str, float] = {}
    """Latest values by name: loss, learning_rate, grad_norm, tokens_per_second, eval_loss ..."""
    result: dict[str, Any] | None = None
    reason: str = ""
    exit_code: int | None = None
