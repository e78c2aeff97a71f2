"""How much of a node's own memory and disk a training pod needs at its peak, in bytes.

Pages of files do not count: the kernel takes them back. Weights that are read in the type of their
file are such pages (measured: 2 MiB of a model of 381 MiB stay, 762 MiB of it in float32).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_trainer.errors import UserError
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.experts import ADAPTED_EXPERTS, reaches_experts
from finetune_trainer.planning.fit import COMFORT, GIB
from finetune_trainer.planning.memory import optimizer_bytes, trained_bytes
from finetune_trainer.planning.setup import FLOAT32, MASTER_STRATEGIES, Setup

PROCESS = 480 * 2**20
"""Bytes of a rank's own that its libraries take, without CUDA. Measured: ``RssAnon`` of a process
with torch, transformers, PEFT and TRL."""
CUDA_PROCESS = 2 * GIB
"""The same with CUDA's context, NCCL and pinned batches. Assumed, not measured."""
MERGE = 2 * GIB
"""Bytes of a merge by tensor. Measured: 1.85 GiB at 3.2 billion parameters
(``benchmarks/results/merge.md``)."""
SHARD = 50 * 10**9
"""Largest file of weights that transformers makes of a model, which is copied whole to the host.

Source: ``PreTrainedModel.save_pretrained``, ``max_shard_size``.
"""
ENCODED_TOKEN = 36
"""Bytes of a token in a list of Python: a pointer and an integer."""
EXPERT_COPIES = 2
"""Copies of the experts that loading holds: apart, and stacked. Measured: 380 MiB for 192 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMemory:
    """Bytes of one training pod, the one with the first rank, at their peaks.

    Attributes:
        processes: Libraries of all ranks, and the rows that they keep encoded.
        loading: Weights that loading copies.
        saving: Trained weights, or the optimiser's states, on their way to a checkpoint.
        merging: The process that merges, after the ranks have ended.
        least: What it needs for certain of all of these together.
    """

    processes: int
    loading: int
    saving: int
    merging: int
    least: int

    @property
    def total(self) -> int:
        """The estimate: loading, saving and merging follow each other."""
        return max(self.processes + max(self.loading, self.saving), self.merging)


def estimate_host(
    model: Architecture,
    setup: Setup,
    *,
    num_ranks: int,
    encoded_tokens: int = 0,
    merges: bool = False,
) -> HostMemory:
    """Estimate the memory of a training pod.

    Args:
        model: The base model.
        setup: How it is trained, on GPUs.
        num_ranks: Ranks of the pod.
        encoded_tokens: Tokens that each rank keeps as lists of Python.
        merges: The adapter is merged into its base in the end.
    """
    if num_ranks == 0:
        return HostMemory(processes=0, loading=0, saving=0, merging=0, least=0)
    # Under FSDP2 one rank reads the weights for all, if they are plain.
    reads_once = setup.strategy == "FSDP2" and not model.is_quantized
    num_readers = 1 if reads_once else num_ranks
    copied, stacked = _copied_parameters(model, setup)
    value = FLOAT32 if setup.is_full else setup.value_bytes
    rows = num_ranks * ENCODED_TOKEN * encoded_tokens
    certain = num_readers * max(copied, stacked) * value
    loading = num_readers * max(copied, EXPERT_COPIES * stacked) * value
    saving = _saving_bytes(model, setup, num_ranks)
    merges = merges and not setup.is_full
    # A base whose experts are trained is loaded whole, in float32.
    whole = FLOAT32 * model.num_parameters * reaches_experts(model.model_type, setup.targets)
    return HostMemory(
        processes=num_ranks * CUDA_PROCESS + rows,
        loading=loading,
        saving=saving,
        merging=merges * (MERGE + whole),
        # Rows are counted as they were before they were cut, so they are not certain.
        least=max(num_ranks * PROCESS + max(certain, saving), merges * whole),
    )


def _copied_parameters(model: Architecture, setup: Setup) -> tuple[int, int]:
    """Count the weights that loading converts to another type, and the experts that it stacks."""
    if setup.adapter == "QLoRA":
        return 0, 0  # each goes to its GPU as it is read
    wanted = "F32" if setup.is_full or not setup.bfloat16 else "BF16"
    is_converted = model.stored_type not in ("", wanted)
    # ZeRO-3 converts weight by weight, into shards on the GPUs.
    copied = model.num_parameters if is_converted and setup.strategy != "ZeRO3" else 0
    stacked = model.num_expert_parameters if model.model_type in ADAPTED_EXPERTS else 0
    return copied, stacked


def _saving_bytes(model: Architecture, setup: Setup, num_ranks: int) -> int:
    """Return the larger of what the weights and the states of a checkpoint take, one by one."""
    weights, states = _saved_parts(model, setup, num_ranks)
    if setup.is_full and setup.strategy not in ("FSDP2", "ZeRO3"):
        weights = min(SHARD, weights)  # file by file
    return int(max(weights, states))


def _saved_parts(model: Architecture, setup: Setup, num_ranks: int) -> tuple[int, float]:
    """Return what the weights and the states of a checkpoint take on the disk of the first node."""
    weights = trained = trained_bytes(model, setup)
    states = optimizer_bytes(model, setup)
    if setup.is_full and setup.strategy == "ZeRO3":
        weights = model.num_parameters * setup.value_bytes
    if setup.strategy in MASTER_STRATEGIES and setup.world_size > 1:
        # Each rank saves its share, with the copies of the weights in float32.
        states = (states + trained) * num_ranks / setup.world_size
    return weights, states


def require_disk(model: Architecture, setup: Setup, limit: int) -> None:
    """Refuse a job whose checkpoint does not fit the disk of a training pod.

    The weights of the best step are no part of it: training stores them, and makes room, before it
    writes a checkpoint.

    Args:
        model: The base model.
        setup: How it is trained.
        limit: What the volume of the work folder may hold, bytes.

    Raises:
        UserError: ``DiskTooSmall``.
    """
    need = int(sum(_saved_parts(model, setup, setup.world_size // setup.num_nodes)))
    if need > limit:
        raise UserError(
            "DiskTooSmall",
            f"a training pod writes {need / GIB:.1f} GiB for a checkpoint to its disk, and "
            f"config.scratchSize is {limit / GIB:.1f} GiB; have config.scratchSize raised to "
            f"{math.ceil(need / COMFORT / GIB)}Gi or more",
        )


def require_host_memory(
    need: HostMemory, limit: int, *, is_stated: bool, sharded: HostMemory | None = None
) -> str:
    """Return a warning where a pod's memory is nearly or probably too small, else nothing.

    Args:
        need: Of the training pod.
        limit: Memory limit of the pod, bytes.
        is_stated: The job states the limit in ``resources.memory``.
        sharded: Need of the same job under FSDP2, if it can use that.

    Raises:
        UserError: ``HostMemoryTooSmall``: it is certainly too small.
    """
    if need.total <= COMFORT * limit and need.least <= limit:
        return ""
    whose = "resources.memory is" if is_stated else "the operator's default is"
    has = f"{whose} {limit / GIB:.1f} GiB"
    remedy = f"set resources.memory to {math.ceil(need.total / COMFORT / GIB)}Gi or more"
    if sharded is not None and sharded.total <= COMFORT * limit < need.total:
        remedy += ", or resources.strategy to FSDP2"
    parts = (
        f"{need.processes / GIB:.1f} for the processes, {need.loading / GIB:.1f} while the model "
        f"loads, {need.saving / GIB:.1f} while a checkpoint is saved"
        + (f"; {need.merging / GIB:.1f} for the merge" if need.merging else "")
    )
    if need.least > limit:
        raise UserError(
            "HostMemoryTooSmall",
            f"a training pod needs at least {need.least / GIB:.1f} GiB of the node's memory, about "
            f"{need.total / GIB:.1f} GiB in all ({parts}), and {has}; {remedy}",
        )
    return (
        f"a training pod needs about {need.total / GIB:.1f} GiB of the node's memory ({parts}), "
        f"and {has}; if the kernel kills a process (HostOutOfMemory), {remedy}"
    )
