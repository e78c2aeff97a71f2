"""Chooses micro batch, checkpointing and strategy so that a run fits, at the least cost of speed.

Of all ways that fit, the one that :mod:`finetune_trainer.planning.throughput` estimates as fastest
is taken; of equal ones that with whole weights, without recomputation and with the larger micro
batch. A micro batch has a fixed number of examples, because TRL divides an epoch before it sees
lengths. The token budget bounds it from mean and longest length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_trainer.errors import UserError
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.experts import reaches_experts
from finetune_trainer.planning.memory import Memory, estimate_training
from finetune_trainer.planning.setup import Batch, Setup
from finetune_trainer.planning.throughput import tokens_per_second

CPU_TOKENS_PER_FORWARD = 2048
GPU_TOKENS_PER_FORWARD = 16384
COMFORT = 0.85
"""Share of the memory that an automatic choice may fill: batches and allocators vary."""
DOUBT = 1.15
"""Largest factor by which the estimate has been seen above the measurement. Only what cannot fit
even then is refused."""
PADDING_FREE_TOKENS = 4096
"""Longest flattened row for which SDPA's block-diagonal mask is cheaper than padding."""
SIGMAS = 6
LIGHTER_OPTIMIZERS = ("AdamW8bit", "Adafactor")
"""Optimisers by the memory that they need, less than AdamW and falling."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Lengths of a run's examples, in tokens after truncation.

    Attributes:
        mean: Of all examples.
        longest: The longest.
        deviation: Their standard deviation; None assumes the worst of every batch.
        row_limit: Length of a packed row, or None if rows are not packed.
    """

    mean: float
    longest: int
    deviation: float | None = None
    row_limit: int | None = None

    @property
    def largest_row(self) -> int:
        """Tokens of the largest row that a batch may hold."""
        return self.row_limit or self.longest


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The settings that the job fixes; None where it says ``auto``.

    Attributes:
        micro: Examples per forward pass.
        max_micro: Most examples per forward pass, also over ``micro``.
        checkpointing: Whether activations are recomputed.
        strategy: How ranks share the work.
        padding_free: False where the job wants padding; packed rows are always padding-free.
    """

    micro: int | None = None
    max_micro: int | None = None
    checkpointing: bool | None = None
    strategy: str | None = None
    padding_free: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The choice, and its memory of one rank at its peak; ``available`` is in bytes."""

    micro: int
    setup: Setup
    memory: Memory
    available: int

    @property
    def is_tight(self) -> bool:
        """Whether it fills more than an automatic choice may."""
        return self.memory.total > COMFORT * self.available


def find_fit(
    model: Architecture,
    setup: Setup,
    asked: Asked,
    lengths: Lengths,
    *,
    per_rank: int,
    available: int,
) -> Fit:
    """Choose the fastest way to train that fits one rank's memory.

    Args:
        model: The base model.
        setup: What the job fixes of the training.
        asked: Settings that the job fixes.
        lengths: Of the training examples.
        per_rank: Examples of a rank per optimiser step.
        available: Memory of one rank, bytes.

    Raises:
        UserError: Nothing fits; the message says what would.
    """
    fit = _choose(model, setup, asked, lengths, per_rank=per_rank, available=available)
    if fit.memory.total <= DOUBT * available:
        return fit
    lighter = _find_lighter_optimizer(model, fit, asked, lengths, per_rank=per_rank)
    raise UserError("ModelDoesNotFit", _explain(model, fit, asked, lengths, lighter=lighter))


def _choose(
    model: Architecture,
    setup: Setup,
    asked: Asked,
    lengths: Lengths,
    *,
    per_rank: int,
    available: int,
) -> Fit:
    """Return the fastest way that leaves room, else the one that needs the least memory."""
    fastest: tuple[float, Fit] | None = None
    smallest: Fit | None = None
    for micro, tried in _candidates(setup, asked, lengths, per_rank):
        memory = estimate_training(model, tried, largest_batch(micro, tried, lengths))
        fit = Fit(micro=micro, setup=tried, memory=memory, available=available)
        if not fit.is_tight:
            speed = _relative_speed(model, tried, lengths, micro)
            if fastest is None or speed > fastest[0]:
                fastest = speed, fit
        if smallest is None or memory.total < smallest.memory.total:
            smallest = fit
    assert smallest is not None
    return smallest if fastest is None else fastest[1]


def _relative_speed(model: Architecture, setup: Setup, lengths: Lengths, micro: int) -> float:
    """Return the estimated tokens per second, in units of the device's peak.

    Choices of one run compare alike on every device.
    """
    row = lengths.row_limit or lengths.mean
    return tokens_per_second(
        model, setup, peak_flops=1.0, mean_tokens=lengths.mean, tokens_per_pass=micro * row
    )


def _find_lighter_optimizer(
    model: Architecture, fit: Fit, asked: Asked, lengths: Lengths, *, per_rank: int
) -> str:
    """Return the optimiser by which all weights could be trained; empty if there is none."""
    if not fit.setup.is_full or asked.strategy not in (None, "DDP"):
        return ""
    free = replace(asked, micro=None, checkpointing=None, strategy="DDP")
    for name in LIGHTER_OPTIMIZERS:
        tried = replace(fit.setup, optimizer=name)
        chosen = _choose(model, tried, free, lengths, per_rank=per_rank, available=fit.available)
        if not chosen.is_tight:
            return name
    return ""


def largest_batch(micro: int, setup: Setup, lengths: Lengths) -> Batch:
    """Return the largest expected micro batch of a run.

    Padded, every row is as long as the longest. Padding-free, it is six deviations above the mean
    and one row more.
    """
    row = lengths.largest_row
    tokens = micro * row
    if setup.padding_free and lengths.row_limit is None and lengths.deviation is not None:
        likely = micro * lengths.mean + SIGMAS * lengths.deviation * math.sqrt(micro) + row
        tokens = min(tokens, math.ceil(likely))
    return Batch(rows=micro, longest=row, tokens=tokens)


def _candidates(
    setup: Setup, asked: Asked, lengths: Lengths, per_rank: int
) -> Iterator[tuple[int, Setup]]:
    strategies = [asked.strategy] if asked.strategy else ["DDP"]
    if asked.strategy is None and setup.use_gpu and setup.world_size > 1:
        # Weights in 4 bits are placed whole on each GPU when they are loaded.
        is_shardable = setup.adapter != "QLoRA" and setup.optimizer == "AdamW"
        strategies += ["FSDP2"] if is_shardable else []
    recomputing = [False, True] if asked.checkpointing is None else [asked.checkpointing]
    for strategy, num_replicas in _shardings(setup, strategies):
        for checkpointing in recomputing:
            for micro in _micro_batches(setup, asked, lengths, per_rank):
                yield (
                    micro,
                    replace(
                        setup,
                        strategy=strategy,
                        num_replicas=num_replicas,
                        checkpointing=checkpointing,
                        accumulation=per_rank > micro,
                        padding_free=_is_padding_free(setup, asked, lengths, micro),
                    ),
                )


def _shardings(setup: Setup, strategies: list[str]) -> Iterator[tuple[str, int]]:
    """List strategies with the copies of the weights, the one that exchanges least first.

    A copy per node keeps the weights' gathering inside nodes, where links are fastest.
    """
    for strategy in strategies:
        if strategy == "FSDP2" and 1 < setup.num_nodes < setup.world_size:
            yield strategy, setup.num_nodes
        yield strategy, 1


def _micro_batches(setup: Setup, asked: Asked, lengths: Lengths, per_rank: int) -> list[int]:
    """List divisors of the rank's share within the token budget, from the largest."""
    if asked.micro is not None:
        most = min(asked.micro, asked.max_micro or asked.micro)
        return [next(n for n in range(most, 0, -1) if per_rank % n == 0)]
    budget = GPU_TOKENS_PER_FORWARD if setup.use_gpu else CPU_TOKENS_PER_FORWARD
    fitting = [
        n
        for n in range(per_rank, 0, -1)
        if per_rank % n == 0
        and n <= (asked.max_micro or n)
        and n * _row_in_budget(setup, asked, lengths, n) <= budget
    ]
    return fitting or [1]


def _row_in_budget(setup: Setup, asked: Asked, lengths: Lengths, micro: int) -> float:
    """Tokens that an example costs in the budget: its own without padding, else the longest.

    On CPUs always the longest.
    """
    is_mean = (
        setup.use_gpu
        and lengths.row_limit is None
        and _is_padding_free(setup, asked, lengths, micro)
    )
    return lengths.mean if is_mean else lengths.largest_row


def _is_padding_free(setup: Setup, asked: Asked, lengths: Lengths, micro: int) -> bool:
    if lengths.row_limit is not None or asked.padding_free is False:
        return lengths.row_limit is not None
    return setup.attention == "flash" or micro * lengths.mean <= PADDING_FREE_TOKENS


def _explain(model: Architecture, fit: Fit, asked: Asked, lengths: Lengths, *, lighter: str) -> str:
    memory, setup = fit.memory, fit.setup
    parts = ", ".join(
        f"{name} {value / GIB:.1f}"
        for name, value in memory.to_json().items()
        if name != "total" and value >= 0.05 * GIB
    )
    device = "GPU" if setup.use_gpu else "process"
    remedies = _remedies(model, fit, asked, lengths, lighter=lighter)
    return (
        f"the model ({model.num_parameters / 1e9:.1f} billion parameters) does not fit: at "
        f"microBatchSize {fit.micro}, rows of {lengths.largest_row} tokens and {setup.strategy} "
        f"with activation checkpointing {'on' if setup.checkpointing else 'off'} one {device} "
        f"needs about {memory.total / GIB:.1f} GiB ({parts}) and has "
        f"{fit.available / GIB:.1f} GiB; {'; or '.join(remedies)}"
    )


def _remedies(
    model: Architecture, fit: Fit, asked: Asked, lengths: Lengths, *, lighter: str
) -> list[str]:
    """List changes of the job, each tried on the estimate, that would make it fit."""
    setup, found = fit.setup, []

    def fits(changed: Setup, row: int = 0, micro: int = 1) -> bool:
        shorter = replace(lengths, longest=row or lengths.longest, row_limit=None)
        need = estimate_training(model, changed, largest_batch(micro, changed, shorter))
        return need.total <= COMFORT * fit.available

    if asked.micro is not None and asked.micro > 1 and fits(setup):
        found.append("set hyperparameters.microBatchSize: auto")
    if not setup.checkpointing and fits(replace(setup, checkpointing=True)):
        found.append("set hyperparameters.activationCheckpointing: Auto")
    if lighter:
        fixes = asked.micro is not None or asked.checkpointing is False
        rest = ", and leave microBatchSize and activationCheckpointing to us" if fixes else ""
        found.append(f"set hyperparameters.optimizer: {lighter}{rest}")
    small = replace(setup, checkpointing=True)
    adapts_experts = not setup.is_full and reaches_experts(model.model_type, setup.targets)
    attention = model.attention_names
    # Adapters of attention may drop inputs, which those of experts cannot.
    if adapts_experts and fits(replace(small, targets=attention, dropout=True)):
        names = ", ".join(attention)
        found.append(f"leave the experts out (method.adapter.targetModules [{names}])")
    if setup.is_full and fits(replace(small, adapter="LoRA")):
        found.append("train an adapter (method.adapter.type LoRA) instead of all weights")
    if setup.use_gpu and setup.adapter != "QLoRA" and setup.strategy in ("DDP", "FSDP2"):
        quantized = replace(small, adapter="QLoRA", strategy="DDP", rank=min(setup.rank, 64))
        if fits(quantized):
            found.append("keep the base in 4 bits (method.adapter.type QLoRA)")
    if setup.use_gpu and setup.adapter != "QLoRA":
        for ranks in (2, 4, 8, 16, 32, 64, 128, 256):
            if ranks > setup.world_size and fits(
                replace(small, strategy="FSDP2", optimizer="AdamW", world_size=ranks)
            ):
                other = "" if setup.optimizer == "AdamW" else " and optimizer AdamW"
                found.append(
                    f"give it {ranks} such GPUs (resources.gpusPerNode, nodes) with FSDP2{other}"
                )
                break
    row = lengths.largest_row // 2
    while row >= 64 and not fits(small, row=row):
        row //= 2
    if row >= 64:
        shorter = 2 ** int(math.log2(row))
        found.append(f"shorten the rows (hyperparameters.maxSequenceLength {shorter})")
    return found or ["take a smaller model, or GPUs with more memory"]
