"""The environment of a stage's own container."""

from __future__ import annotations

import json
from typing import Any

from finetune_api.meta import whole_bytes
from finetune_api.names import Owner
from finetune_api.protocol.trainer import Environment, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_api.v1alpha1.spec.resources import INTERFACE_VARIABLE, interface_value
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.beside import environment_of
from finetune_operator.finetunejob.render.engine import engine_environment, has_engine
from finetune_operator.finetunejob.render.red_team import has_red_team, red_team_environment
from finetune_operator.finetunejob.render.resources import (
    cpu_of,
    memory_of,
    num_gpus_of,
    whole_cpus,
)
from finetune_operator.finetunejob.render.service import rendezvous_host
from finetune_operator.finetunejob.render.volumes import (
    CA_FILE,
    CACHE_DIR,
    CREDENTIALS_DIR,
    TOKEN_FILE,
    WORK_DIR,
)

GPU_LABELS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
)
"""Labels of nodes that name the kind of their GPUs."""


def render_environment(
    spec: FineTuneJobSpec,
    extra: PodTemplate,
    stage: Stage,
    owner: Owner,
    config: OperatorConfig,
    *,
    image: str,
) -> list[dict[str, Any]]:
    """Return the variables of the contract, the administrator and the tenant."""
    values = {
        "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir
        "OMP_NUM_THREADS": str(whole_cpus(cpu_of(spec, stage, config))),
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
    values |= _progress(owner, stage, config)
    if stage is Stage.TRAIN and spec.resources.nodes > 1:
        values[Environment.NUM_NODES] = str(spec.resources.nodes)
        values[Environment.RENDEZVOUS_HOST] = rendezvous_host(owner)
        values[Environment.RENDEZVOUS_PORT] = str(config.rendezvous_port)
    # The contract wins over the administrator's variables, those over the tenant's.
    tenant = {variable.name: variable.value for variable in extra.env}
    network = _network(spec, config) if stage is Stage.TRAIN else {}
    return environment_of({**network, **tenant, **config.trainer_environment, **values})


def _network(spec: FineTuneJobSpec, config: OperatorConfig) -> dict[str, str]:
    """Return the variables by which the ranks reach each other, where the template has none."""
    own = spec.resources.network.environment if spec.resources.network else {}
    interface = config.default_network_interface
    return {INTERFACE_VARIABLE: interface_value(interface), **own} if interface else own


def _progress(owner: Owner, stage: Stage, config: OperatorConfig) -> dict[str, str]:
    """Say where the stage sends its progress, if anywhere."""
    if not config.progress_url:
        return {}
    base = config.progress_url.rstrip("/")
    values: dict[str, str] = {
        Environment.PROGRESS_URL: f"{base}/progress/{owner.namespace}/{owner.name}/{stage.value}",
        Environment.PROGRESS_TOKEN_FILE: TOKEN_FILE,
    }
    if config.progress_ca_config_map:
        values[Environment.PROGRESS_CA_FILE] = CA_FILE
    return values


def _training_node(spec: FineTuneJobSpec, extra: PodTemplate, config: OperatorConfig) -> str:
    """Say what training will run on, for what it will take."""
    labels = {**config.default_node_selector, **extra.node_selector}
    named = (labels[label] for label in GPU_LABELS if label in labels)
    node = {
        "gpu": next(named, config.gpu_kind or ""),
        "cpus": whole_cpus(cpu_of(spec, Stage.TRAIN, config)),
        "memoryBytes": whole_bytes(memory_of(spec, Stage.TRAIN, config)),
    }
    return json.dumps(node, sort_keys=True)
