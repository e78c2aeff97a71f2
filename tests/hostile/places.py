"""Clusters that are attacked: what the administrator configured, and what that is meant to allow.

Both are written down side by side. The oracle reads the second and never the first, so that no
mistake of the operator in reading its configuration is a mistake of the oracle too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from finetune_operator.config import OperatorConfig

Endpoint = tuple[str, str, int, str]
"""Scheme, host (``*.`` in front: any host below), port, and the beginning of the path."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a tenant may have, in the oracle's words.

    Attributes:
        mount_roots: Folders that volumes may be mounted at, or below.
        variables: Names of variables, as patterns.
        labels: Key and pattern of its values.
        annotations: Keys, as patterns.
        tolerations: Key, value (None: any) and effect (None: any).
        priority_classes: Names, as patterns; so are those that follow.
        runtime_classes: Of pods.
        schedulers: Of pods.
        service_accounts: Of pods.
        node_selectors: Label and pattern of its values; None where any node may be asked for.
        images: Registry and the beginning of the path; None where any may be named.
        endpoints: S3 servers.
        trackers: Trackers.
        judges: Judges.
        file_paths: Folders that ``file://`` may lie in.
        custom_metrics: Whether files of the tenant's may be run as metrics.
        extra_resources: Names, as patterns, of what training may request beside GPUs.
        claim_templates: Names, as patterns, of templates of device claims.
        capabilities: Linux capabilities of the training container.
    """

    mount_roots: tuple[str, ...] = ("/data", "/mnt")
    variables: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[str, ...] = ()
    tolerations: tuple[tuple[str, str | None, str | None], ...] = (("nvidia.com/gpu", None, None),)
    priority_classes: tuple[str, ...] = ()
    runtime_classes: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ("default-scheduler",)
    service_accounts: tuple[str, ...] = ("*",)
    node_selectors: tuple[tuple[str, str], ...] | None = None
    images: tuple[tuple[str, str], ...] | None = None
    endpoints: tuple[Endpoint, ...] = ()
    trackers: tuple[Endpoint, ...] = ()
    judges: tuple[Endpoint, ...] = ()
    file_paths: tuple[str, ...] = ()
    custom_metrics: bool = True
    extra_resources: tuple[str, ...] = ()
    claim_templates: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cluster.

    Attributes:
        name: For reports.
        settings: The chart's ``config``.
        policy: What they are meant to allow; None where the oracle is not asked.
    """

    name: str
    settings: Mapping[str, Any]
    policy: Policy | None

    def config(self) -> OperatorConfig:
        """Return the operator's settings."""
        known = {field.alias for field in OperatorConfig.model_fields.values()}
        return OperatorConfig.model_validate(
            {key: value for key, value in self.settings.items() if key in known}
        )


PROGRESS_URL = "http://finetune-operator-progress.finetune-system.svc:8090"
SIDECARS = {"vllm": "registry.corp/vllm-openai:1", "garak": "registry.corp/garak:1"}
TRAINER_IMAGE = "registry.corp/finetune-trainer:1"
_COMMON = {
    "trainerImage": TRAINER_IMAGE,
    "progressUrl": PROGRESS_URL,
    "vllmImage": SIDECARS["vllm"],
    "garakImage": SIDECARS["garak"],
}
_TUNED = (
    *("NCCL_*", "TORCH_NCCL_*", "GLOO_*", "UCX_TLS", "UCX_NET_DEVICES", "PYTORCH_*", "APP_*"),
    *("CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_*", "CUDA_MODULE_LOADING", "CUBLAS_WORKSPACE_CONFIG"),
    *("TOKENIZERS_PARALLELISM", "TZ", "LANG", "LC_*", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"),
    *("PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "TORCH_DISTRIBUTED_DEBUG", "TORCH_SHOW_CPP_*"),
    *("TORCH_CPP_LOG_LEVEL", "TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "MKL_NUM_THREADS"),
    *("OPENBLAS_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "FI_EFA_*", "FI_LOG_LEVEL", "OMP_*"),
    *("FI_PROVIDER", "TP_SOCKET_IFNAME", "RDMAV_FORK_SAFE", "KMP_AFFINITY"),
    *("MALLOC_ARENA_MAX", "ACCELERATE_LOG_LEVEL", "TRL_*", "KMP_BLOCKTIME"),
)
"""What people tune. It may be wider than the operator's own list; ``is_dangerous`` bounds it."""

_SAID = (
    *("team", "owner", "project", "environment", "cost-center", "cost-centre"),
    *(f"app.kubernetes.io/{part}" for part in ("version", "component")),
    "app.kubernetes.io/part-of",
)
"""What people say of a pod. No Service, webhook, controller or identity hangs on one of these."""

SHIPPED = Place(
    name="as shipped",
    settings=_COMMON,
    policy=Policy(
        variables=_TUNED,
        labels=(*((key, "*") for key in _SAID), ("sidecar.istio.io/inject", "false")),
        annotations=("kueue.x-k8s.io/podset-*-topology",),
    ),
)
"""Nothing configured but images."""

OPENED = Place(
    name="opened",
    settings={
        **_COMMON,
        "allowedFilePaths": ["/data/shared", "/mnt/models/"],
        "allowCustomMetrics": False,
        "allowedMountRoots": ["/data", "/mnt", "/metrics"],
        "allowedEnvironment": ["NCCL_DEBUG", "APP_*", "TEAM_*"],
        "allowedLabels": ["team", "example.org/*", "tier=batch-*"],
        "allowedAnnotations": ["example.org/*", "kueue.x-k8s.io/podset-required-topology"],
        "allowedTolerations": ["nvidia.com/gpu", "dedicated=training:NoSchedule", "spot"],
        "allowedPriorityClasses": ["batch-*"],
        "allowedRuntimeClasses": ["nvidia"],
        "allowedSchedulers": ["batch-scheduler"],
        "allowedExtraResources": ["rdma/*", "hugepages-2Mi"],
        "allowedResourceClaimTemplates": ["imex-*"],
        "allowedCapabilities": ["IPC_LOCK"],
        "allowedServiceAccounts": ["train-*"],
        "allowedNodeSelectors": ["pool=shared-*"],
        "allowedImages": ["registry.corp/finetune/*", "registry.corp:5000/team/**"],
        "allowedEndpoints": ["https://s3.corp.example", "http://10.0.0.5:9000"],
        "allowedTrackers": ["https://mlflow.corp.example/team"],
        "allowedJudgeEndpoints": ["https://*.judges.corp.example/**", "https://judge.corp/v1"],
    },
    policy=Policy(
        mount_roots=("/data", "/mnt", "/metrics"),
        variables=("NCCL_DEBUG", "APP_*", "TEAM_*"),
        labels=(("team", "*"), ("example.org/*", "*"), ("tier", "batch-*")),
        annotations=("example.org/*", "kueue.x-k8s.io/podset-required-topology"),
        tolerations=(
            ("nvidia.com/gpu", None, None),
            ("dedicated", "training", "NoSchedule"),
            ("spot", None, None),
        ),
        priority_classes=("batch-*",),
        runtime_classes=("nvidia",),
        schedulers=("default-scheduler", "batch-scheduler"),
        service_accounts=("train-*",),
        node_selectors=(("pool", "shared-*"),),
        images=(("registry.corp", "finetune/"), ("registry.corp:5000", "team/")),
        endpoints=(("https", "s3.corp.example", 443, ""), ("http", "10.0.0.5", 9000, "")),
        trackers=(("https", "mlflow.corp.example", 443, "/team"),),
        judges=(
            ("https", "*.judges.corp.example", 443, "/"),
            ("https", "judge.corp", 443, "/v1"),
        ),
        file_paths=("/data/shared", "/mnt/models"),
        custom_metrics=False,
        extra_resources=("rdma/*", "hugepages-2Mi"),
        claim_templates=("imex-*",),
        capabilities=("IPC_LOCK",),
    ),
)
"""Each setting opened by a little, but for metrics of a tenant's own, which are off."""

PLACES = (SHIPPED, OPENED)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name that has no parts matches one of some patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
