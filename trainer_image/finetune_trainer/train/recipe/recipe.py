"""Decides every ``auto`` of a job: a pure function from job, data and hardware to a recipe.

See ``learning_rate``, ``batches`` and :mod:`finetune_trainer.planning.fit` for the rules.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.model.kernels.attention import explain_varlen
from finetune_trainer.model.kernels.liger import expects_liger
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.experts import choose_targets
from finetune_trainer.planning.fit import COMFORT, GIB, Asked, Fit, Lengths, find_fit
from finetune_trainer.planning.setup import Setup, attention_of, drops_inputs
from finetune_trainer.train.recipe.batches import (
    check_micro_batch,
    check_verdict_batch,
    share_batch,
)
from finetune_trainer.train.recipe.learning_rate import choose_rate
from finetune_trainer.train.recipe.lesson import MemoryLimits
from finetune_trainer.train.recipe.selection import decide_validation_interval
from finetune_trainer.train.recipe.validation import (
    compare_with_training,
    decide_measured_rows,
    limit_batch,
)

NO_LIMITS = MemoryLimits()
IDLE_TOKENS = 2048
"""Below so many tokens a forward pass leaves a large GPU idle between launches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataShape:
    """The tokenised training side, and the size of the validation side.

    Attributes:
        num_rows: Training examples.
        num_tokens: Their tokens after truncation.
        mean_tokens: Mean example length.
        longest_tokens: Longest example.
        std_tokens: Standard deviation of the lengths, if known.
        num_sequences: Sequences per example: 2 for a pair of answers.
        num_validation_rows: Validation examples.
        num_validation_tokens: Their tokens after truncation.
    """

    num_rows: int
    num_tokens: int
    mean_tokens: float
    longest_tokens: int
    std_tokens: float | None = None
    num_sequences: int = 1
    num_validation_rows: int = 0
    num_validation_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every setting of a run, with nothing left open.

    Attributes:
        learning_rate: Peak learning rate.
        global_batch_size: Examples per optimiser step over all ranks.
        micro_batch_size: Examples per rank and forward pass.
        accumulation_steps: Forward passes per optimiser step.
        world_size: Data-parallel ranks.
        total_steps: Optimiser steps of the whole run.
        epochs: Passes over the data.
        strategy: DDP, ZeRO2, ZeRO3 or FSDP2.
        num_replicas: Under FSDP2, copies of the weights: one per node where a node suffices.
        bfloat16: Base weights (and compute) in bfloat16.
        activation_checkpointing: Recompute activations.
        padding_free: Flatten a micro batch into one row without padding.
        packing: Several examples per row, cut to ``maxSequenceLength``.
        use_gpu: Ranks run on GPUs.
        estimated_memory_bytes: Of one rank at its peak.
        memory: The same by what it is made of, bytes.
        available_memory_bytes: What one rank has.
        out_of_memory_at: Largest micro batch that ran out of memory in an earlier attempt, or 0.
        validation_interval: Steps between two validations, if there are rows for it.
        num_validation_rows: Rows of the validation side.
        num_measured_rows: Those that each validation measures; the same ones each time.
    """

    learning_rate: float
    global_batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    world_size: int
    total_steps: int
    epochs: float
    strategy: str
    bfloat16: bool
    activation_checkpointing: bool
    padding_free: bool
    packing: bool
    use_gpu: bool
    estimated_memory_bytes: int
    memory: dict[str, int]
    available_memory_bytes: int
    validation_interval: int
    out_of_memory_at: int = 0
    num_validation_rows: int = 0
    num_measured_rows: int = 0
    num_replicas: int = 1

    @property
    def validation_batch_size(self) -> int:
        """Rows per rank and forward pass of a validation."""
        return limit_batch(
            self.micro_batch_size,
            num_measured=self.num_measured_rows,
            num_rows=self.num_validation_rows,
            num_ranks=self.world_size,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict."""
        return asdict(self)


def decide_recipe(
    job: ResolvedJob,
    data: DataShape,
    model: Architecture,
    hardware: Hardware,
    *,
    use_gpu: bool,
    attention: str = "sdpa",
    lesson: MemoryLimits = NO_LIMITS,
) -> Recipe:
    """Settle every setting that the job leaves open.

    Args:
        job: The effective job.
        data: The tokenised training side.
        model: The base model.
        hardware: Of this node.
        use_gpu: Ranks run on GPUs.
        attention: ``sdpa``, ``flash``, ``varlen`` or ``eager``.
        lesson: Memory limits found by earlier attempts.

    Raises:
        UserError: Settings contradict each other or the hardware, or the model does not fit; the
            message names the values.
    """
    global_batch, per_rank = share_batch(job, data.num_rows)
    fit = find_fit(
        model,
        make_setup(job, model, hardware, use_gpu=use_gpu, attention=attention),
        bound_by(read_asked(job, per_rank, use_gpu=use_gpu), lesson),
        _limit_lengths(data, job),
        per_rank=per_rank,
        available=available_bytes(job, hardware, use_gpu=use_gpu),
    )
    check_verdict_batch(job, fit.micro)
    total_steps = _count_steps(data, job, global_batch)
    rate = choose_rate(job, model, total_steps)
    return _recipe_of(job, data, fit, lesson, batch=global_batch, steps=total_steps, rate=rate)


def _recipe_of(
    job: ResolvedJob,
    data: DataShape,
    fit: Fit,
    lesson: MemoryLimits,
    *,
    batch: int,
    steps: int,
    rate: float,
) -> Recipe:
    """Return the recipe of a fit, for a global batch, a number of steps and a learning rate."""
    packing = _is_packed(job)
    interval = _choose_interval(job, steps)
    return Recipe(
        learning_rate=rate,
        global_batch_size=batch,
        micro_batch_size=fit.micro,
        accumulation_steps=batch // job.world_size // fit.micro,
        world_size=job.world_size,
        total_steps=steps,
        epochs=float(job.spec.hyperparameters.epochs),
        strategy=fit.setup.strategy,
        num_replicas=fit.setup.num_replicas,
        bfloat16=fit.setup.bfloat16,
        activation_checkpointing=fit.setup.checkpointing,
        padding_free=fit.setup.padding_free and not packing,
        packing=packing,
        use_gpu=fit.setup.use_gpu,
        estimated_memory_bytes=fit.memory.total,
        memory=fit.memory.to_json(),
        available_memory_bytes=fit.available,
        validation_interval=interval,
        out_of_memory_at=lesson.out_of_memory_at,
        num_validation_rows=data.num_validation_rows,
        num_measured_rows=_choose_measured_rows(
            job, data, global_batch=batch, total_steps=steps, interval=interval
        ),
    )


def bound_by(asked: Asked, lesson: MemoryLimits) -> Asked:
    """Return the settings within the limits of earlier attempts, which outrank the job's own."""
    return replace(
        asked,
        max_micro=lesson.max_micro_batch or None,
        checkpointing=True if lesson.recomputes else asked.checkpointing,
    )


def _is_packed(job: ResolvedJob) -> bool:
    return job.spec.method.packing == "On"


def _limit_lengths(data: DataShape, job: ResolvedJob) -> Lengths:
    hyper = job.spec.hyperparameters
    return Lengths(
        mean=data.mean_tokens,
        longest=min(data.longest_tokens, hyper.max_sequence_length * data.num_sequences),
        deviation=data.std_tokens,
        # A packed row is as long as a row may be, however short its examples.
        row_limit=hyper.max_sequence_length if _is_packed(job) else None,
    )


def _choose_interval(job: ResolvedJob, total_steps: int) -> int:
    checkpoint = job.spec.checkpoint
    return decide_validation_interval(
        checkpoint.validate_every_steps, total_steps=total_steps, every_steps=checkpoint.interval
    )


def _choose_measured_rows(
    job: ResolvedJob, data: DataShape, *, global_batch: int, total_steps: int, interval: int
) -> int:
    """Return the rows of each validation; all of them if the job sets the steps between two."""
    if job.spec.checkpoint.validate_every_steps != "auto" or not data.num_validation_rows:
        return data.num_validation_rows
    method = job.spec.method
    row = data.mean_tokens
    if _is_packed(job):
        row = float(job.spec.hyperparameters.max_sequence_length)
    return decide_measured_rows(
        data.num_validation_rows,
        mean_tokens=data.num_validation_tokens / data.num_validation_rows,
        # An epoch's last batch, and a batch larger than the data, are not full.
        trained_tokens=total_steps * min(global_batch * row, data.num_tokens),
        num_validations=math.ceil(total_steps / interval),
        cost=compare_with_training(method.objective, is_full=method.adapter.type == "Full"),
    )


def make_setup(
    job: ResolvedJob, model: Architecture, hardware: Hardware, *, use_gpu: bool, attention: str
) -> Setup:
    """Return the job's fixed settings that memory depends on."""
    adapter = job.spec.method.adapter
    targets = choose_targets(adapter.target_modules, model)
    bfloat16 = decide_bfloat16(job, hardware, use_gpu=use_gpu)
    attention = attention_of(model.model_type, attention)
    if attention == "varlen":
        # On joined rows it keeps what FlashAttention keeps.
        is_suited = bfloat16 and not pads_rows(job) and not explain_varlen(model)
        attention = "flash" if is_suited else "sdpa"
    return Setup(
        adapter=adapter.type,
        rank=adapter.rank,
        targets=targets,
        saved_modules=tuple(adapter.modules_to_save),
        dropout=drops_inputs(adapter.dropout, targets, model_type=model.model_type),
        optimizer=job.spec.hyperparameters.optimizer,
        bfloat16=bfloat16,
        attention=attention,
        world_size=job.world_size,
        num_nodes=job.spec.resources.nodes,
        use_gpu=use_gpu,
        is_fused=expects_liger(job.spec.hyperparameters.kernels, model.model_type, use_gpu=use_gpu),
    )


def read_asked(job: ResolvedJob, per_rank: int, *, use_gpu: bool) -> Asked:
    """Return the settings that the job fixes.

    Raises:
        UserError: The micro batch does not divide the rank's share, or the strategy cannot run.
    """
    hyper = job.spec.hyperparameters
    micro = check_micro_batch(hyper.micro_batch_size, per_rank)
    strategy = decide_strategy(job)
    is_sft = job.spec.method.objective == "SFT"
    if strategy == "Auto" and not is_sft:
        strategy = "DDP"  # the reference is the model without its adapter: it must be whole
    recompute = hyper.activation_checkpointing
    return Asked(
        micro=micro,
        checkpointing=None if recompute == "Auto" else recompute == "On",
        strategy=None if strategy == "Auto" else strategy,
        padding_free=False if pads_rows(job) else None,
    )


def pads_rows(job: ResolvedJob) -> bool:
    """Whether the job's settings keep rows apart, with padding."""
    method = job.spec.method
    # NEFTune's noise depends on the length of a row; TRL pads answers that it compares.
    has_noise = job.spec.hyperparameters.neftune_noise_alpha is not None
    return method.packing == "Off" or has_noise or method.objective != "SFT"


def available_bytes(job: ResolvedJob, hardware: Hardware, *, use_gpu: bool) -> int:
    """Return the memory of one rank: a GPU's, or its share of the node's."""
    return hardware.memory_bytes // (1 if use_gpu else max(1, job.spec.resources.gpus_per_node))


def _count_steps(data: DataShape, job: ResolvedJob, global_batch: int) -> int:
    hyper = job.spec.hyperparameters
    if hyper.max_steps:
        return hyper.max_steps
    rows_per_epoch = data.num_rows
    if _is_packed(job):
        rows_per_epoch = max(1, math.ceil(data.num_tokens / hyper.max_sequence_length))
    steps_per_epoch = max(1, math.ceil(rows_per_epoch / global_batch))
    return max(1, math.ceil(steps_per_epoch * float(hyper.epochs)))


def check_settings(job: ResolvedJob, hardware: Hardware, *, num_rows: int, use_gpu: bool) -> None:
    """Refuse what :func:`decide_recipe` would refuse, without tokens, model or ranks.

    A wrong setting then costs seconds instead of the start of every rank.

    Raises:
        UserError: Settings contradict each other or the hardware; the message names the values.
    """
    decide_bfloat16(job, hardware, use_gpu=use_gpu)
    _, per_rank = share_batch(job, num_rows)
    check_micro_batch(job.spec.hyperparameters.micro_batch_size, per_rank)


def decide_bfloat16(job: ResolvedJob, hardware: Hardware, *, use_gpu: bool) -> bool:
    """Return whether to compute in bfloat16.

    Raises:
        UserError: The device or the strategy cannot.
    """
    asked = job.spec.hyperparameters.precision
    strategy = decide_strategy(job)
    # transformers takes bfloat16 under DeepSpeed for a matter of GPUs.
    is_cpu_zero = strategy in ("ZeRO2", "ZeRO3") and not use_gpu
    if asked == "BFloat16" and is_cpu_zero:
        raise UserError(
            "PrecisionUnsupported",
            f"hyperparameters.precision BFloat16: {strategy} on CPU computes in float32 only; use "
            "Float32 or Auto, or resources.strategy DDP",
        )
    if asked == "BFloat16" and not hardware.supports_bfloat16:
        raise UserError(
            "PrecisionUnsupported",
            "hyperparameters.precision BFloat16: this device does not compute in bfloat16; use "
            "Float32 or Auto",
        )
    return not is_cpu_zero and (
        asked == "BFloat16" or (asked == "Auto" and hardware.supports_bfloat16)
    )


def decide_strategy(job: ResolvedJob) -> str:
    """Return how ranks share the work; ``Auto`` where memory decides."""
    # One rank has nothing to share; DeepSpeed would only add its start-up.
    return job.spec.resources.strategy if job.world_size > 1 else "DDP"


def find_warnings(recipe: Recipe, data: DataShape) -> list[str]:
    """Return warnings about unused resources and scarce memory."""
    found = []
    if recipe.use_gpu:
        tokens = recipe.micro_batch_size * data.mean_tokens
        if recipe.accumulation_steps == 1 and tokens < IDLE_TOKENS and not recipe.packing:
            found.append(
                f"each GPU sees only {tokens:.0f} tokens per forward pass and waits most of the "
                f"time: a global batch of {recipe.global_batch_size} examples of "
                f"{data.mean_tokens:.0f} tokens is too small for {recipe.world_size} GPU(s); take "
                "fewer GPUs, or raise hyperparameters.globalBatchSize"
            )
    if recipe.estimated_memory_bytes > COMFORT * recipe.available_memory_bytes:
        found.append(
            f"memory is tight: about {recipe.estimated_memory_bytes / GIB:.1f} of "
            f"{recipe.available_memory_bytes / GIB:.1f} GiB are needed at the peak"
        )
    return found
