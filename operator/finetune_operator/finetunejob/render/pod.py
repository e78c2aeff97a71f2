"""The pod template of a stage: restricted Pod Security, no token but the one for progress.

Everything a tenant may change comes from the bounded ``spec.podTemplate``; the security context
is not among it. Reserved names: see :mod:`finetune_operator.finetunejob.pods.admission`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from finetune_api.names import CONTAINER, Owner, config_map_name, labels_of, service_name
from finetune_api.protocol.trainer import (
    CPU_STAGES,
    JOB_DIGEST_ARGUMENT,
    PROGRESS_AUDIENCE,
    Environment,
    Stage,
)
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.beside import environment_of
from finetune_operator.finetunejob.render.claims import CLAIMS_DIR, claims_of
from finetune_operator.finetunejob.render.config import JOB_FILE
from finetune_operator.finetunejob.render.engine import (
    engine_environment,
    has_engine,
    render_engine,
    share_engine_folder,
)
from finetune_operator.finetunejob.render.red_team import (
    has_red_team,
    red_team_environment,
    render_red_team,
    share_red_team_folder,
)
from finetune_operator.finetunejob.render.security import container_security, pod_security
from finetune_operator.finetunejob.render.service import rendezvous_host

KUEUE_PREFIX = "kueue.x-k8s.io/"
JOB_DIR = "/etc/finetune/job"
WORK_DIR = "/work"
CACHE_DIR = "/cache"
SECRETS_DIR = "/var/run/secrets/finetune.dev"
CREDENTIALS_DIR = f"{SECRETS_DIR}/credentials"
TOKEN_FILE = f"{SECRETS_DIR}/token/token"
CA_FILE = f"{SECRETS_DIR}/ca/ca.crt"
TOKEN_SECONDS = 3600
OWN_VOLUMES = frozenset({"job", "work", "cache", "tmp", "shm", "token", "ca", "engine", "garak"})

GPU_LABELS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
)
"""Labels of nodes that name the kind of their GPUs."""

_OF_THE_STAGE = frozenset({"job", "tmp", "token", "ca", "engine", "garak"})
"""Volumes that a server beside the stage does not get, or not as the stage has them."""
_SUFFIXES = {"m": Decimal("0.001"), "": Decimal(1), "k": Decimal(1000)}


def whole_cpus(quantity: str) -> int:
    """Return a CPU quantity rounded up to whole CPUs, at least 1.

    Threads beyond the limit are throttled by the kernel, which costs far more than one idle core.
    """
    suffix = quantity[-1] if quantity[-1].isalpha() else ""
    number = Decimal(quantity[: -len(suffix)] if suffix else quantity)
    return max(1, math.ceil(number * _SUFFIXES.get(suffix, Decimal(1))))


def whole_bytes(quantity: str) -> int:
    """Return a size quantity in bytes, rounded down."""
    number = quantity.rstrip("kKMGTi")
    unit = quantity[len(number) :]
    base = 1024 if unit.endswith("i") else 1000
    return int(Decimal(number) * base ** " KMGT".index((unit[:1] or " ").upper()))


def credentials_of(spec: FineTuneJobSpec) -> dict[str, bool]:
    """Return the Secrets a job reads, sorted by name: whether its pods cannot do without.

    A tracker's alone may be missing: nothing waits for a tracker.
    """
    references = [
        spec.model.credentials_ref,
        spec.output.credentials_ref,
        spec.init_from.credentials_ref if spec.init_from else None,
        spec.evaluation.judge.credentials_ref if spec.evaluation.judge else None,
        *(source.credentials_ref for source in spec.dataset.sources),
        *(benchmark.credentials_ref for benchmark in spec.dataset.benchmarks),
    ]
    needed = {reference.name: True for reference in references if reference is not None}
    servers = spec.tracking.servers.values() if spec.tracking else ()
    others = {s.credentials_ref.name: False for s in servers if s.credentials_ref is not None}
    return dict(sorted({**others, **needed}.items()))


def render_pod_template(
    spec: FineTuneJobSpec,
    stage: Stage,
    owner: Owner,
    config: OperatorConfig,
    *,
    image: str | None = None,
    job_digest: str | None = None,
    data_digest: str | None = None,
    arguments: Sequence[str] = (),
    has_kueue: bool = False,
) -> dict[str, Any]:
    """Render the pod template of a stage; for the keywords see ``render_job``."""
    extra = spec.pod_template or PodTemplate()
    volumes, mounts = _volumes(spec, extra, owner.name, config)
    if has_engine(spec, stage, config):
        share_engine_folder(volumes, mounts, config)
    if has_red_team(spec, stage, config):
        share_red_team_folder(volumes, mounts, config)
    metadata: dict[str, Any] = {"labels": {**extra.labels, **labels_of(owner.name, stage)}}
    annotations = _annotations(extra, stage)
    if annotations:
        metadata["annotations"] = annotations
    image = image or spec.trainer.image or config.trainer_image
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": image,
        "args": [
            *(stage.value, "--job", f"{JOB_DIR}/{JOB_FILE}"),
            *_pin(JOB_DIGEST_ARGUMENT, job_digest),
            *_pin("--data-digest", data_digest),
            *arguments,
        ],
        "env": _environment(spec, extra, stage, owner, config, image=image),
        "resources": _resources(spec, stage, config, has_kueue=has_kueue),
        "volumeMounts": mounts,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": container_security(),
    }
    policy = _pull_policy(spec, config)
    if policy:
        container["imagePullPolicy"] = policy
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": extra.termination_grace_period_seconds,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": volumes,
    }
    pod.update(_engines(spec, stage, config, mounts))
    pod.update(_placement(extra, stage, config))
    if stage is Stage.TRAIN and spec.resources.nodes > 1:
        pod["subdomain"] = service_name(owner.name)
    secrets = [*config.image_pull_secrets, *(ref.name for ref in extra.image_pull_secrets)]
    if secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in dict.fromkeys(secrets)]
    return {"metadata": metadata, "spec": pod}


def _annotations(extra: PodTemplate, stage: Stage) -> dict[str, str]:
    # Kueue's topology requests are about GPU nodes, as node labels are.
    return {
        key: text
        for key, text in extra.annotations.items()
        if stage not in CPU_STAGES or not key.startswith(KUEUE_PREFIX)
    }


def _pin(argument: str, digest: str | None) -> list[str]:
    # An argument, not a variable: a trainer that does not know it must not train.
    return [] if digest is None else [argument, digest]


def _is_small(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> bool:
    """Whether a stage's own container holds no model: it needs none, or a server has it."""
    return stage in CPU_STAGES or has_engine(spec, stage, config)


def memory_of(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> str:
    """Return the memory limit of a stage's own container."""
    if _is_small(spec, stage, config):
        return config.prepare_memory
    return spec.resources.memory or config.default_memory


def _cpu_of(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> str:
    if _is_small(spec, stage, config):
        return config.prepare_cpu
    return spec.resources.cpu or config.default_cpu


def num_gpus_of(spec: FineTuneJobSpec, stage: Stage) -> int:
    """Return the GPUs of one pod of a stage."""
    match stage:
        case Stage.PREPARE | Stage.PUBLISH:
            return 0
        case Stage.TRAIN:
            return spec.resources.gpus_per_node
        case Stage.EVALUATE:
            return spec.evaluation_gpus


def _resources(
    spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig, *, has_kueue: bool
) -> dict[str, Any]:
    """Return the resources of a stage's own container, which requests the pod's disk.

    Its emptyDirs have limits of their own. Kueue admits nothing that requests a resource which its
    ClusterQueue does not cover; a LocalQueue `default` takes Jobs that name no queue, too.
    """
    limits = {"cpu": _cpu_of(spec, stage, config), "memory": memory_of(spec, stage, config)}
    gpus = 0 if has_engine(spec, stage, config) else num_gpus_of(spec, stage)
    resources = _limited(limits, spec, gpus)
    if config.scratch_request and (config.scratch_request_with_kueue or not has_kueue):
        resources["requests"]["ephemeral-storage"] = config.scratch_request
    return resources


def _limited(limits: dict[str, str], spec: FineTuneJobSpec, gpus: int) -> dict[str, Any]:
    if gpus:
        limits[spec.resources.gpu_resource] = str(gpus)
    return {"requests": dict(limits), "limits": limits}


def _engines(
    spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what stands beside the stage: the server, and garak where that attacks the models.

    The server gets what the stage would hold if it asked the models itself.
    """
    if not has_engine(spec, stage, config):
        return {}
    limits = {
        "cpu": spec.resources.cpu or config.default_cpu,
        "memory": spec.resources.memory or config.default_memory,
    }
    resources = _limited(limits, spec, num_gpus_of(spec, stage))
    own = [mount for mount in mounts if mount["name"] not in _OF_THE_STAGE]
    seen = [mount for mount in own if not mount["name"].startswith("credentials-")]
    beside = [render_engine(config, seen, resources=resources, security=container_security())]
    if has_red_team(spec, stage, config):
        beside.append(render_red_team(config, security=container_security()))
    return {"initContainers": beside}


def _pull_policy(spec: FineTuneJobSpec, config: OperatorConfig) -> str | None:
    if spec.trainer.image_pull_policy or spec.trainer.image:
        return spec.trainer.image_pull_policy
    return config.trainer_image_pull_policy


def _environment(
    spec: FineTuneJobSpec,
    extra: PodTemplate,
    stage: Stage,
    owner: Owner,
    config: OperatorConfig,
    *,
    image: str,
) -> list[dict[str, Any]]:
    values = {
        "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir
        "OMP_NUM_THREADS": str(whole_cpus(_cpu_of(spec, stage, config))),
        # Set order must not depend on the process: same job, same adapter.
        "PYTHONHASHSEED": "0",
        Environment.WORK_DIR: WORK_DIR,
        Environment.CACHE_DIR: CACHE_DIR,
        Environment.CREDENTIALS_DIR: CREDENTIALS_DIR,
        Environment.IMAGE: image,
        Environment.SCRATCH_BYTES: str(whole_bytes(config.scratch_size)),
        # A stage begins no save that would still be under way when it is killed.
        Environment.GRACE_SECONDS: str(extra.termination_grace_period_seconds),
    }
    gpus = num_gpus_of(spec, stage)
    if has_engine(spec, stage, config):
        values |= engine_environment(config)
        if has_red_team(spec, stage, config):
            values |= red_team_environment(config)
    elif gpus:
        values[Environment.NUM_GPUS] = str(gpus)
    if config.cache_claim:
        values[Environment.CACHE_IS_SHARED] = "1"
    if stage is Stage.PREPARE:
        values[Environment.TRAINING_NODE] = _training_node(spec, extra, config)
    if stage is Stage.PREPARE and "*" not in config.allowed_licences:
        values[Environment.ALLOWED_LICENCES] = json.dumps(config.allowed_licences)
    if config.allow_cpu:
        values[Environment.ALLOW_CPU] = "1"
    if config.progress_url:
        base = config.progress_url.rstrip("/")
        values[Environment.PROGRESS_URL] = (
            f"{base}/progress/{owner.namespace}/{owner.name}/{stage.value}"
        )
        values[Environment.PROGRESS_TOKEN_FILE] = TOKEN_FILE
        if config.progress_ca_config_map:
            values[Environment.PROGRESS_CA_FILE] = CA_FILE
    if stage is Stage.TRAIN and spec.resources.nodes > 1:
        values[Environment.NUM_NODES] = str(spec.resources.nodes)
        values[Environment.RENDEZVOUS_HOST] = rendezvous_host(owner)
        values[Environment.RENDEZVOUS_PORT] = str(config.rendezvous_port)
    # The contract wins over the administrator's variables, those over the tenant's.
    tenant = {variable.name: variable.value for variable in extra.env}
    return environment_of({**tenant, **config.trainer_environment, **values})


def _training_node(spec: FineTuneJobSpec, extra: PodTemplate, config: OperatorConfig) -> str:
    """Say what training will run on, for what it will take."""
    labels = {**config.default_node_selector, **extra.node_selector}
    named = (labels[label] for label in GPU_LABELS if label in labels)
    node = {
        "gpu": next(named, config.gpu_kind or ""),
        "cpus": whole_cpus(_cpu_of(spec, Stage.TRAIN, config)),
        "memoryBytes": whole_bytes(memory_of(spec, Stage.TRAIN, config)),
    }
    return json.dumps(node, sort_keys=True)


def _volumes(
    spec: FineTuneJobSpec, extra: PodTemplate, name: str, config: OperatorConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    scratch = {"sizeLimit": config.scratch_size}
    shared_memory = spec.resources.shared_memory or config.default_shared_memory
    cache: dict[str, Any] = {"emptyDir": dict(scratch)}
    if config.cache_claim:
        cache = {"persistentVolumeClaim": {"claimName": config.cache_claim}}
    volumes: list[dict[str, Any]] = [
        {"name": "job", "configMap": {"name": config_map_name(name)}},
        {"name": "work", "emptyDir": dict(scratch)},
        {"name": "cache", **cache},
        {"name": "tmp", "emptyDir": dict(scratch)},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "job", "mountPath": JOB_DIR, "readOnly": True},
        {"name": "work", "mountPath": WORK_DIR},
        {"name": "cache", "mountPath": CACHE_DIR},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]

    def add(volume: str, source: dict[str, Any], path: str, *, read_only: bool = True) -> None:
        volumes.append({"name": volume, **source})
        mount: dict[str, Any] = {"name": volume, "mountPath": path}
        if read_only:
            mount["readOnly"] = True
        mounts.append(mount)

    if config.progress_url:
        token = {
            "audience": PROGRESS_AUDIENCE,
            "expirationSeconds": TOKEN_SECONDS,
            "path": TOKEN_FILE.rsplit("/", 1)[1],
        }
        source: dict[str, Any] = {"projected": {"sources": [{"serviceAccountToken": token}]}}
        add("token", source, TOKEN_FILE.rsplit("/", 1)[0])
        if config.progress_ca_config_map:
            source = {"configMap": {"name": config.progress_ca_config_map}}
            add("ca", source, CA_FILE.rsplit("/", 1)[0])
    for index, (secret, is_needed) in enumerate(credentials_of(spec).items()):
        optional = {} if is_needed else {"optional": True}
        source = {"secret": {"secretName": secret, "defaultMode": 0o440, **optional}}
        add(f"credentials-{index}", source, f"{CREDENTIALS_DIR}/{secret}")
    for index, (claim, read_only) in enumerate(sorted(claims_of(spec).items())):
        source = {"persistentVolumeClaim": {"claimName": claim}}
        add(f"claim-{index}", source, f"{CLAIMS_DIR}/{claim}", read_only=read_only)
    volumes += [volume.to_wire() for volume in extra.volumes]
    mounts += [mount.to_wire() for mount in extra.volume_mounts]
    return volumes, mounts


def _placement(extra: PodTemplate, stage: Stage, config: OperatorConfig) -> dict[str, Any]:
    pod: dict[str, Any] = {}
    tolerations = list(extra.tolerations)
    if stage not in CPU_STAGES:
        tolerations += [each for each in config.default_tolerations if each not in tolerations]
    if tolerations:
        pod["tolerations"] = [toleration.to_wire() for toleration in tolerations]
    for key, value in (
        ("priorityClassName", extra.priority_class_name),
        ("serviceAccountName", extra.service_account_name or config.default_service_account),
        ("schedulerName", extra.scheduler_name),
    ):
        if value:
            pod[key] = value
    if stage in CPU_STAGES:
        # Node labels and runtime classes of GPU nodes would keep the CPU stage on GPU nodes.
        return pod
    if labels := {**config.default_node_selector, **extra.node_selector}:
        pod["nodeSelector"] = labels
    if extra.affinity:
        pod["affinity"] = extra.affinity.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
        )
    if extra.runtime_class_name:
        pod["runtimeClassName"] = extra.runtime_class_name
    return pod
