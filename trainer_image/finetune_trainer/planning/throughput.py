"""How long a run takes and what it costs: an estimate from floating-point operations.

Peaks are the vendors' dense bfloat16 figures. The share of them that training reaches is an
assumption, stated with the result: :data:`EFFICIENCY` for forward passes that fill the device, less
for short ones. A measurement beats it: ``tokens_per_second`` of a first run.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.memory import count_adapter
from finetune_trainer.planning.setup import Setup

GIB = 2**30
EFFICIENCY = 0.35
"""Share of the peak in use. Public LoRA figures for 8B models on an H100 lie at 0.3 to 0.45."""
HALF_FULL_TOKENS = 1024
"""Tokens of a forward pass at which half of that is reached: below, launches take over."""
SHARDING = 0.8
"""What is left when weights are fetched from other GPUs in every pass."""
CPU_CORE_FLOPS = {2: 9e10, 4: 5e10}
"""Per core by bytes of a value; SmolLM2-135M was measured at 323 and 200 tokens/s on two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GPU:
    """A kind of GPU.

    Attributes:
        name: As people say it.
        memory: Bytes that its driver shows.
        flops: Dense bfloat16 peak per second.
        bfloat16: Computes in bfloat16.
    """

    name: str
    memory: int
    flops: float
    bfloat16: bool = True


GPUS = {
    "h100": GPU(name="H100 SXM 80 GB", memory=int(79.1 * GIB), flops=989e12),
    "h100-pcie": GPU(name="H100 PCIe 80 GB", memory=int(79.1 * GIB), flops=756e12),
    "h200": GPU(name="H200 141 GB", memory=int(139.7 * GIB), flops=989e12),
    "b200": GPU(name="B200 180 GB", memory=int(178.0 * GIB), flops=2250e12),
    "a100-80": GPU(name="A100 80 GB", memory=int(79.1 * GIB), flops=312e12),
    "a100-40": GPU(name="A100 40 GB", memory=int(39.4 * GIB), flops=312e12),
    "l40s": GPU(name="L40S 48 GB", memory=int(44.3 * GIB), flops=362e12),
    "a10g": GPU(name="A10G 24 GB", memory=int(22.0 * GIB), flops=125e12),
    "l4": GPU(name="L4 24 GB", memory=int(22.0 * GIB), flops=121e12),
    "rtx4090": GPU(name="RTX 4090 24 GB", memory=int(23.5 * GIB), flops=165e12),
    "t4": GPU(name="T4 16 GB", memory=int(14.6 * GIB), flops=8e12, bfloat16=False),
}
"""Vendors' data sheets; a T4 has no bfloat16 and computes in float32."""


def flops_per_token(model: Architecture, setup: Setup, mean_tokens: float) -> float:
    """Floating-point operations of one token's forward and backward pass.

    An adapter needs no gradient of frozen weights: 4 per weight instead of 6. Recomputation adds a
    forward pass. Causal attention adds 6 x layers x length x width.
    """
    per_weight = (6 if setup.is_full else 4) + (2 if setup.checkpointing else 0)
    attention = 6 * model.num_layers * mean_tokens * model.query_width
    own = 0 if setup.is_full else 6 * count_adapter(model, setup)
    return per_weight * model.num_active_parameters + attention + own


def tokens_per_second(
    model: Architecture,
    setup: Setup,
    *,
    peak_flops: float,
    mean_tokens: float,
    tokens_per_pass: float,
) -> float:
    """Estimate trained tokens per second over all ranks.

    Args:
        model: The base model.
        setup: How it is trained.
        peak_flops: Of one rank's device.
        mean_tokens: Mean length of an example.
        tokens_per_pass: Tokens of one rank's forward pass.
    """
    share = 1.0
    if setup.use_gpu:
        share = EFFICIENCY * tokens_per_pass / (tokens_per_pass + HALF_FULL_TOKENS)
        share *= SHARDING if setup.strategy in ("FSDP2", "ZeRO3") else 1.0
    speed = peak_flops * share / flops_per_token(model, setup, mean_tokens)
    return speed * setup.world_size


def cpu_flops(setup: Setup, num_cpus: int) -> float:
    """Return what a rank's share of the cores computes per second, as measured, not as a peak."""
    return CPU_CORE_FLOPS[setup.value_bytes] * num_cpus / setup.world_size
