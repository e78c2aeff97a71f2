"""The hardware of the machine: GPUs, memory, number formats."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from finetune_api.protocol.trainer import Environment
from finetune_trainer.errors import UserError
from finetune_trainer.process import num_cores

DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/sys/module/nvidia/version"))
"""Where the kernel shows the version of NVIDIA's driver, in containers too."""
OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""By CUDA's major version, the first driver that runs all of its minor versions.

Source: NVIDIA's CUDA compatibility guide, minor version compatibility.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """The hardware of this node for one rank.

    Attributes:
        num_gpus: Visible GPUs of this node.
        memory_bytes: Memory of one GPU, or this node's memory shared by its ranks on CPU.
        supports_bfloat16: Whether the device computes in bfloat16 natively.
        num_cpus: Usable cores, by the container's CPU limit too.
        kind: Name of the GPUs; empty without one.
    """

    num_gpus: int
    memory_bytes: int
    supports_bfloat16: bool
    num_cpus: int
    kind: str = ""


def detect_hardware() -> Hardware:
    """Look at this node. Imports torch only where a GPU driver is present."""
    if has_gpu_driver():
        import torch

        if torch.cuda.is_available():
            first = torch.cuda.get_device_properties(0)
            return Hardware(
                num_gpus=torch.cuda.device_count(),
                memory_bytes=first.total_memory,
                supports_bfloat16=torch.cuda.is_bf16_supported(),
                num_cpus=num_cores(),
                kind=first.name,
            )
    return Hardware(
        num_gpus=0,
        memory_bytes=_host_memory_bytes(),
        supports_bfloat16=_cpu_supports_bfloat16(),
        num_cpus=num_cores(),
    )


def require_gpus(wanted: int, hardware: Hardware) -> bool:
    """Return whether a stage computes on GPUs.

    A pod that may use the CPU claims as many visible GPUs as it requested, so that a request for
    too few fails without devices too. ``wanted`` GPUs are required.

    Raises:
        UserError: There are fewer than that, and CPU is not allowed; or the driver is too old for
            the image's CUDA.
    """
    if wanted == 0:
        return False
    if hardware.num_gpus >= wanted:
        return True
    shown = hardware.num_gpus
    if shown == 0 and os.environ.get(Environment.ALLOW_CPU) == "1":
        shown = claimed_gpus(wanted)
        if shown >= wanted:
            return False
    if hardware.num_gpus == 0 and (problem := find_driver_problem()):
        raise UserError("GPUDriverTooOld", problem)
    raise UserError(
        "GPUNotVisible",
        f"the job asks for {wanted} GPU(s) per node (resources.gpusPerNode) but this node shows "
        f"{shown}; check the device plugin, the driver and the image's CUDA build, or "
        f"allow CPU training ({Environment.ALLOW_CPU}=1, operator setting allowCPU)",
    )


def find_driver_problem() -> str:
    """Return why this node's driver cannot run the image's CUDA; empty if it can or is unknown.

    CUDA shows no GPU at all then, as if there were none.
    """
    driver, cuda = _driver_version(), _image_cuda()
    needed = OLDEST_DRIVERS.get(int(cuda.partition(".")[0] or 0))
    if not driver or needed is None or int(driver.partition(".")[0]) >= needed:
        return ""
    major, has = cuda.partition(".")[0], driver.partition(".")[0]
    image = "an older CUDA"
    if int(has) >= OLDEST_DRIVERS[12]:
        image = "CUDA 12 (docs/how-to/install.md says how to build it)"
    return (
        f"CUDA {major} needs driver {needed} or newer; node has {has} (image: CUDA {cuda}, node: "
        f"driver {driver}); update the driver of the node, choose other nodes with "
        f"podTemplate.nodeSelector, or name an image for {image} in trainer.image"
    )


def _driver_version() -> str:
    for path in DRIVER_FILES:
        try:
            text = path.read_text()
        except OSError:
            continue
        if found := re.search(r"(?<![\w.])\d{3,4}\.\d+(\.\d+)?(?![\w.])", text):
            return found[0]
    return ""


def _image_cuda() -> str:
    """Return the version of CUDA that torch was built for; empty of another build."""
    if not has_gpu_driver():
        return ""
    import torch

    return torch.version.cuda or ""


def claimed_gpus(default: int) -> int:
    """Return the GPUs that this pod requested, or ``default`` outside a cluster."""
    return int(os.environ.get(Environment.NUM_GPUS) or default)


def has_gpu_driver() -> bool:
    """Return whether this machine has a driver for GPUs, whatever they are good for."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def _cpu_supports_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _host_memory_bytes() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)
