"""What the containers of a stage request."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from finetune_api.meta import whole_bytes
from finetune_api.protocol.trainer import CPU_STAGES, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.engine import has_engine

_UNITS = (("Gi", 2**30), ("Mi", 2**20))


def whole_cpus(quantity: str) -> int:
    """Return a CPU quantity rounded up to whole CPUs, at least 1.

    Threads beyond the limit are throttled by the kernel, which costs far more than one idle core.
    """
    return max(1, math.ceil(_cpus(quantity)))


def _cpus(quantity: str) -> Decimal:
    number = Decimal(quantity.removesuffix("m"))
    return number / 1000 if quantity.endswith("m") else number


def default_memory(config: OperatorConfig, num_gpus: int) -> str:
    """Return the memory of a pod that does not say."""
    total = num_gpus * whole_bytes(config.default_memory_per_gpu)
    if num_gpus < 2 or total <= whole_bytes(config.default_memory):
        return config.default_memory
    unit, size = next((each for each in _UNITS if total % each[1] == 0), ("", 1))
    return f"{total // size}{unit}"


def default_cpu(config: OperatorConfig, num_gpus: int) -> str:
    """Return the CPU of a pod that does not say."""
    total = num_gpus * _cpus(config.default_cpu_per_gpu)
    if num_gpus < 2 or total <= _cpus(config.default_cpu):
        return config.default_cpu
    return str(int(total)) if total == int(total) else f"{math.ceil(total * 1000)}m"


def _is_small(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> bool:
    """Whether a stage's own container holds no model: it needs none, or a server has it."""
    return stage in CPU_STAGES or has_engine(spec, stage, config)


def memory_of(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> str:
    """Return the memory limit of a stage's own container."""
    if _is_small(spec, stage, config):
        return config.prepare_memory
    return _full_limits(spec, stage, config)["memory"]


def cpu_of(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> str:
    """Return the CPU limit of a stage's own container."""
    if _is_small(spec, stage, config):
        return config.prepare_cpu
    return _full_limits(spec, stage, config)["cpu"]


def _full_limits(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> dict[str, str]:
    gpus = num_gpus_of(spec, stage)
    return {
        "cpu": spec.resources.cpu or default_cpu(config, gpus),
        "memory": spec.resources.memory or default_memory(config, gpus),
    }


def num_gpus_of(spec: FineTuneJobSpec, stage: Stage) -> int:
    """Return the GPUs of one pod of a stage."""
    match stage:
        case Stage.PREPARE | Stage.PUBLISH:
            return 0
        case Stage.TRAIN:
            return spec.resources.gpus_per_node
        case Stage.EVALUATE:
            return spec.evaluation_gpus


def render_resources(
    spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig, *, has_kueue: bool
) -> dict[str, Any]:
    """Return the resources of a stage's own container, which requests the pod's disk.

    Its emptyDirs have limits of their own. Kueue admits nothing that requests a resource which its
    ClusterQueue does not cover; a LocalQueue `default` takes Jobs that name no queue, too.
    """
    limits = {"cpu": cpu_of(spec, stage, config), "memory": memory_of(spec, stage, config)}
    gpus = 0 if has_engine(spec, stage, config) else num_gpus_of(spec, stage)
    resources = _limited(limits, spec, gpus)
    if stage is Stage.TRAIN and spec.pod_template is not None:
        extra = {each.name: each.quantity for each in spec.pod_template.extra_resources}
        resources["requests"].update(extra)
        resources["limits"].update(extra)
        if claims := [{"name": each.name} for each in spec.pod_template.resource_claims]:
            resources["claims"] = claims
    if config.scratch_request and (config.scratch_request_with_kueue or not has_kueue):
        resources["requests"]["ephemeral-storage"] = config.scratch_request
    return resources


def render_engine_resources(
    spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig
) -> dict[str, Any]:
    """Return what the stage would hold if it asked the models itself: its server holds it."""
    return _limited(_full_limits(spec, stage, config), spec, num_gpus_of(spec, stage))


def _limited(limits: dict[str, str], spec: FineTuneJobSpec, gpus: int) -> dict[str, Any]:
    if gpus:
        limits[spec.resources.gpu_resource] = str(gpus)
    return {"requests": dict(limits), "limits": limits}
