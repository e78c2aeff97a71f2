"""``spec.resources`` and ``spec.trainer``: what pods get and run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import SET_LIST, APIModel, CpuQuantity, Integer, Quantity
from finetune_api.patterns import (
    EXTENDED_RESOURCE_RULE,
    INTERFACE_RULE,
    PRINTED_RULE,
    RDMA_DEVICE_RULE,
    Texts,
)

INTERFACE_VARIABLE = "NCCL_SOCKET_IFNAME"
NETWORK_VARIABLES = {
    "interface": INTERFACE_VARIABLE,
    "rdmaDevices": "NCCL_IB_HCA",
    "debug": "NCCL_DEBUG",
}
"""The variable of NCCL that each field of ``resources.network`` sets."""


def interface_value(interface: str) -> str:
    """Return the value of ``NCCL_SOCKET_IFNAME`` for an interface as jobs write it.

    An exclusion leaves out the loopback too: NCCL would choose it, and no other node reaches it.
    """
    return f"{interface},lo" if interface.startswith("^") else interface


class Network(APIModel):
    """How the ranks of a training reach each other."""

    interface: Annotated[str, Field(max_length=130), Texts(INTERFACE_RULE)] | None = None
    """Network interface as NCCL reads it (`NCCL_SOCKET_IFNAME`): names that begin so (`eth0`;
    `eth,bond0`), exact names (`=eth0`), all others (`^docker0`). Gloo uses the first that has an
    address. Default: the operator's, else their own choice."""
    rdma_devices: Annotated[
        list[Annotated[str, Field(max_length=35), Texts(RDMA_DEVICE_RULE)]],
        Field(max_length=16, json_schema_extra=SET_LIST),
    ] = []
    """Exact names of InfiniBand or RoCE devices (`NCCL_IB_HCA`), such as `mlx5_0`, or `mlx5_0:1`
    for one port. Default: all that the pod has."""
    debug: Literal["Off", "Warn", "Info", "Trace"] = "Off"
    """What NCCL writes to the log (`NCCL_DEBUG`). `Info` names the network it has chosen; `Trace`
    needs an NCCL built for it."""

    @property
    def environment(self) -> dict[str, str]:
        """Return NCCL's variables that the fields set."""
        fields = {
            "interface": interface_value(self.interface or ""),
            "rdmaDevices": f"={','.join(self.rdma_devices)}" if self.rdma_devices else "",
            "debug": "" if self.debug == "Off" else self.debug.upper(),
        }
        return {NETWORK_VARIABLES[field]: value for field, value in fields.items() if value}


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
    network: Network | None = None
    """How the ranks reach each other. Default: as NCCL and Gloo find it."""


class Trainer(APIModel):
    """The image that runs the stages."""

    image: Annotated[str, Field(min_length=1, max_length=512), Texts(PRINTED_RULE)] | None = None
    """Image reference, best by digest. Default: the operator's trainer image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Default: Kubernetes' own rule."""
    step_timeout_seconds: Annotated[Integer, Field(ge=1, le=86400)] | None = None
    """A training in which no rank makes a step for so long is taken to hang: the stacks of all
    ranks are stored, and the next attempt resumes at the last checkpoint. Default: ten times the
    median step, at least 10 minutes. Up to its first step, and while it saves, it has an hour."""
