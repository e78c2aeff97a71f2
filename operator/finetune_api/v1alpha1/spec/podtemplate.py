"""Bounded changes to the pods of a job.

A free-form pod patch would let any user of the CRD run privileged containers with the operator's
rights. The operator adds the security context, which is fixed but for ``capabilities``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from finetune_api.meta import (
    ATOMIC_LIST,
    MAP_BY_NAME,
    SET_LIST,
    APIModel,
    Integer,
    LocalObjectReference,
    Quantity,
    UniqueNames,
)
from finetune_api.patterns import (
    EXTRA_RESOURCE_RULE,
    MOUNT_PATH_RULE,
    RESERVED_NAME_RULE,
    SUB_PATH_RULE,
    VARIABLE_RULE,
    Texts,
)
from finetune_api.rule import Rule, check_rules
from finetune_api.v1alpha1.spec.affinity import Affinity, LabelKey

ShortText = Annotated[str, Field(max_length=253)]
AnnotationText = Annotated[str, Field(max_length=1024)]


class Toleration(APIModel):
    """As in core/v1."""

    key: ShortText | None = None
    """Taint key; empty with operator `Exists` tolerates all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How `value` is compared."""
    value: ShortText | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; empty matches all."""
    toleration_seconds: Annotated[Integer, Field(ge=0, le=2147483647)] | None = None
    """How long a NoExecute taint is tolerated, in seconds."""


class PersistentVolumeClaimSource(APIModel):
    """As in core/v1."""

    claim_name: ShortText
    """Claim in the job's namespace."""
    read_only: StrictBool = False
    """Mount read-only."""


class EmptyDirSource(APIModel):
    """As in core/v1."""

    size_limit: Quantity | None = None
    """Largest size."""
    medium: Literal["", "Memory"] = ""
    """Disk, or memory."""


class Volume(APIModel):
    """A volume of one of the kinds that cannot leave the namespace."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name, unique in the pod."""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A claim in the job's namespace."""
    empty_dir: EmptyDirSource | None = None
    """Scratch space that lives as long as the pod."""
    config_map: LocalObjectReference | None = None
    """A ConfigMap in the job's namespace."""


class VolumeMount(APIModel):
    """As in core/v1."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the volume."""
    mount_path: Annotated[
        str, Field(min_length=1, max_length=512), Texts(MOUNT_PATH_RULE, only_new=True)
    ]
    """Path in the container, in its normal form."""
    read_only: StrictBool = False
    """Mount read-only."""
    sub_path: Annotated[ShortText, Texts(SUB_PATH_RULE, only_new=True)] | None = None
    """Path inside the volume."""


class EnvVar(APIModel):
    """A plain environment variable; secrets go through `credentialsRef`."""

    name: Annotated[str, Field(min_length=1, max_length=128), Texts(VARIABLE_RULE)]
    """Name."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value."""


class ExtraResource(APIModel):
    """A resource of the node that a training pod requests beside CPU, memory and GPUs."""

    name: Annotated[str, Field(min_length=1, max_length=128), Texts(EXTRA_RESOURCE_RULE)]
    """Extended resource, such as `rdma/hca_shared_devices_a`, or huge pages, such as
    `hugepages-2Mi`."""
    quantity: Annotated[str, Field(min_length=1, max_length=16)]
    """Number of devices, such as `1`; for huge pages their size, such as `2Gi`."""


class ResourceClaim(APIModel):
    """Devices of Dynamic Resource Allocation, as in core/v1."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name, unique in the pod."""
    resource_claim_template_name: Annotated[str, Field(min_length=1, max_length=253)]
    """ResourceClaimTemplate in the job's namespace; each training pod gets a claim of its own."""


_PAGES = "[1-9][0-9]*(Ki|Mi|Gi)"
_DEVICES = "[1-9][0-9]*"


def _is_quantity(resource: ExtraResource) -> bool:
    pattern = _PAGES if resource.name.startswith("hugepages-") else _DEVICES
    return re.fullmatch(pattern, resource.quantity) is not None


RESERVED_LABEL_PREFIXES = ("finetune.dev/", "kueue.x-k8s.io/")
"""Label keys that belong to the operator and to Kueue."""

# The pod has secrets of the namespace: no variable of a job may change where they are sent, which
# certificates the pod trusts, or what code it runs.
REDIRECTING_PREFIXES = (
    *("AWS_", "BOTO", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "MLFLOW_", "OPENSSL_", "SSL"),
    "WANDB_",
)
REDIRECTING_NAMES = (
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
)
LOADING_PREFIXES = ("LD_", "PYTHON")
LOADING_NAMES = (
    "BASH_ENV",
    "CC",
    "CUDA_INJECTION64_PATH",
    "CXX",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "NCCL_CONF_FILE",
    "PATH",
)
LOADING_SUFFIXES = ("_PLUGIN",)
HARMLESS_NAMES = (
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
    "AWS_REGION",
    "AWS_RETRY_MODE",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ETAG_TIMEOUT",
    "PYTHONFAULTHANDLER",
    "PYTHONHASHSEED",  # the operator says why it is fixed
    "PYTHONUNBUFFERED",
)
"""Variables that the prefixes above would catch and that steer nothing."""


def _is_redirecting(name: str) -> bool:
    upper = name.upper()  # proxies are read in lower case too
    return upper not in HARMLESS_NAMES and (
        upper.startswith(REDIRECTING_PREFIXES) or upper in REDIRECTING_NAMES
    )


def _is_loading(name: str) -> bool:
    return name not in HARMLESS_NAMES and (
        name.startswith(LOADING_PREFIXES)
        or name.endswith(LOADING_SUFFIXES)
        or name in LOADING_NAMES
    )


def _environment_rule(
    is_bad: Callable[[str], bool],
    *,
    name: str,
    prefixes: Sequence[str],
    suffixes: Sequence[str] = (),
    names: Sequence[str],
    message: str,
) -> Rule:
    """Return a rule that no variable may be bad.

    Args:
        is_bad: Says it of a name.
        name: CEL of the name as it is compared, over the variable ``e``.
        prefixes: How bad names begin.
        suffixes: How bad names end.
        names: Further bad names.
        message: What to do instead.
    """
    tests = [f"{name}.startsWith('{prefix}')" for prefix in prefixes]
    tests += [f"{name}.endsWith('{suffix}')" for suffix in suffixes]
    tests.append(f"{name} in {list(names)}")
    bad = f"!({name} in {list(HARMLESS_NAMES)}) && ({' || '.join(tests)})"
    return Rule(
        rule=f"!has(self.env) || !self.env.exists(e, {bad})",
        message=message,
        field="podTemplate.env",
        check=lambda t: not any(is_bad(variable.name) for variable in t.env),
    )


POD_TEMPLATE_RULES: tuple[Rule, ...] = (
    _environment_rule(
        _is_redirecting,
        name="e.name.upperAscii()",
        prefixes=REDIRECTING_PREFIXES,
        names=REDIRECTING_NAMES,
        message=(
            "podTemplate.env must not set AWS_*, HF_*, HUGGINGFACE_*, MLFLOW_*, WANDB_*, SSL*, "
            "*_PROXY or *_CA_BUNDLE variables, which decide where credentials are sent: use "
            "model.uri, s3, tracking and credentialsRef, or ask the operator's administrator to "
            "set config.trainerEnvironment"
        ),
    ),
    _environment_rule(
        _is_loading,
        name="e.name",
        prefixes=LOADING_PREFIXES,
        suffixes=LOADING_SUFFIXES,
        names=LOADING_NAMES,
        message=(
            "podTemplate.env must not set PATH, LD_*, PYTHON*, *_PLUGIN and the like, which decide "
            "what code runs: put it into an image of your own and name that in trainer.image"
        ),
    ),
    Rule(
        rule=(
            "!has(self.labels) || !self.labels.exists(k, k.startsWith('finetune.dev/') "
            "|| k.startsWith('kueue.x-k8s.io/'))"
        ),
        message=(
            "podTemplate.labels must not use finetune.dev/ or kueue.x-k8s.io/ keys: the "
            "operator sets them"
        ),
        field="podTemplate.labels",
        check=lambda t: not any(key.startswith(RESERVED_LABEL_PREFIXES) for key in t.labels),
    ),
    Rule(
        rule=(
            "!has(self.volumes) || self.volumes.all(v, (has(v.persistentVolumeClaim) ? 1 : 0)"
            " + (has(v.emptyDir) ? 1 : 0) + (has(v.configMap) ? 1 : 0) == 1)"
        ),
        message=(
            "podTemplate.volumes need exactly one of persistentVolumeClaim, emptyDir or "
            "configMap each"
        ),
        field="podTemplate.volumes",
        check=lambda t: all(
            [v.persistent_volume_claim, v.empty_dir, v.config_map].count(None) == 2
            for v in t.volumes
        ),
    ),
    Rule(
        rule=(
            "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && "
            "self.volumes.exists(v, v.name == m.name))"
        ),
        message="podTemplate.volumeMounts must name a volume of podTemplate.volumes",
        field="podTemplate.volumeMounts",
        check=lambda t: {m.name for m in t.volume_mounts} <= {v.name for v in t.volumes},
    ),
    Rule(
        rule=(
            "!has(self.extraResources) || self.extraResources.all(r, r.quantity.matches("
            f"r.name.startsWith('hugepages-') ? '^{_PAGES}$' : '^{_DEVICES}$'))"
        ),
        message=(
            "podTemplate.extraResources: quantity must be a whole number of devices, such as 1, "
            "and for huge pages a size, such as 2Gi"
        ),
        field="podTemplate.extraResources",
        check=lambda t: all(_is_quantity(resource) for resource in t.extra_resources),
    ),
)


class PodTemplate(APIModel):
    """Bounded changes to the pods of this job."""

    labels: Annotated[dict[LabelKey, ShortText], Field(max_length=32)] = {}
    """Labels added to the pods; `finetune.dev/` and `kueue.x-k8s.io/` keys are refused."""
    annotations: Annotated[dict[LabelKey, AnnotationText], Field(max_length=32)] = {}
    """Annotations added to the pods."""
    node_selector: Annotated[dict[LabelKey, ShortText], Field(max_length=32)] = {}
    """Node labels the training and evaluation pods need."""
    tolerations: Annotated[
        list[Toleration], Field(max_length=16, json_schema_extra=ATOMIC_LIST)
    ] = []
    """Taints the pods tolerate."""
    affinity: Affinity | None = None
    """Affinity as in core/v1, among the pods of the job's namespace."""
    volumes: Annotated[
        list[Volume],
        Field(
            max_length=16,
            json_schema_extra=MAP_BY_NAME,
        ),
        UniqueNames,
    ] = []
    """Volumes added to the pods."""
    volume_mounts: Annotated[
        list[VolumeMount],
        Field(max_length=16, json_schema_extra=ATOMIC_LIST),
    ] = []
    """Mounts of those volumes in the trainer container."""
    env: Annotated[
        list[EnvVar],
        Field(
            max_length=64,
            json_schema_extra=MAP_BY_NAME,
        ),
        UniqueNames,
    ] = []
    """Environment variables added to the trainer container. Those that decide where credentials are
    sent or what code runs are refused; the operator's administrator can set them for all jobs."""
    extra_resources: Annotated[
        list[ExtraResource], Field(max_length=8, json_schema_extra=MAP_BY_NAME), UniqueNames
    ] = []
    """Resources that training pods request beside CPU, memory and GPUs: RDMA devices, huge pages.
    Refused unless the administrator allows them."""
    resource_claims: Annotated[
        list[ResourceClaim], Field(max_length=8, json_schema_extra=MAP_BY_NAME), UniqueNames
    ] = []
    """Devices that training pods get by Dynamic Resource Allocation (Kubernetes 1.34 or newer).
    Refused unless the administrator allows them."""
    capabilities: Annotated[
        list[Literal["IPC_LOCK"]], Field(max_length=1, json_schema_extra=SET_LIST)
    ] = []
    """Linux capabilities of the training container. `IPC_LOCK` lets RDMA lock memory where the node
    limits that. Refused unless the administrator allows it."""
    image_pull_secrets: Annotated[
        list[LocalObjectReference],
        Field(
            max_length=8,
            json_schema_extra=MAP_BY_NAME,
        ),
        UniqueNames,
    ] = []
    """Secrets that pull the image."""
    priority_class_name: ShortText | None = None
    """Kubernetes PriorityClass of the pods."""
    service_account_name: Annotated[ShortText, Texts(RESERVED_NAME_RULE, only_new=True)] | None = (
        None
    )
    """Service account of the pods, for workload identity. Default: the namespace's `default`."""
    runtime_class_name: ShortText | None = None
    """RuntimeClass of the pods."""
    scheduler_name: ShortText | None = None
    """Scheduler of the pods."""
    termination_grace_period_seconds: Annotated[Integer, Field(ge=1, le=3600)] = 120
    """Time between SIGTERM and SIGKILL, in seconds; must exceed the time of one checkpoint."""

    @model_validator(mode="after")
    def _check_rules(self) -> PodTemplate:
        check_rules(self, POD_TEMPLATE_RULES)
        return self
