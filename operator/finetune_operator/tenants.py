"""Settings that may differ by namespace: what pods run, and what tenants may ask for.

They hold for the whole cluster; a policy changes some of them for the namespaces it names.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api.meta import CpuQuantity, DecimalString, Duration, Quantity
from finetune_api.paths import is_below, normal_path
from finetune_api.patterns import INTERFACE_RULE
from finetune_api.protocol.trainer import GPUKind
from finetune_api.v1alpha1.approval import Subject
from finetune_api.v1alpha1.spec.podtemplate import Toleration
from finetune_operator.allowlists import check_bucket_pattern, check_pattern, check_url_pattern


def _read_seconds(value: Any) -> Any:
    # The scalars of a configuration file are text until their field says otherwise.
    if isinstance(value, dict) and str(value.get("tolerationSeconds", "")).isdigit():
        return {**value, "tolerationSeconds": int(value["tolerationSeconds"])}
    return value


RESERVED_MOUNTS = (
    *("/work", "/cache", "/var/lib/finetune/claims", "/tmp", "/dev", "/proc", "/sys", "/etc"),  # noqa: S108
    *("/var/run", "/run"),
)
"""What the operator mounts, and what belongs to the container runtime."""
IMAGE_FOLDERS = (
    *("/bin", "/boot", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/root", "/sbin", "/usr"),
    "/var",
)
"""Where the code of an image lies. No configuration opens these to mounts of a job."""


def _check_mount_root(root: str) -> str:
    path = normal_path(root)
    for taken in (*RESERVED_MOUNTS, *IMAGE_FOLDERS):
        if is_below(path, taken) or is_below(taken, path):
            raise ValueError(
                f"{root!r} cannot be opened to mounts of jobs: they could replace what lies in"
                f" {taken}; name a folder of its own, such as /data"
            )
    return path


def _check_interface(text: str) -> str:
    if text and not INTERFACE_RULE.accepts(text):
        raise ValueError(f"{text!r} {INTERFACE_RULE.message}")
    return text


Pattern = Annotated[str, AfterValidator(check_pattern)]
BucketPattern = Annotated[str, AfterValidator(check_bucket_pattern)]
URLPattern = Annotated[str, AfterValidator(check_url_pattern)]
NormalPath = Annotated[str, AfterValidator(normal_path)]
MountRoot = Annotated[str, AfterValidator(_check_mount_root)]

ALLOWED_ENVIRONMENT: tuple[str, ...] = (
    # a job's own
    "APP_*",
    # collectives: where and how they talk, and what they log; not which library or file they load
    *("NCCL_ALGO", "NCCL_ASYNC_ERROR_HANDLING", "NCCL_BUFFSIZE", "NCCL_CROSS_NIC"),
    *("NCCL_CUMEM_ENABLE", "NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_IB_*", "NCCL_MAX_*CHANNELS"),
    *("NCCL_MIN_*CHANNELS", "NCCL_NET_GDR_*", "NCCL_NTHREADS", "NCCL_NVLS_ENABLE", "NCCL_P2P_*"),
    *("NCCL_PROTO", "NCCL_SHM_DISABLE", "NCCL_SOCKET_*", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"),
    *("FI_EFA_*", "FI_PROVIDER", "RDMAV_FORK_SAFE", "UCX_NET_DEVICES", "UCX_TLS"),
    # torch and CUDA
    *("CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"),
    *("TORCH_CPP_LOG_LEVEL", "TORCH_DISTRIBUTED_DEBUG", "TORCH_SHOW_CPP_STACKTRACES"),
    *("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_BLOCKING_WAIT", "TORCH_NCCL_DUMP_ON_TIMEOUT"),
    *("TORCH_NCCL_AVOID_RECORD_STREAMS", "TORCH_NCCL_ENABLE_MONITORING"),
    *("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "TORCH_NCCL_TRACE_BUFFER_SIZE"),
    # processor and memory
    *("KMP_AFFINITY", "KMP_BLOCKTIME", "MALLOC_ARENA_MAX", "MKL_NUM_THREADS"),
    *("OMP_PLACES", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"),
    # words and waiting
    *("LANG", "LC_*", "TZ", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY"),
    *("AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS", "AWS_REGION", "AWS_RETRY_MODE"),
    *("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "PYTHONFAULTHANDLER", "PYTHONUNBUFFERED"),
)
"""Variables that tune a run. None names a file, a library or an address."""
ALLOWED_LABELS: tuple[str, ...] = (
    *("app.kubernetes.io/component", "app.kubernetes.io/part-of", "app.kubernetes.io/version"),
    *("cost-center", "cost-centre", "environment", "owner", "project"),
    *("sidecar.istio.io/inject=false", "team"),
)
"""Labels that say what a pod is and whose, and the one that keeps Istio's container out of it. No
identity is known to hang on one.

``app``, ``app.kubernetes.io/name`` and ``app.kubernetes.io/instance`` are left out: Services select
their pods by them.
"""
ALLOWED_ANNOTATIONS: tuple[str, ...] = (
    *("kueue.x-k8s.io/podset-preferred-topology", "kueue.x-k8s.io/podset-required-topology"),
    "kueue.x-k8s.io/podset-unconstrained-topology",
    # They keep containers out of the pod, or have them end with it.
    *("config.beta.linkerd.io/proxy-enable-native-sidecar=true", "linkerd.io/inject=disabled"),
    *("sidecar.istio.io/inject=false", "sidecar.istio.io/nativeSidecar=true"),
    *("vault.hashicorp.com/agent-inject=false", "vault.hashicorp.com/agent-pre-populate-only=true"),
)
"""Annotations that place pods, and that keep the containers of others out of them or have them end
with the pod."""


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
    `evaluation.engine: VLLM`, and in servers of endpoints with `serve.engine: VLLM`, for example
    `vllm/vllm-openai` by digest; it needs `sh` and `vllm` on its path. Empty: such jobs, and
    endpoints that name no image, are refused."""
    vllm_arguments: list[str] = []
    """Arguments of `vllm serve` beside those that the evaluation or the endpoint gives, for example
    `--gpu-memory-utilization=0.8`."""
    garak_image: str = ""
    """Image with garak (0.17.1) that runs beside evaluations whose job asks for
    `evaluation.redTeam`; it needs `sh` and `garak` on its path. Empty: such jobs are refused."""
    front_replicas: Annotated[int, Field(ge=1, le=100)] = 2
    """Pods of the front that the endpoints of a namespace share."""
    front_cpu: CpuQuantity = "1"
    """CPU request and limit of a front pod."""
    front_memory: Quantity = "512Mi"
    """Memory request and limit of a front pod."""
    front_access_log: bool = True
    """Whether the front logs a line for each request: key, path, status, times and tokens, and no
    text."""
    agent_cpu: CpuQuantity = "1"
    """CPU request and limit of the agent in a server pod, which fetches and verifies versions."""
    agent_memory: Quantity = "1Gi"
    """Memory request and limit of the agent in a server pod."""
    keda_prometheus_url: str = ""
    """Prometheus that scrapes server pods, for example `http://prometheus.monitoring.svc:9090`.
    Servers whose endpoints have `replicas.max` above `replicas.min` are then scaled by KEDA, by the
    requests in vLLM. Empty: a HorizontalPodAutoscaler scales them by CPU, and GPU servers take
    no `replicas.max` above `replicas.min`."""
    allow_cpu: bool = False
    """Let a pod that asked for GPUs and sees none go on with the CPU. For tests and demos only: it
    turns a broken driver into a job that is a hundred times slower instead of an error."""
    default_cpu: CpuQuantity = "4"
    """CPU request and limit of a training, evaluation or server pod that does not say."""
    default_cpu_per_gpu: CpuQuantity = "4"
    """CPU for each GPU of such a pod with several GPUs, where that is more than `defaultCpu`."""
    default_memory: Quantity = "16Gi"
    """Memory request and limit of a training, evaluation or server pod that does not say."""
    default_memory_per_gpu: Quantity = "16Gi"
    """Memory for each GPU of such a pod with several GPUs, where that is more than
    `defaultMemory`."""
    default_shared_memory: Quantity = "2Gi"
    """Size of `/dev/shm`. Counts towards the pod's memory limit as it fills."""
    default_network_interface: Annotated[str, AfterValidator(_check_interface)] = ""
    """Network interface of the collectives of jobs that name none, as in
    `spec.resources.network.interface`. Empty: NCCL and Gloo choose."""
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
    scratch_request: Quantity | None = "2Gi"
    """Disk that a pod requests of its node (`ephemeral-storage`), beside cpu and memory. A node
    that runs out of disk evicts the pods first that use more than they requested. Null: nothing.
    The default fits small models; a pod without `cacheClaim` keeps the base model there as well."""
    scratch_request_with_kueue: bool = False
    """Request it also where Kueue is used. Kueue admits no Workload that requests a resource which
    its ClusterQueue does not cover: first add `ephemeral-storage` to the `coveredResources` of all
    ClusterQueues, or to `resources.excludeResourcePrefixes` of Kueue's configuration."""
    cache_claim: str = ""
    """A ReadWriteMany claim of this name, in each job's namespace, that keeps base models between
    jobs; `prepare` fills it before any GPU is held. Empty: every pod downloads into its own scratch
    folder."""
    model_downloads: Literal["BeforeGPUs", "OneNode", "Anywhere"] = "OneNode"
    """Where jobs may download a base model without `cacheClaim`. `BeforeGPUs`: only in `prepare`,
    so jobs with GPUs are refused. `OneNode`: also in pods with GPUs, but no job with GPUs on
    several nodes, whose pods would wait for each other's downloads. `Anywhere`: all jobs. Holds for
    jobs accepted from then on."""
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
    allowed_file_paths: list[NormalPath] = []
    """Folders that `file://` URIs may lie in. A file path in a cluster means a path in the pod, so
    this only makes sense together with volumes or a node-local mount in the trainer image."""
    allowed_buckets: list[BucketPattern] = ["*"]
    """Buckets and folders that `s3://` URIs of jobs and endpoints may lie in, as patterns such as
    `s3://shared/*` and `s3://teams/{namespace}/*`. `{namespace}` stands for the namespace of the
    job. Where pods have the identity of their node, this alone keeps namespaces apart."""
    allow_trust_remote_code: bool = False
    """Accept jobs with `model.trustRemoteCode`, which run code from the model's repository with the
    job's credentials, and serve their versions, in a container without credentials."""
    allow_custom_metrics: bool = True
    """Accept jobs with `evaluation.customMetric`, which run a Python file of the tenant's beside
    the code of the trainer image. Where the images are limited for what jobs report, turn it
    off."""
    allowed_images: list[Pattern] = ["*"]
    """Images that jobs may name in `spec.trainer.image`, as patterns: `*` stands for any text
    without `/`, a last part `/*` for everything below, so `registry.corp/*` allows that registry.
    The image of this configuration is always allowed."""
    allowed_serving_images: list[Pattern] = []
    """Images that endpoints may name in `spec.serve.image`, as patterns like those of
    `allowedImages`. The images of this configuration are always allowed."""
    allowed_judge_endpoints: list[URLPattern] = []
    """Endpoints that jobs may name in `spec.evaluation.judge.endpoint`, which keys, prompts and
    answers are sent to, as patterns such as `https://judge.corp/*`. Scheme, host, port and path are
    compared apart. Empty: no job may ask a judge."""
    allowed_service_accounts: list[Pattern] = ["*"]
    """Service accounts that jobs may name in `spec.podTemplate.serviceAccountName`, as patterns.
    The one that pods get without is always allowed."""
    allowed_node_selectors: list[Pattern] = ["*"]
    """Node labels that jobs may name in `spec.podTemplate.nodeSelector`, as patterns of
    `label=value`, or of `label` for any value. Unless all are allowed, node affinity is refused: it
    would choose past them."""
    allowed_mount_roots: list[MountRoot] = ["/data", "/mnt"]
    """Folders of the container that `spec.podTemplate.volumeMounts` may be mounted at or below.
    Folders of the system, of the image's code and of the operator cannot be named."""
    allowed_environment: list[Pattern] = list(ALLOWED_ENVIRONMENT)
    """Variables that `spec.podTemplate.env` and `spec.resources.network` may set, as patterns of
    names. Default: what tunes a run, and `APP_*`. Variables that send credentials elsewhere or load
    code are refused anyway."""
    allowed_labels: list[Pattern] = list(ALLOWED_LABELS)
    """Labels that `spec.podTemplate.labels` may set, as patterns of `key` or `key=value`. Those of
    the operator, of Kueue and of the Job controller are refused anyway."""
    allowed_annotations: list[Pattern] = list(ALLOWED_ANNOTATIONS)
    """Annotations that `spec.podTemplate.annotations` may set, as patterns of `key` or `key=value`.
    Those that switch AppArmor and seccomp off are refused anyway."""
    allowed_tolerations: list[Pattern] = ["nvidia.com/gpu"]
    """Taints that `spec.podTemplate.tolerations` may tolerate, as patterns of `key` or `key=value`,
    each with `:effect` at its end where only that one may be tolerated. A toleration without key
    needs `*`. The default tolerations are always allowed."""
    allowed_priority_classes: list[Pattern] = []
    """Kubernetes PriorityClasses that `spec.podTemplate.priorityClassName` may name, as
    patterns."""
    allowed_runtime_classes: list[Pattern] = []
    """RuntimeClasses that `spec.podTemplate.runtimeClassName` may name, as patterns."""
    allowed_schedulers: list[Pattern] = ["default-scheduler"]
    """Schedulers that `spec.podTemplate.schedulerName` may name, as patterns."""
    allowed_extra_resources: list[Pattern] = []
    """Resources that `spec.podTemplate.extraResources` may name, as patterns, such as `rdma/*` or
    `hugepages-2Mi`."""
    allowed_resource_claim_templates: list[Pattern] = []
    """ResourceClaimTemplates that `spec.podTemplate.resourceClaims` may name, as patterns."""
    allowed_capabilities: list[Pattern] = []
    """Linux capabilities that `spec.podTemplate.capabilities` may name. The only one is
    `IPC_LOCK`; the Pod Security Standards `baseline` and `restricted` refuse pods with it."""
    allowed_licences: list[str] = ["*"]
    """Licences that base models may have, as patterns without regard to case: `apache-2.0`, `mit`,
    `llama3*`. Unless all are allowed, one that is not stated is refused, too. `model.licence` is
    looked at before anything is created, what the model itself states in `prepare`."""

    require_approval: list[Subject] = []
    """What every job waits for a FineTuneApproval of, whatever it says: `DataSet` before it is
    trained on, `Publication` once the candidate has passed. Holds for jobs accepted from then
    on."""
    requester_may_approve: bool = True
    """Whether a FineTuneApproval by the job's requester counts. Off: jobs and sweeps need
    `spec.requestedBy`, and only somebody else's approval counts; a rejection always does. Holds for
    jobs accepted from then on; it needs the chart's admission policy (`approvals.enforceIdentity`),
    for names are claims without it."""
    reviewers_are_users: bool = False
    """Whether each reviewer of `evaluation.review` approves the panel's result as a user of the API
    server: as many users as `reviewers` name the same result, each by a FineTuneApproval. Off: one
    of them hands in the files of all, and names in files are claims. Holds for jobs accepted from
    then on."""

    min_cycle_interval: Duration = "1h"
    """Least time between the begins of two cycles of a FineTuneSchedule, whatever its triggers say.
    What a person asks for by annotation does not wait for it."""
    max_schedules: Annotated[int, Field(ge=0, le=1000)] = 20
    """FineTuneSchedules of a namespace that may train. Newer ones wait until older ones are
    suspended or deleted."""
    max_schedule_jobs: Annotated[int, Field(ge=1, le=10000)] = 100
    """FineTuneJobs that the schedules of a namespace may have, ended ones included. At this number
    no cycle begins."""
    max_endpoints: Annotated[int, Field(ge=0, le=1000)] = 100
    """FineTuneEndpoints of a namespace that may serve. Newer ones wait until older ones are
    deleted. Those that serve already go on."""
    min_look_interval: Duration = "10m"
    """Least time between two looks at the traffic of an endpoint, whatever its
    `spec.monitor.every` says."""

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
