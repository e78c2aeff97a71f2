"""Settings that may differ by namespace: what pods run, and what tenants may ask for.

They hold for the whole cluster; a policy changes some of them for the namespaces it names.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api.meta import CpuQuantity, DecimalString, Quantity
from finetune_api.paths import normal_path
from finetune_api.trainer import GPUKind
from finetune_api.v1alpha1.podtemplate import Toleration


def _read_seconds(value: Any) -> Any:
    # The scalars of a configuration file are text until their field says otherwise.
    if isinstance(value, dict) and str(value.get("tolerationSeconds", "")).isdigit():
        return {**value, "tolerationSeconds": int(value["tolerationSeconds"])}
    return value


class TenantSettings(BaseModel):
    """What an administrator decides for tenants, with the defaults."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    # ---- what the pods run -------------------------------------------------------------------
    trainer_image: Annotated[str, Field(min_length=1)] = "finetune-trainer:latest"
    """Image of the stages unless a job names its own; best by digest."""
    trainer_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When that image is pulled."""
    pin_trainer_image: bool = True
    """Let all stages of a job run the image that its first pod ran, by digest where the node tells
    one. Off: where nodes of different architectures share a tag and the container runtime names the
    digest of one architecture."""
    image_pull_secrets: list[str] = []
    """Names of Secrets, present in the jobs' namespaces, that pull the trainer image."""
    vllm_image: str = ""
    """Image with vLLM (0.32 or newer) that runs beside evaluations whose job asks for
    `evaluation.engine: VLLM`, for example `vllm/vllm-openai` by digest; it needs `sh` and `vllm` on
    its path. Empty: such jobs are refused."""
    vllm_arguments: list[str] = []
    """Arguments of `vllm serve` beside those that the evaluation gives, for example
    `--gpu-memory-utilization=0.8`."""
    garak_image: str = ""
    """Image with garak (0.17.1) that runs beside evaluations whose job asks for
    `evaluation.redTeam`; it needs `sh` and `garak` on its path. Empty: such jobs are refused."""
    allow_cpu: bool = False
    """Let a pod that asked for GPUs and sees none go on with the CPU. For tests and demos only: it
    turns a broken driver into a job that is a hundred times slower instead of an error."""
    default_cpu: CpuQuantity = "4"
    """CPU request and limit of a training or evaluation pod whose job does not say."""
    default_memory: Quantity = "16Gi"
    """Memory request and limit of a training or evaluation pod whose job does not say."""
    default_shared_memory: Quantity = "2Gi"
    """Size of `/dev/shm`. Counts towards the pod's memory limit as it fills."""
    prepare_cpu: CpuQuantity = "1"
    """CPU request and limit of the `prepare` pod, which needs no GPU. More than one pay from some
    10,000 rows on: it runs a process for each."""
    prepare_memory: Quantity = "4Gi"
    """Memory request and limit of the `prepare` pod."""
    default_service_account: str = ""
    """Service account of pods whose job names none. Empty: the namespace's `default`."""
    default_node_selector: dict[str, str] = {}
    """Node labels that training and evaluation pods need unless the job gives the label another
    value."""
    default_tolerations: list[Annotated[Toleration, BeforeValidator(_read_seconds)]] = []
    """Taints that training and evaluation pods tolerate, beside those of the job."""
    scratch_size: Quantity = "100Gi"
    """Limit of each emptyDir (work, model cache, tmp); a pod that exceeds it is evicted."""
    cache_claim: str = ""
    """A ReadWriteMany claim of this name, in each job's namespace, that keeps base models between
    jobs; `prepare` fills it before any GPU is held. Empty: every pod downloads into its own scratch
    folder."""
    rendezvous_port: Annotated[int, Field(ge=1024, le=65535)] = 29500
    """Port at which rank 0 of a job of several nodes is met."""
    trainer_environment: dict[str, str] = {}
    """Environment variables of every trainer container, for example `HTTPS_PROXY`, `HF_ENDPOINT` or
    `AWS_ENDPOINT_URL_S3`."""

    # ---- what tenants may do -----------------------------------------------------------------
    allowed_endpoints: list[str] = []
    """S3 endpoints that jobs may name, exactly as in `spec.s3.endpoint` (a trailing slash does not
    matter); `*` allows all. Jobs without an endpoint use AWS or `AWS_ENDPOINT_URL_S3`."""
    allowed_trackers: list[str] = []
    """Trackers of experiments that jobs may name, exactly as in `spec.tracking.mlflow.uri` or
    `spec.tracking.wandb.uri` (a trailing slash does not matter); `*` allows all. Empty: jobs tell
    nobody."""
    allowed_file_paths: list[Annotated[str, AfterValidator(normal_path)]] = []
    """Folders that `file://` URIs may lie in. A file path in a cluster means a path in the pod, so
    this only makes sense together with volumes or a node-local mount in the trainer image."""
    allow_trust_remote_code: bool = False
    """Accept jobs with `model.trustRemoteCode`, which run code from the model's repository with the
    job's credentials."""
    allowed_images: list[str] = ["*"]
    """Images that jobs may name in `spec.trainer.image`, as patterns: `*` stands for any text, so
    `registry.corp/*` allows that registry. The image of this configuration is always allowed."""
    allowed_judge_endpoints: list[str] = []
    """Endpoints that jobs may name in `spec.evaluation.judge.endpoint`, which keys, prompts and
    answers are sent to, as patterns: end them with `/*`, as in `https://judge.corp/*`, or another
    host's name could go on from there. Empty: no job may ask a judge."""
    allowed_service_accounts: list[str] = ["*"]
    """Service accounts that jobs may name in `spec.podTemplate.serviceAccountName`, as patterns.
    The one that pods get without is always allowed."""
    allowed_node_selectors: list[str] = ["*"]
    """Node labels that jobs may name in `spec.podTemplate.nodeSelector`, as patterns of
    `label=value`. Unless all are allowed, node affinity is refused: it would choose past them."""
    allowed_licences: list[str] = ["*"]
    """Licences that base models may have, as patterns without regard to case: `apache-2.0`, `mit`,
    `llama3*`. Unless all are allowed, one that is not stated is refused, too. `model.licence` is
    looked at before anything is created, what the model itself states in `prepare`."""

    # ---- what it costs -----------------------------------------------------------------------
    gpu_hour_price: DecimalString | None = None
    """Price of one GPU for an hour, in whatever currency; jobs show what they cost and may set
    `budget.amount`. Unset: they show GPU hours."""
    gpu_kind: GPUKind | None = None
    """The GPUs that training runs on, for estimates of time and cost. A node label that names them
    (`nvidia.com/gpu.product` and the like, in `podTemplate.nodeSelector` or `defaultNodeSelector`)
    says more. Unset, and without a label: `h100` is assumed, and no job is refused for it."""


class NamespacePolicy(TenantSettings):
    """Settings for some namespaces. What it does not state stays as it is for the cluster."""

    namespaces: Annotated[list[str], Field(min_length=1)]
    """Names, as patterns: `*` stands for any text."""

    def covers(self, namespace: str) -> bool:
        """Return whether the policy is for a namespace."""
        return any(fnmatchcase(namespace, pattern) for pattern in self.namespaces)

    def changes(self) -> dict[str, Any]:
        """Return what the policy states, by Python name."""
        return {name: getattr(self, name) for name in self.model_fields_set if name != "namespaces"}
