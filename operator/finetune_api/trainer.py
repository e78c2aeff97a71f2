"""The protocol between whoever starts a stage (operator or CLI) and the trainer image.

In go one file (``job.json``, a :class:`ResolvedJob`), environment variables and mounted
credentials. Out come files in object storage, JSON lines on stdout, an exit code and a
termination message. The operator cannot read object storage (it holds no credentials), so what it
must know of a finished stage travels in the termination message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum, StrEnum
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.meta import API_VERSION, APIModel
from finetune_api.v1alpha1.batches import world_size_of
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_api.v1alpha1.gates import MAX_GATES
from finetune_api.v1alpha1.judging import JudgeMode
from finetune_api.v1alpha1.probing import MAX_ALARMS
from finetune_api.v1alpha1.scoring import BaselineName
from finetune_api.v1alpha1.status import InvalidRowPlace

TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of a container's termination log, in bytes."""

INVALID_ROWS_BYTES = 1700
"""Of these, what places of invalid rows may take; the rest is for the message."""

NUM_INVALID_ROWS_TOLD = 20

MAX_GATE_MESSAGE = 480
"""Characters of what is said of one gate."""

MAX_SLICE_WORDS = 300
"""Characters of which rows it looks at."""

PROGRESS_AUDIENCE = "finetune.dev"
"""Audience of the projected service-account token that authenticates progress pushes."""


OF_SWEEP_LABEL = "finetune.dev/sweep"
"""Name of the sweep, on a FineTuneJob that is a trial of it."""


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

    ``publish`` is the end of ``evaluate``, in the same pod; it runs by itself only where something
    stood between the two.
    """

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


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
    """The effective job a stage works on; the content of ``job.json``.

    It is fixed for the life of the FineTuneJob: every attempt of every stage reads the same bytes.
    """

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["ResolvedJob"] = "ResolvedJob"
    namespace: Annotated[str, Field(min_length=1, max_length=63)]
    name: Annotated[str, Field(min_length=1, max_length=52)]
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    sweep: Annotated[str, Field(max_length=63)] | None = None
    """The sweep that the job is a trial of, for its tracker; None where it has none."""
    spec: FineTuneJobSpec

    @property
    def run_prefix(self) -> str:
        """Prefix of this run under ``spec.output.uri``; unique per tenant and object."""
        return f"runs/{self.namespace}/{self.name}/{self.uid}"

    @property
    def versions_prefix(self) -> str:
        """Prefix of the published versions of this job's name."""
        return f"versions/{self.namespace}/{self.name}"

    @property
    def world_size(self) -> int:
        """Number of data-parallel ranks; a job without GPUs runs one process per node."""
        return world_size_of(self.spec)

    def to_json(self) -> str:
        """Serialise canonically: the same job always gives the same bytes."""
        return json.dumps(self.to_wire(), sort_keys=True, indent=1) + "\n"


def resolve_job(job: FineTuneJob, *, namespace: str, uid: str) -> ResolvedJob:
    """Fix the effective job from the user's object.

    Fields that only steer the life cycle (``suspend``, ``prune``, deadlines, queue, approval) are
    reset to their defaults, so that changing them does not change what is trained.
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
        }
    )
    sweep = job.metadata.labels.get(OF_SWEEP_LABEL) if spec.tracking else None
    return ResolvedJob(
        namespace=namespace, name=job.metadata.name, uid=uid, sweep=sweep or None, spec=spec
    )


LOCAL_UID_PREFIX = "local-"
"""What the UID of a run without a cluster begins with; an API server's never does."""


def local_uid(job: FineTuneJob, *, namespace: str) -> str:
    """Return the stable UID of a local run: a digest of what the job asks for.

    A second ``finetune run`` of the same file therefore finds, resumes or reuses the first one.
    """
    # Who is told of a run does not change what is trained.
    untracked = job.model_copy(update={"spec": job.spec.model_copy(update={"tracking": None})})
    body = resolve_job(untracked, namespace=namespace, uid="local").to_json()
    return LOCAL_UID_PREFIX + hashlib.sha256(body.encode()).hexdigest()[:12]


def decimal_text(value: float) -> str:
    """Return a number as a status holds it: counts whole, others to six digits."""
    is_count = float(value).is_integer() and abs(value) < 1e15
    return str(int(value)) if is_count else f"{value:.6g}"


class MetricValue(APIModel):
    """One named number; the value is a decimal string."""

    name: Annotated[str, Field(max_length=63)]
    value: Annotated[str, Field(max_length=32)]


class RowCounts(APIModel):
    """Rows per side of the split."""

    train: int
    validation: int
    test: int


def limit_places(places: Iterable[InvalidRowPlace]) -> list[InvalidRowPlace]:
    """Return the first places that fit status and termination message."""
    kept: list[InvalidRowPlace] = []
    num_bytes = 0
    for place in islice(places, NUM_INVALID_ROWS_TOLD):
        num_bytes += len(json.dumps(place.to_wire(), separators=(",", ":"))) + 1
        if num_bytes > INVALID_ROWS_BYTES:
            break
        kept.append(place)
    return kept


class PrepareResult(APIModel):
    """What ``prepare`` found and wrote."""

    stage: Literal["prepare"] = "prepare"
    digest: str
    """Content digest of the prepared data set, its version."""
    uri: str
    """Folder of the prepared data set, with its manifest."""
    rows: RowCounts
    num_tokens: int
    """Tokens of the training side after the chat template, before truncation."""
    num_invalid_rows: int
    invalid_rows: list[InvalidRowPlace] = []
    """The first of them, as many as :func:`limit_places` lets through."""
    num_truncated_rows: int
    reused: bool = False
    """True when a data set with the same source and recipe was there already."""


class TrackingResult(APIModel):
    """What became of telling the job's tracker."""

    uri: Annotated[str, Field(max_length=512)] = ""
    """Page of the run; empty if there is none."""
    problem: Annotated[str, Field(max_length=300)] = ""
    """Why the tracker does not have everything; empty if it has."""


class StepSelection(APIModel):
    """The step whose weights are published, among the steps that were trained."""

    step: int
    """Its weights are the published ones."""
    validation_loss: Annotated[str, Field(max_length=32)] = ""
    """Validation loss after it; empty if it was not measured."""
    last_step: int
    """The last step that was trained."""
    last_validation_loss: Annotated[str, Field(max_length=32)] = ""
    """Validation loss after the last step; empty if it was not measured."""
    planned_steps: int
    """Steps that would have been trained without early stopping."""


class TrainResult(APIModel):
    """What ``train`` produced."""

    stage: Literal["train"] = "train"
    uri: str
    """Folder of the adapter, with its manifest."""
    sha256: str
    """Digest of ``adapter_model.safetensors`` (or ``model.safetensors`` for full fine-tuning)."""
    num_bytes: int
    manifest_sha256: str
    """Digest of the adapter's ``manifest.json``."""
    step: int
    """Optimiser steps trained."""
    selection: StepSelection | None = None
    metrics: list[MetricValue] = []
    """Last training metrics and the effective settings: loss, learning_rate, global_batch_size."""
    resumed_from_step: int = 0
    num_trainable_parameters: int = 0
    out_of_memory_at: int = 0
    """Largest micro batch that ran out of memory in an earlier attempt of the run; 0 for none."""
    origin_digest: str = ""
    """Manifest digest of the weights the run began from (``spec.initFrom``); empty for none."""
    tracking: TrackingResult | None = None
    reused: bool = False


class BaselineScore(APIModel):
    """Score of the base model, asked in one way."""

    asked: BaselineName
    value: Annotated[str, Field(max_length=32)]
    low: Annotated[str, Field(max_length=32)]
    """Lower end of its interval."""
    high: Annotated[str, Field(max_length=32)]


def _is_empty(text: str) -> bool:
    """Leave out of a message what says nothing: its room is small."""
    return not text


class Score(APIModel):
    """One metric on the held-out side, with its confidence interval."""

    name: Annotated[str, Field(max_length=63)]
    base: Annotated[str, Field(max_length=32)]
    """Score of the base model that the tuned one is compared with: the best of :attr:`baselines`.

    It is the best on the rows that both are scored on, so chance favours the base: a gain over it
    is rather too small than too large."""
    baseline: BaselineName | None = None
    """How the base was asked for it; None where it was asked as it is alone."""
    baselines: list[BaselineScore] | None = None
    """Scores of the base model in each way that it was asked; None where that was one."""
    base_low: Annotated[str, Field(max_length=32)] = ""
    """Lower end of the base score's interval. All have the certainty of the goal, or 0.95."""
    base_high: Annotated[str, Field(max_length=32)] = ""
    tuned: Annotated[str, Field(max_length=32)]
    tuned_low: Annotated[str, Field(max_length=32)] = ""
    """Lower end of the tuned score's interval."""
    tuned_high: Annotated[str, Field(max_length=32)] = ""
    delta_low: Annotated[str, Field(max_length=32)] = ""
    """Lower end of the interval of tuned minus base, compared row by row."""
    delta_high: Annotated[str, Field(max_length=32)] = ""
    trivial: Annotated[str, Field(max_length=32)] = ""
    """Score of answers that need no model; empty for metrics that compare none."""
    published: Annotated[str, Field(max_length=32, exclude_if=_is_empty)] = ""
    """Score of the published version; empty where none was asked, or where it cannot be compared.
    The same for the bounds below."""
    published_low: Annotated[str, Field(max_length=32, exclude_if=_is_empty)] = ""
    published_high: Annotated[str, Field(max_length=32, exclude_if=_is_empty)] = ""
    over_published_low: Annotated[str, Field(max_length=32, exclude_if=_is_empty)] = ""
    """Lower end of the interval of tuned minus published, compared row by row."""
    over_published_high: Annotated[str, Field(max_length=32, exclude_if=_is_empty)] = ""


class GateResult(APIModel):
    """Whether a gate of ``evaluation.gates`` holds."""

    name: Annotated[str, Field(max_length=40)]
    severity: Literal["Block", "Warn"] = "Block"
    met: bool
    """False also where it could not be measured."""
    applicable: bool = True
    """False where there is nothing to compare with, as no version is published yet: then it stands
    in nobody's way, and :attr:`met` is true."""
    message: Annotated[str, Field(max_length=MAX_GATE_MESSAGE)] = ""
    """Number, bound and what was asked, in a sentence; what would be enough where it is missed."""
    metric: Annotated[str, Field(max_length=63)] = ""
    slice: Annotated[str, Field(max_length=MAX_SLICE_WORDS)] = ""
    """The held-out rows that were looked at, in words; empty for all."""
    asked: Annotated[str, Field(max_length=63)] = ""
    value: Annotated[str, Field(max_length=32)] = ""
    """What was measured; empty if nothing could be."""
    bound: Annotated[str, Field(max_length=32)] = ""
    """The near end of its interval."""


class JudgeShare(APIModel):
    """A share with its interval."""

    value: Annotated[str, Field(max_length=32)]
    low: Annotated[str, Field(max_length=32)]
    high: Annotated[str, Field(max_length=32)]


class JudgeCriterion(APIModel):
    """Mean points by one criterion, from 1 to 5."""

    name: Annotated[str, Field(max_length=32)]
    base: Annotated[str, Field(max_length=32)]
    tuned: Annotated[str, Field(max_length=32)]


class JudgeResult(APIModel):
    """What is to be known of the judge beside its score, of ``evaluation.judge``."""

    model: str
    endpoint: str
    mode: JudgeMode
    baseline: BaselineName = "AsIs"
    """How the base was asked for the answers that were judged."""
    num_drawn: int
    """Held-out questions that were to be judged."""
    num_judged: int = 0
    """Those with a verdict: the score rests on them."""
    num_alike: int = 0
    """Of these, questions to which both models gave one answer: ties that nobody was asked for."""
    num_unread: int = 0
    """Questions without a verdict that could be read, or that the judge would not take."""
    num_calls: int = 0
    """Answers of the judge, over all attempts."""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    amount: Annotated[str, Field(max_length=32)] = ""
    """What they cost by the job's price; empty without one."""
    agreement: Annotated[str, Field(max_length=32)] = ""
    """Share of pairs with the same verdict in both orders; empty where none was asked."""
    first: JudgeShare | None = None
    """Share of verdicts for the answer that stood first; one half where the place counts for
    nothing."""
    longer: JudgeShare | None = None
    """Share of decided pairs that the longer answer won."""
    criteria: list[JudgeCriterion] = []
    failure: str = ""
    """Why its metric is not measured; empty where it is."""
    notes: list[str] = []
    """What to know of the verdicts, in sentences."""


class PublishedVersion(APIModel):
    """The version that was published when the evaluation began, where gates compare with it."""

    version: int | None = None
    """Its number; None where nothing was published yet."""
    uri: str = ""
    """Its folder."""
    digest: Annotated[str, Field(max_length=64)] = ""
    """Digest of its manifest."""
    problem: str = ""
    """Why it could not be asked, and what to do; empty if it was."""
    num_seen: int | None = None
    """Held-out prompts that were in the data it was trained on; None where nobody knows."""
    seen: str = ""
    """The same in a sentence; why nobody knows."""
    newer: int | None = None
    """A version that was published meanwhile, and that nothing here was compared with."""


class EvaluateResult(APIModel):
    """How the tuned model compares, and what was published."""

    stage: Literal["evaluate", "publish"] = "evaluate"
    """Which stage told it: ``publish`` reads what ``evaluate`` has stored."""
    scores: list[Score]
    trivial: Annotated[str, Field(max_length=63)] = ""
    """What :attr:`Score.trivial` answers, in words: the most frequent label, or the prompt."""
    num_samples: int
    goal_met: bool | None = None
    """None when the job has no goal."""
    goal_message: str = ""
    gates: Annotated[list[GateResult], Field(max_length=MAX_GATES + MAX_ALARMS)] = []
    """In the order of the spec; then what the probes show."""
    probes: list[Score] = []
    """What was measured beyond the held-out rows; not in a termination message that is too long."""
    probe_notes: dict[str, str] = {}
    """Of probes that were asked for and are not measured, why."""
    judge: JudgeResult | None = None
    """None where no judge was asked; not in a termination message that is too long."""
    published: PublishedVersion | None = None
    """The published version beside base and tuned model; None where no gate asks for it."""
    report_uri: str
    digest: Annotated[str, Field(max_length=64)] = ""
    """Digest of the evaluation's manifest: what a decision to publish names."""
    version: int | None = None
    """Published version, or None when nothing was published."""
    manifest_uri: str = ""
    tracking: TrackingResult | None = None
    reused: bool = False

    @property
    def missed_gates(self) -> list[GateResult]:
        """The gates that nothing is published without."""
        return [gate for gate in self.gates if gate.severity == "Block" and not gate.met]

    @property
    def is_missed(self) -> bool:
        """Whether goal or gates keep the candidate from being published."""
        return self.goal_met is False or bool(self.missed_gates)

    @property
    def missed_words(self) -> str:
        """What was missed, in words; empty if nothing was."""
        words = [self.goal_message] if self.goal_met is False else []
        words += [f"gate {gate.name} missed: {gate.message}" for gate in self.missed_gates]
        return "; ".join(words)


StageResult = Annotated[PrepareResult | TrainResult | EvaluateResult, Field(discriminator="stage")]


_OF_GATES = ("metric", "slice", "asked", "value", "bound")
"""Of a gate in a termination message: what the report has and a verdict does not need."""
_BOUNDS = (
    *("baselines", "baseLow", "baseHigh", "tunedLow", "tunedHigh", "deltaLow", "deltaHigh"),
    *("trivial", "publishedLow", "publishedHigh", "overPublishedLow", "overPublishedHigh"),
)
"""Of a score in a termination message: what gives way when there are too many scores."""


class TerminationMessage(APIModel):
    """JSON in ``/dev/termination-log``: the last words of a stage.

    At most :data:`TERMINATION_MESSAGE_BYTES`; ``message`` is cut to fit.
    """

    stage: Stage
    exit_code: int
    failure_class: FailureClass | None = None
    reason: Annotated[str, Field(max_length=63)] = ""
    """CamelCase cause, stable: ``Succeeded``, ``BucketNotFound``, ``InvalidRows`` ..."""
    message: str = ""
    step: int | None = None
    resumed_from_step: int | None = None
    """Step that a training which failed had begun at."""
    rank: int | None = None
    invalid_rows: list[InvalidRowPlace] = []
    """The first rows that the data was refused for, as :func:`limit_places` lets through."""
    result: StageResult | None = None

    def to_text(self) -> str:
        """Serialise within the size limit: the message gives way, then what only the report needs.

        Scores themselves stay, and so does whether goal and gates are met.
        """
        limit = TERMINATION_MESSAGE_BYTES
        wire = self.to_wire()
        text = _dump(wire)
        while len(text.encode()) > limit and wire["message"]:
            excess = len(text.encode()) - limit
            kept = max(0, len(wire["message"]) - excess - 4)
            wire["message"] = wire["message"][:kept] + ("..." if kept else "")
            text = _dump(wire)
        for give_way in _give_way(wire.get("result") or {}):
            if len(text.encode()) <= limit:
                break
            give_way()
            text = _dump(wire)
        return text


def _dump(wire: dict[str, Any]) -> str:
    return json.dumps(wire, separators=(",", ":"))


def _give_way(result: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Yield what makes a result shorter, the least missed first."""

    def drop(item: dict[str, Any], names: Iterable[str]) -> None:
        for name in names:
            item.pop(name, None)

    judge = result.get("judge") or {}
    yield partial(drop, judge, ("criteria", "notes"))
    for name in ("probeNotes", "probes", "tracking"):
        yield partial(drop, result, (name,))
    yield partial(drop, result.get("published", {}), ("problem", "seen", "uri"))
    gates = result.get("gates", [])
    for gate in gates:
        yield partial(drop, gate, _OF_GATES)
    for score in reversed(result.get("scores", [])):
        yield partial(drop, score, _BOUNDS)
    yield partial(drop, result, ("judge",))
    # What was missed must be said; of the rest the report tells.
    for gate in sorted(gates, key=lambda gate: not gate["met"]):
        yield partial(drop, gate, ("message",))


class Event(APIModel):
    """One JSON line on a stage's stdout."""

    event: Literal["progress", "message", "result", "failure"]
    stage: Stage
    message: str = ""
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    percent: int | None = None
    eta_seconds: int | None = None
    metrics: dict[str, float] = {}
    """Latest values by name: loss, learning_rate, grad_norm, tokens_per_second, eval_loss ..."""
    result: dict[str, Any] | None = None
    reason: str = ""
    exit_code: int | None = None
