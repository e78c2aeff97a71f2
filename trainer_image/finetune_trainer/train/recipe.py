"""Decides every ``auto`` of a job: a pure function from job, data and hardware to a recipe.

The rules, with their reasons:

* **Learning rate.** Adapters want about ten times the rate of full fine-tuning, nearly independent
  of rank when the update is scaled by alpha/rank, and more for short runs ("LoRA Without Regret",
  Schulman et al. 2025). Small models take more: 5e-4 x (2000 / hidden size)^0.78, 1.5 times that
  below 100 steps, between 1e-4 and 2e-3. ``Full`` takes a tenth.
* **Global batch.** 8 below 1,000 training rows, 16 below 10,000, else 32: adapters pay for large
  batches more than full fine-tuning does (same source). It never depends on the world size.
* **Micro batch.** The largest divisor of the rank's share whose tokens fit the budget of one
  forward pass: enough to fill the device, few enough to need no recomputation.
* **Activation checkpointing.** Only when even the smallest micro batch exceeds 80 % of memory by
  the estimate below: it costs 20-50 % of the speed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from finetune_api.trainer import ResolvedJob
from finetune_api.v1alpha1.finetunejob import Hyperparameters
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware

CPU_TOKENS_PER_FORWARD = 2048
GPU_TOKENS_PER_FORWARD = 16384
COMFORT = 0.8
"""Share of the memory that the estimate may fill: it is an estimate."""
PADDING_FREE_TOKENS = 4096
"""Longest flattened row for which SDPA's block-diagonal mask is cheaper than padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataShape:
    """What the recipe must know of the tokenised training side.

    Attributes:
        num_rows: Training examples.
        num_tokens: Their tokens after truncation.
        mean_tokens: Mean example length.
        longest_tokens: Longest example.
    """

    num_rows: int
    num_tokens: int
    mean_tokens: float
    longest_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What the recipe must know of the base model.

    Attributes:
        num_parameters: All weights.
        hidden_size: Width of the residual stream.
        num_layers: Transformer blocks.
    """

    num_parameters: int
    hidden_size: int
    num_layers: int


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
        bfloat16: Base weights (and compute) in bfloat16.
        activation_checkpointing: Recompute activations.
        padding_free: Flatten a micro batch into one row without padding.
        packing: Several examples per row, cut to ``maxSequenceLength``.
        use_gpu: Ranks run on GPUs.
        estimated_memory_bytes: Per rank.
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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict."""
        return asdict(self)


def decide_recipe(
    job: ResolvedJob, data: DataShape, model: ModelShape, hardware: Hardware, *, use_gpu: bool
) -> Recipe:
    """Settle everything that the job left to us.

    Raises:
        UserError: Settings contradict each other or the hardware; the message names the values.
    """
    spec = job.spec
    hyper = spec.hyperparameters
    world_size = job.world_size
    bfloat16 = decide_bfloat16(job, hardware, use_gpu=use_gpu)
    global_batch = decide_global_batch(hyper.global_batch_size, data.num_rows, world_size)
    per_rank = global_batch // world_size
    packing = spec.method.packing == "On"
    available = hardware.memory_bytes // (1 if use_gpu else max(1, spec.resources.gpus_per_node))
    # A packed row is as long as a row may be, however short its examples.
    longest = hyper.max_sequence_length
    if not packing:
        longest = min(data.longest_tokens, longest)
    need = _RankMemory(job=job, model=model, longest=longest, bfloat16=bfloat16)
    budget = decide_token_budget(need, available, use_gpu=use_gpu)
    micro = decide_micro_batch(hyper.micro_batch_size, per_rank, longest=longest, budget=budget)
    memory = need.of(micro)
    checkpointing = hyper.activation_checkpointing == "On" or (
        hyper.activation_checkpointing == "Auto" and memory > COMFORT * available
    )
    epochs = float(hyper.epochs)
    total_steps = hyper.max_steps or _count_steps(data, hyper, epochs, global_batch, packing)
    full = spec.method.adapter.type == "Full"
    return Recipe(
        learning_rate=decide_learning_rate(hyper.learning_rate, model, total_steps, full=full),
        global_batch_size=global_batch,
        micro_batch_size=micro,
        accumulation_steps=per_rank // micro,
        world_size=world_size,
        total_steps=total_steps,
        epochs=epochs,
        strategy=decide_strategy(job, memory=memory, available=available, use_gpu=use_gpu),
        bfloat16=bfloat16,
        activation_checkpointing=checkpointing,
        padding_free=spec.method.packing == "Auto"
        and (use_gpu or micro * data.mean_tokens <= PADDING_FREE_TOKENS),
        packing=packing,
        use_gpu=use_gpu,
        estimated_memory_bytes=need.of(micro, checkpointing=checkpointing),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _RankMemory:
    """Estimates one rank's memory by its micro batch."""

    job: ResolvedJob
    model: ModelShape
    longest: int
    bfloat16: bool

    def of(self, micro: int, *, checkpointing: bool = False) -> int:
        adapter = self.job.spec.method.adapter
        return estimate_memory_bytes(
            self.model,
            tokens=micro * self.longest,
            bfloat16=self.bfloat16,
            full=adapter.type == "Full",
            quantized=adapter.type == "QLoRA",
            checkpointing=checkpointing,
        )


def decide_token_budget(need: _RankMemory, available: int, *, use_gpu: bool) -> int:
    """Return the tokens of one forward pass: enough to fill the device, few enough to fit."""
    budget = GPU_TOKENS_PER_FORWARD if use_gpu else CPU_TOKENS_PER_FORWARD
    # A smaller micro batch costs less speed than recomputing activations.
    while budget > need.longest and need.of(budget // need.longest) > COMFORT * available:
        budget //= 2
    return budget


def _count_steps(
    data: DataShape, hyper: Hyperparameters, epochs: float, global_batch: int, packing: bool
) -> int:
    rows_per_epoch = data.num_rows
    if packing:
        rows_per_epoch = max(1, math.ceil(data.num_tokens / hyper.max_sequence_length))
    steps_per_epoch = max(1, math.ceil(rows_per_epoch / global_batch))
    return max(1, math.ceil(steps_per_epoch * epochs))


def check_settings(job: ResolvedJob, hardware: Hardware, *, num_rows: int, use_gpu: bool) -> None:
    """Refuse what :func:`decide_recipe` would refuse, without tokens, model or ranks.

    The parent of a run asks this, so that a wrong setting costs seconds and not the start of
    every rank.

    Args:
        job: The effective job.
        hardware: What this node offers.
        num_rows: Training rows.
        use_gpu: Ranks run on GPUs.

    Raises:
        UserError: Settings contradict each other or the hardware; the message names the values.
    """
    hyper = job.spec.hyperparameters
    decide_bfloat16(job, hardware, use_gpu=use_gpu)
    per_rank = (
        decide_global_batch(hyper.global_batch_size, num_rows, job.world_size) // job.world_size
    )
    decide_micro_batch(hyper.micro_batch_size, per_rank, longest=1, budget=per_rank)
    decide_strategy(job, memory=0, available=hardware.memory_bytes, use_gpu=use_gpu)


def decide_learning_rate(asked: str, model: ModelShape, total_steps: int, *, full: bool) -> float:
    """Return the asked rate, or the rule's."""
    if asked != "auto":
        return float(asked)
    rate = 5e-4 * (2000 / max(1, model.hidden_size)) ** 0.78
    if total_steps < 100:
        rate *= 1.5
    rate = min(2e-3, max(1e-4, rate))
    return float(f"{(rate / 10 if full else rate):.2g}")


def decide_global_batch(asked: int | str, num_rows: int, world_size: int) -> int:
    """Return examples per optimiser step, a multiple of the world size.

    Raises:
        UserError: The asked size does not divide over the ranks.
    """
    if isinstance(asked, int):
        if asked % world_size:
            below, above = asked // world_size * world_size, -(-asked // world_size) * world_size
            near = f"{below} or {above}" if below else str(above)
            raise UserError(
                "InvalidGlobalBatchSize",
                f"hyperparameters.globalBatchSize {asked} does not divide over {world_size} ranks "
                f"(nodes x gpusPerNode); use {near}",
            )
        return asked
    size = 8 if num_rows < 1_000 else 16 if num_rows < 10_000 else 32
    return -(-size // world_size) * world_size


def decide_micro_batch(asked: int | str, per_rank: int, *, longest: int, budget: int) -> int:
    """Return examples per rank and forward pass, a divisor of ``per_rank``.

    Raises:
        UserError: The asked size does not divide the rank's share.
    """
    divisors = [n for n in range(1, per_rank + 1) if per_rank % n == 0]
    if isinstance(asked, int):
        if asked not in divisors:
            raise UserError(
                "InvalidMicroBatchSize",
                f"hyperparameters.microBatchSize {asked} does not divide the {per_rank} examples a "
                f"rank takes per step; use one of {', '.join(map(str, divisors))}",
            )
        return asked
    return max([n for n in divisors if n * longest <= budget], default=1)


def decide_bfloat16(job: ResolvedJob, hardware: Hardware, *, use_gpu: bool) -> bool:
    """Return whether to compute in bfloat16.

    Raises:
        UserError: It was asked for and the device or the strategy cannot.
    """
    asked = job.spec.hyperparameters.precision
    strategy = _asked_strategy(job)
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


def decide_strategy(job: ResolvedJob, *, memory: int, available: int, use_gpu: bool) -> str:
    """Return how ranks share the work.

    Args:
        job: The effective job.
        memory: Estimate of what one rank needs, bytes.
        available: What one rank has, bytes.
        use_gpu: Ranks run on GPUs.

    Raises:
        UserError: FSDP2 on CPU, where accelerate would silently run DDP instead.
    """
    if job.spec.resources.strategy == "FSDP2" and not use_gpu:
        raise UserError(
            "StrategyUnsupported",
            "resources.strategy FSDP2 needs GPUs (on CPU it would silently fall back to DDP); use "
            "DDP or ZeRO2",
        )
    asked = _asked_strategy(job)
    if asked != "Auto":
        return asked
    if use_gpu and memory > 0.9 * available:
        return "FSDP2"
    return "DDP"


def _asked_strategy(job: ResolvedJob) -> str:
    # One rank has nothing to share; DeepSpeed would only add its start-up.
    return job.spec.resources.strategy if job.world_size > 1 else "DDP"


def estimate_memory_bytes(
    model: ModelShape,
    *,
    tokens: int,
    bfloat16: bool,
    full: bool,
    quantized: bool,
    checkpointing: bool,
) -> int:
    """Estimate one rank's memory: weights, optimiser state, activations of one forward pass.

    Activations: 17 values (34 bytes at two bytes each) per token, layer and channel without
    recomputation, 2 values with it.

    Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
    Models", table 2, without the attention term (fused kernels do not store it).
    """
    value_bytes = 2 if bfloat16 else 4
    weights = model.num_parameters * (0.6 if quantized else 4 if full else value_bytes)
    optimizer = model.num_parameters * 12 if full else model.num_parameters * 0.02 * 16
    per_token = (2 if checkpointing else 17) * model.hidden_size * model.num_layers * value_bytes
    return int(weights + optimizer + tokens * per_token)
