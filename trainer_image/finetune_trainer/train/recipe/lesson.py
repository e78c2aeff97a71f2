"""Memory limits that an attempt takes over from attempts that ran out of memory. Pure.

Half the micro batch with twice the accumulation is the same training up to rounding. If the
smallest micro batch ran out too, activations are recomputed, unless the job forbids it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.protocol.trainer import FailureClass, ResolvedJob
from finetune_trainer.errors import TrainerError, UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How an attempt of ``train`` ended.

    Attributes:
        failure_class: Class of its failure.
        reason: Reason of its termination message.
        message: What happened, for people.
        rank: Rank that failed, if one did.
        step: Completed optimiser steps.
        micro_batch_size: Examples per forward pass; 0 if not settled.
        activation_checkpointing: Whether activations were recomputed.
        ended_at: Time, ISO 8601.
    """

    failure_class: str
    reason: str
    message: str
    rank: int | None
    step: int | None
    micro_batch_size: int
    activation_checkpointing: bool
    ended_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLimits:
    """Bounds on the recipe; the defaults bound nothing.

    Attributes:
        out_of_memory_at: Largest micro batch that ran out of memory, 0 for none.
        max_micro_batch: Examples per forward pass at most, 0 for no bound.
        recomputes: Activations are to be recomputed.
    """

    out_of_memory_at: int = 0
    max_micro_batch: int = 0
    recomputes: bool = False


def smallest_micro_batch(job: ResolvedJob) -> int:
    """Return the smallest micro batch that the job's objective can be trained with."""
    return 2 if job.spec.method.objective == "KTO" else 1


def learn(job: ResolvedJob, ends: Iterable[End]) -> MemoryLimits:
    """Return the limits that follow from the ends of earlier attempts."""
    smallest = smallest_micro_batch(job)
    sizes = []
    recomputes = False
    for end in ends:
        if end.failure_class == FailureClass.OUT_OF_MEMORY and end.micro_batch_size:
            sizes.append(end.micro_batch_size)
            recomputes |= end.micro_batch_size <= smallest and not end.activation_checkpointing
    if not sizes:
        return MemoryLimits()
    return MemoryLimits(
        out_of_memory_at=max(sizes),
        max_micro_batch=max(smallest, min(sizes) // 2),
        recomputes=recomputes and job.spec.hyperparameters.activation_checkpointing == "Auto",
    )


def describe_memory_limits(lesson: MemoryLimits) -> str:
    """Describe the changes in one line; empty without any."""
    if not lesson.out_of_memory_at:
        return ""
    words = (
        f"an attempt before ran out of memory with {lesson.out_of_memory_at} examples per forward "
        f"pass: this one takes at most {lesson.max_micro_batch}, with more accumulation steps for "
        "the same global batch"
    )
    return words + (", and recomputes activations" if lesson.recomputes else "")


def with_next_attempt(job: ResolvedJob, end: End, error: TrainerError) -> TrainerError:
    """Return the error of an attempt that ran out of memory, with the next attempt's change.

    It is a :class:`UserError` if no attempt can use less.
    """
    micro, smallest = end.micro_batch_size, smallest_micro_batch(job)
    may_recompute = job.spec.hyperparameters.activation_checkpointing == "Auto"
    if micro > smallest:
        less = max(smallest, micro // 2)
        error.message += (
            f"; the next attempt takes at most {less} examples per forward pass instead of {micro} "
            "and keeps the global batch"
        )
        return error
    if not micro:
        return error
    if may_recompute and not end.activation_checkpointing:
        error.message += "; the next attempt recomputes activations"
        return error
    return UserError(
        "OutOfMemoryAtSmallest",
        f"out of memory with {micro} example{'s' if micro > 1 else ''} per forward pass, and no "
        f"smaller micro batch is possible ({error.message}); {', or '.join(_remedies(job, end))}",
    )


def _remedies(job: ResolvedJob, end: End) -> list[str]:
    hyper, adapter, resources = (
        job.spec.hyperparameters,
        job.spec.method.adapter,
        job.spec.resources,
    )
    found = []
    if not end.activation_checkpointing:
        found.append("set hyperparameters.activationCheckpointing to Auto")
    found.append(
        f"lower hyperparameters.maxSequenceLength (now {hyper.max_sequence_length}) where rows are "
        "long"
    )
    if adapter.type == "Full":
        found.append("train an adapter (method.adapter.type LoRA) instead of all weights")
    elif adapter.type != "QLoRA" and resources.gpus_per_node:
        found.append("keep the base in 4 bits (method.adapter.type QLoRA)")
    if resources.gpus_per_node:
        found.append("take more GPUs with resources.strategy FSDP2, or GPUs with more memory")
    else:
        found.append("raise resources.memory")
    return found
