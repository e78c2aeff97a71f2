"""Warns where NCCL uses TCP sockets although the pod names RDMA devices."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.v1alpha1.spec.resources import NETWORK_VARIABLES
from finetune_trainer.train.ranks.handover import WorkerPlan

_CHOSEN = re.compile(r"(?:Assigned NET plugin|Using network) (\w+)")
"""How NCCL names the network of a communicator. Source: libnccl 2.29.7."""


class NetworkCheck(TrainerCallback):  # type: ignore[misc]
    """Reads NCCL's choice of network after the first step.

    Made before the ranks connect: NCCL reads its variables then. A job that has NCCL's log in its
    own (``resources.network.debug``) keeps it there, and is not checked.
    """

    def __init__(self, plan: WorkerPlan, num_nodes: int, tell: Callable[[str], None]) -> None:
        self._devices = os.environ.get(NETWORK_VARIABLES["rdmaDevices"], "").lstrip("=")
        self._tell = tell
        self._log: Path | None = None
        crosses = plan.use_gpu and num_nodes > 1
        if self._devices and crosses and "NCCL_DEBUG" not in os.environ:
            self._log = Path(plan.control_dir, f"nccl-{os.getpid()}.log")
            os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(self._log)}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Warn if NCCL has found sockets only."""
        log, self._log = self._log, None
        if log and log.exists() and set(_CHOSEN.findall(log.read_text())) == {"Socket"}:
            self._tell(
                f"warning: resources.network.rdmaDevices names {self._devices}, and NCCL uses TCP "
                "sockets (NET/Socket) between the nodes; check podTemplate.extraResources, the "
                "device names and the locked memory, and set resources.network.debug to Info"
            )
