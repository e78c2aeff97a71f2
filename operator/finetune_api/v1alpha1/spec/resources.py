"""``spec.resources`` and ``spec.trainer``: what pods get and run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import APIModel, CpuQuantity, Integer, Quantity
from finetune_api.patterns import EXTENDED_RESOURCE_RULE, Texts


class Resources(APIModel):
    """What the training pods get. The world size is nodes times GPUs per node."""

    nodes: Annotated[Integer, Field(ge=1, le=256)] = 1
    """Pods that train together, one per node."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 1
    """GPUs, and processes, per pod. 0 trains and evaluates on CPU with one process."""
    gpu_resource: Annotated[
        str,
        Field(min_length=1, max_length=128),
        Texts(EXTENDED_RESOURCE_RULE, only_new=True),
    ] = "nvidia.com/gpu"
    """Name of the extended resource the GPUs are asked for by."""
    strategy: Literal["Auto", "DDP", "ZeRO2", "ZeRO3", "FSDP2"] = "Auto"
    """How ranks share the work. `Auto`: DDP while the base fits one GPU, else FSDP2."""
    cpu: CpuQuantity | None = None
    """CPU request and limit of a training or evaluation pod, for example `8` or `7500m`. Default:
    the operator's, which grows with the GPUs of the pod."""
    memory: Quantity | None = None
    """Memory request and limit of a training or evaluation pod. Default: the operator's, which
    grows with the GPUs of the pod."""
    shared_memory: Quantity | None = None
    """Size of `/dev/shm`, which the collectives use between GPUs. Default: the operator's."""


class Trainer(APIModel):
    """The image that runs the stages."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image reference, best by digest. Default: the operator's trainer image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Default: Kubernetes' own rule."""
    step_timeout_seconds: Annotated[Integer, Field(ge=1, le=86400)] | None = None
    """A training in which no rank makes a step for so long is taken to hang: the stacks of all
    ranks are stored, and the next attempt resumes at the last checkpoint. Default: ten times the
    median step, at least 10 minutes. Up to its first step, and while it saves, it has an hour."""
