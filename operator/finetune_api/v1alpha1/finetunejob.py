"""The FineTuneJob kind.

The models are the single source of the CRD (``crds/finetunejobs.yaml``), of its reference page and
of the messages of ``finetune validate``. Rules that the API server checks through CEL have the same
message here (:mod:`finetune_api.v1alpha1.rules.spec`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, model_validator

from finetune_api.meta import API_VERSION, NAME_PATTERN, APIModel, Integer
from finetune_api.patterns import LABEL_RULE, STORED, SUBDOMAIN_RULE, Texts
from finetune_api.rule import check_rules
from finetune_api.v1alpha1.approval import UserName
from finetune_api.v1alpha1.evaluation.spec import Evaluation, Goal
from finetune_api.v1alpha1.rules.spec import SPEC_RULES
from finetune_api.v1alpha1.spec.budget import Budget
from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_api.v1alpha1.spec.hyperparameters import Checkpoint, Hyperparameters
from finetune_api.v1alpha1.spec.method import Method
from finetune_api.v1alpha1.spec.model import Model, Origin
from finetune_api.v1alpha1.spec.output import S3, Output
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_api.v1alpha1.spec.resources import Resources, Trainer
from finetune_api.v1alpha1.spec.retry import RetryPolicy
from finetune_api.v1alpha1.spec.tracking import Tracking
from finetune_api.v1alpha1.status.job import FineTuneJobStatus

IMMUTABLE_FIELDS = (
    "goal",
    "model",
    "dataset",
    "method",
    "initFrom",
    "hyperparameters",
    "checkpoint",
    "evaluation",
    "output",
    "s3",
    "resources",
    "trainer",
    "tracking",
    "podTemplate",
    "requestedBy",
)
"""What is trained, where and how, and who asked for it: fixed once the job exists."""


class FineTuneJobSpec(APIModel):
    """What to train, on what, where the result goes and what it must reach."""

    goal: Goal | None = None
    """The KPI and its target. Without one the adapter is published whatever its score."""
    model: Model
    """The base model."""
    dataset: Dataset
    """The examples."""
    method: Method = Method()
    """How the model is tuned."""
    init_from: Origin | None = None
    """Trained weights to begin from. Default: none, the adapter begins fresh."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Training settings."""
    checkpoint: Checkpoint = Checkpoint()
    """Durable progress."""
    evaluation: Evaluation = Evaluation()
    """How base and tuned model are compared."""
    output: Output
    """Where results go."""
    s3: S3 = S3()
    """How S3 is reached."""
    resources: Resources = Resources()
    """What the training pods get."""
    trainer: Trainer = Trainer()
    """The image that runs the stages."""
    tracking: Tracking | None = None
    """Trackers of experiments that the job reports to. Default: none, nothing leaves."""
    pod_template: PodTemplate | None = None
    """Bounded changes to the pods of this job."""
    queue_name: Annotated[str, Field(max_length=63), Texts(LABEL_RULE)] | None = None
    """Kueue LocalQueue that training and evaluation wait in. Default: none, pods start at once,
    unless the namespace has a LocalQueue named `default`. May be changed while the job waits, and
    of a running job together with `suspend: true`."""
    priority_class_name: Annotated[str, Field(max_length=63), Texts(SUBDOMAIN_RULE)] | None = None
    """Kueue WorkloadPriorityClass of the queued stages. May be changed at any time, also while the
    job runs; a running job without one gets none."""
    suspend: StrictBool = False
    """Hold the job: running pods save and stop, nothing new starts. False resumes at the last
    checkpoint."""
    hold_after: Literal["Train"] | None = None
    """`Train`: once trained, the job waits for whoever chooses among several (phase
    `AwaitingSelection`), without pods, quota or running time. Removed, it goes on: evaluation,
    gates and publication are those of any job. It can be set at creation only, and removed at any
    time. Default: none, the job goes on by itself."""
    prune: StrictBool = False
    """End the job where it is: running pods save a checkpoint and stop, nothing new starts, and it
    is `Pruned`, which is no failure. Its files stay, and a new job can begin from them
    (`initFrom`). It may be set at any time and not taken back; a job that has ended, or whose
    adapter is being published, stays what it is.
    """
    backoff_limit: Annotated[Integer, Field(ge=0, le=100)] = 3
    """How often a stage is tried again after incidents of a class that `retryPolicy` does not name.
    Whatever the number of pods that an incident ends, it counts once; evictions, preemptions, and
    nodes that are lost or restarted never do. Mistakes in the job or in its data are never tried
    again. More than `backoffLimit` + 1 ends in a row that do not count, because a peer was lost or
    a node restarted, end the job if no new step is made; so do ten evictions by the kubelet, and a
    hundred preemptions. May be changed while the job runs."""
    retry_policy: RetryPolicy | None = None
    """Budgets of their own for classes of incidents. May be changed while the job runs. Default:
    none, all share `backoffLimit`."""
    active_deadline_seconds: Annotated[Integer, Field(ge=1, le=31536000)] | None = None
    """Longest running time over all stages and attempts, in seconds, without time in the queue,
    suspended, or in which no pod has a node."""
    budget: Budget | None = None
    """What the job may cost. May be changed while the job runs. Default: no limit."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=31536000)] | None = None
    """Delete the finished FineTuneJob after this many seconds. Files in object storage stay."""
    requested_by: UserName | None = None
    """Who asks for the job: the user name that the API server knows them by. The chart's admission
    policy refuses any other. Needed where the administrator has set `requesterMayApprove: false`:
    there the requester's own FineTuneApproval does not count. Default: none, nobody is named."""

    @property
    def writes_merged(self) -> bool:
        """Whether base and adapter are also written as one model; `Full` is one anyway."""
        return "Merged" in self.output.formats and self.method.adapter.type != "Full"

    @property
    def grace_seconds(self) -> int:
        """Time that its pods have between SIGTERM and SIGKILL, in seconds."""
        return (self.pod_template or PodTemplate()).termination_grace_period_seconds

    @property
    def evaluation_gpus(self) -> int:
        """GPUs of the evaluation's pod."""
        asked = self.evaluation.gpus
        return self.resources.gpus_per_node if asked == "auto" else asked

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> FineTuneJobSpec:
        check_rules(self, SPEC_RULES, context=info.context)
        return self


class ObjectMeta(APIModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes unread."""

    model_config = {**APIModel.model_config, "extra": "ignore"}

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """At most 52 characters: names of Jobs, pods and Services are derived from it."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""
    uid: str | None = None
    """Set by the API server."""
    generation: int | None = None
    """Set by the API server."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


class FineTuneJob(APIModel):
    """One fine-tuning run: from examples to an evaluated, verified adapter in object storage."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    status: FineTuneJobStatus | None = None

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> FineTuneJob:
        """Parse a Kubernetes object, wire names only; raises pydantic's ValidationError."""
        return cls.model_validate(body, by_alias=True, by_name=False)

    @classmethod
    def from_stored(cls, body: dict[str, Any]) -> FineTuneJob:
        """Parse an object of the API server: as ``from_wire``, but ignore unknown fields.

        An unknown field comes from a newer CRD, whose defaults are in every object. Rules that are
        ``only_new`` are left out, because the job may be older; acceptance checks them.
        """
        return cls.model_validate(
            body, by_alias=True, by_name=False, extra="ignore", context=STORED
        )
