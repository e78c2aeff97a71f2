"""The pod template of a stage: restricted Pod Security, no token but the one for progress.

Everything a tenant may change comes from the bounded ``spec.podTemplate``. Of the security context
that is only a capability that the administrator allows. Reserved names: see
:mod:`finetune_operator.finetunejob.pods.admission`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.names import CONTAINER, Owner, labels_of, service_name
from finetune_api.protocol.trainer import CPU_STAGES, JOB_DIGEST_ARGUMENT, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_api.v1alpha1.status.traffic import TrafficPlace
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.config import JOB_FILE
from finetune_operator.finetunejob.render.engine import (
    has_engine,
    render_engine,
    share_engine_folder,
)
from finetune_operator.finetunejob.render.environment import render_environment
from finetune_operator.finetunejob.render.red_team import (
    has_red_team,
    render_red_team,
    share_red_team_folder,
)
from finetune_operator.finetunejob.render.resources import (
    render_engine_resources,
    render_resources,
)
from finetune_operator.finetunejob.render.security import (
    container_security,
    pod_security,
    without_cloud_identity,
)
from finetune_operator.finetunejob.render.volumes import JOB_DIR, render_volumes

KUEUE_PREFIX = "kueue.x-k8s.io/"

_OF_THE_STAGE = frozenset({"job", "tmp", "token", "ca", "engine", "garak"})
"""Volumes that a server beside the stage does not get, or not as the stage has them."""


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
    traffic: Sequence[TrafficPlace] = (),
) -> dict[str, Any]:
    """Render the pod template of a stage; for the keywords see ``render_job``."""
    extra = spec.pod_template or PodTemplate()
    volumes, mounts = render_volumes(spec, extra, owner.name, config, traffic)
    if has_engine(spec, stage, config):
        share_engine_folder(volumes, mounts, config)
    if has_red_team(spec, stage, config):
        share_red_team_folder(volumes, mounts, config)
    beside = _engines(spec, stage, config, mounts)
    unnamed = without_cloud_identity(*(each["name"] for each in beside))
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
        "env": render_environment(spec, extra, stage, owner, config, image=image),
        "resources": render_resources(spec, stage, config, has_kueue=has_kueue),
        "volumeMounts": mounts,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": container_security(extra.capabilities if stage is Stage.TRAIN else ()),
    }
    if policy := _pull_policy(spec, config):
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
    if beside:
        pod["initContainers"] = beside
    pod.update(_placement(extra, stage, config))
    if stage is Stage.TRAIN and spec.resources.nodes > 1:
        pod["subdomain"] = service_name(owner.name)
    secrets = [*config.image_pull_secrets, *(ref.name for ref in extra.image_pull_secrets)]
    if secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in dict.fromkeys(secrets)]
    return {"metadata": _metadata(extra, stage, owner, unnamed), "spec": pod}


def _metadata(
    extra: PodTemplate, stage: Stage, owner: Owner, own: dict[str, str]
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"labels": {**extra.labels, **labels_of(owner.name, stage)}}
    annotations = {
        key: text
        for key, text in extra.annotations.items()
        # Kueue's topology requests are about GPU nodes, as node labels are.
        if stage not in CPU_STAGES or not key.startswith(KUEUE_PREFIX)
    }
    if annotations or own:
        metadata["annotations"] = {**annotations, **own}
    return metadata


def _pin(argument: str, digest: str | None) -> list[str]:
    # An argument, not a variable: a trainer that does not know it must not train.
    return [] if digest is None else [argument, digest]


def _engines(
    spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig, mounts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what stands beside the stage: the server, and garak where that attacks the models."""
    if not has_engine(spec, stage, config):
        return []
    resources = render_engine_resources(spec, stage, config)
    own = [mount for mount in mounts if mount["name"] not in _OF_THE_STAGE]
    seen = [mount for mount in own if not mount["name"].startswith("credentials-")]
    beside = [render_engine(config, seen, resources=resources, security=container_security())]
    if has_red_team(spec, stage, config):
        beside.append(render_red_team(config, security=container_security()))
    return beside


def _pull_policy(spec: FineTuneJobSpec, config: OperatorConfig) -> str | None:
    if spec.trainer.image_pull_policy or spec.trainer.image:
        return spec.trainer.image_pull_policy
    return config.trainer_image_pull_policy


def _placement(extra: PodTemplate, stage: Stage, config: OperatorConfig) -> dict[str, Any]:
    tolerations = list(extra.tolerations)
    if stage not in CPU_STAGES:
        tolerations += [each for each in config.default_tolerations if each not in tolerations]
    pod: dict[str, Any] = {
        "tolerations": [toleration.to_wire() for toleration in tolerations],
        "priorityClassName": extra.priority_class_name,
        "serviceAccountName": extra.service_account_name or config.default_service_account,
        "schedulerName": extra.scheduler_name,
    }
    # Node labels and runtime classes of GPU nodes would keep the CPU stage on GPU nodes.
    if stage not in CPU_STAGES:
        pod["nodeSelector"] = {**config.default_node_selector, **extra.node_selector}
        pod["affinity"] = extra.affinity and extra.affinity.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
        )
        pod["runtimeClassName"] = extra.runtime_class_name
    if stage is Stage.TRAIN:
        pod["resourceClaims"] = [claim.to_wire() for claim in extra.resource_claims]
    return {name: value for name, value in pod.items() if value}
