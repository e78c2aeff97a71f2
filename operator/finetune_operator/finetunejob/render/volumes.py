"""The volumes of a stage's pod and where its own container has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.names import config_map_name
from finetune_api.protocol.trainer import PROGRESS_AUDIENCE
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_api.v1alpha1.status.traffic import TrafficPlace
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.claims import CLAIMS_DIR, claims_of

JOB_DIR = "/etc/finetune/job"
WORK_DIR = "/work"
CACHE_DIR = "/cache"
SECRETS_DIR = "/var/run/secrets/finetune.dev"
CREDENTIALS_DIR = f"{SECRETS_DIR}/credentials"
TOKEN_FILE = f"{SECRETS_DIR}/token/token"
CA_FILE = f"{SECRETS_DIR}/ca/ca.crt"
TOKEN_SECONDS = 3600
OWN_VOLUMES = frozenset({"job", "work", "cache", "tmp", "shm", "token", "ca", "engine", "garak"})

Manifests = list[dict[str, Any]]


def credentials_of(spec: FineTuneJobSpec, traffic: Sequence[TrafficPlace] = ()) -> dict[str, bool]:
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
    needed |= {each.credentials_secret: True for each in traffic if each.credentials_secret}
    servers = spec.tracking.servers.values() if spec.tracking else ()
    others = {s.credentials_ref.name: False for s in servers if s.credentials_ref is not None}
    return dict(sorted({**others, **needed}.items()))


def render_volumes(
    spec: FineTuneJobSpec,
    extra: PodTemplate,
    name: str,
    config: OperatorConfig,
    traffic: Sequence[TrafficPlace] = (),
) -> tuple[Manifests, Manifests]:
    """Return the pod's volumes and the container's mounts of them."""
    volumes, mounts = _folders(spec, name, config)

    def add(volume: str, source: dict[str, Any], path: str, *, read_only: bool = True) -> None:
        volumes.append({"name": volume, **source})
        mount: dict[str, Any] = {"name": volume, "mountPath": path}
        if read_only:
            mount["readOnly"] = True
        mounts.append(mount)

    if config.progress_url:
        add("token", _progress_token(), TOKEN_FILE.rsplit("/", 1)[0])
        if config.progress_ca_config_map:
            source: dict[str, Any] = {"configMap": {"name": config.progress_ca_config_map}}
            add("ca", source, CA_FILE.rsplit("/", 1)[0])
    for index, (secret, is_needed) in enumerate(credentials_of(spec, traffic).items()):
        optional = {} if is_needed else {"optional": True}
        source = {"secret": {"secretName": secret, "defaultMode": 0o440, **optional}}
        add(f"credentials-{index}", source, f"{CREDENTIALS_DIR}/{secret}")
    for index, (claim, read_only) in enumerate(sorted(claims_of(spec, traffic).items())):
        source = {"persistentVolumeClaim": {"claimName": claim}}
        add(f"claim-{index}", source, f"{CLAIMS_DIR}/{claim}", read_only=read_only)
    volumes += [volume.to_wire() for volume in extra.volumes]
    mounts += [mount.to_wire() for mount in extra.volume_mounts]
    return volumes, mounts


def _folders(
    spec: FineTuneJobSpec, name: str, config: OperatorConfig
) -> tuple[Manifests, Manifests]:
    """Return what every stage has: the job, folders to write to, and shared memory."""
    scratch = {"sizeLimit": config.scratch_size}
    shared_memory = spec.resources.shared_memory or config.default_shared_memory
    cache: dict[str, Any] = {"emptyDir": dict(scratch)}
    if config.cache_claim:
        cache = {"persistentVolumeClaim": {"claimName": config.cache_claim}}
    volumes: Manifests = [
        {"name": "job", "configMap": {"name": config_map_name(name)}},
        {"name": "work", "emptyDir": dict(scratch)},
        {"name": "cache", **cache},
        {"name": "tmp", "emptyDir": dict(scratch)},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]
    mounts: Manifests = [
        {"name": "job", "mountPath": JOB_DIR, "readOnly": True},
        {"name": "work", "mountPath": WORK_DIR},
        {"name": "cache", "mountPath": CACHE_DIR},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    return volumes, mounts


def _progress_token() -> dict[str, Any]:
    token = {
        "audience": PROGRESS_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
        "path": TOKEN_FILE.rsplit("/", 1)[1],
    }
    return {"projected": {"sources": [{"serviceAccountToken": token}]}}
