"""Estimates time and cost of a run from floating-point operations.

Peaks are the vendors' dense bfloat16 figures. :data:`EFFICIENCY`, the share that training reaches,
is an assumption, stated with the result; a measured ``tokens_per_second`` replaces it. A generated
token waits for the launches of all layers, or for the weights, whichever is slower.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from finetune_api.protocol.trainer import GPUKind
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.memory import count_adapter, weight_bytes_of
from finetune_trainer.planning.setup import Setup

GIB = 2**30
EFFICIENCY = 0.35
"""Share of the peak in use. Public LoRA figures for 8B models on an H100 lie at 0.3 to 0.45."""
HALF_FULL_TOKENS = 1024
"""Tokens of a forward pass at which half of that is reached: below, launches take over."""
SHARDING = 0.8
"""Share of the speed that remains when every pass fetches weights from other GPUs."""
CPU_CORE_FLOPS = {2: 9e10, 4: 5e10}
"""Per core by bytes of a value; SmolLM2-135M was measured at 323 and 200 tokens/s on two."""
CPU_BANDWIDTH = 1e10
"""Bytes that a CPU reads per second while it generates."""
LAUNCH_SECONDS = 8e-4
"""What a layer of PyTorch code takes to be launched, however little there is to compute: an
assumption, from some 25 ms that a token of an 8B model of 32 layers takes on an H100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GPU:
    """A kind of GPU.

    Attributes:
        name: For people.
        memory: Bytes that its driver shows.
        flops: Dense bfloat16 peak per second.
        bandwidth: Peak bytes read from its memory per second.
        bfloat16: Computes in bfloat16.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    bfloat16: bool = True


GPUS: dict[GPUKind, GPU] = {
    "h100": GPU(name="H100 SXM 80 GB", memory=int(79.1 * GIB), flops=989e12, bandwidth=3350e9),
    "h100-pcie": GPU(
        name="H100 PCIe 80 GB", memory=int(79.1 * GIB), flops=756e12, bandwidth=2000e9
    ),
    "h200": GPU(name="H200 141 GB", memory=int(139.7 * GIB), flops=989e12, bandwidth=4800e9),
    "b200": GPU(name="B200 180 GB", memory=int(178.0 * GIB), flops=2250e12, bandwidth=8000e9),
    "a100-80": GPU(name="A100 80 GB", memory=int(79.1 * GIB), flops=312e12, bandwidth=2039e9),
    "a100-40": GPU(name="A100 40 GB", memory=int(39.4 * GIB), flops=312e12, bandwidth=1555e9),
    "l40s": GPU(name="L40S 48 GB", memory=int(44.3 * GIB), flops=362e12, bandwidth=864e9),
    "a10g": GPU(name="A10G 24 GB", memory=int(22.0 * GIB), flops=125e12, bandwidth=600e9),
    "l4": GPU(name="L4 24 GB", memory=int(22.0 * GIB), flops=121e12, bandwidth=300e9),
    "rtx4090": GPU(name="RTX 4090 24 GB", memory=int(23.5 * GIB), flops=165e12, bandwidth=1008e9),
    "t4": GPU(name="T4 16 GB", memory=int(14.6 * GIB), flops=8e12, bandwidth=320e9, bfloat16=False),
}
"""Vendors' data sheets; a T4 has no bfloat16 and computes in float32."""


_SHARED = frozenset(("mig", "shared"))
"""In a node's label: a pod gets part of a GPU."""


def find_gpu(words: str) -> GPU | None:
    """Return the GPU of a name, or None if it is unknown or a part of one.

    A name is ours in any case, or a driver's or node label's, such as ``nvidia-tesla-t4``.
    """
    parts = frozenset(re.split(r"[^a-z0-9]+", words.lower()))
    if parts & _SHARED:
        return None
    found: GPUKind | None = None
    if "h100" in parts:
        found = "h100-pcie" if "pcie" in parts else "h100"
    elif "a100" in parts:
        found = "a100-80" if parts & {"80", "80gb"} else "a100-40"
    elif {"rtx", "4090"} <= parts:
        found = "rtx4090"
    else:
        found = next((kind for kind in GPUS if kind in parts), None)
    return GPUS[found] if found else None


def flops_per_token(model: Architecture, setup: Setup, mean_tokens: float) -> float:
    """Floating-point operations of one token's forward and backward pass.

    4 per weight for an adapter, else 6; recomputation adds a forward pass, causal attention 6 x
    layers x length x width.
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

    ``peak_flops`` is of one rank's device; ``tokens_per_pass`` of one rank's forward pass.
    """
    share = 1.0
    if setup.use_gpu:
        share = EFFICIENCY * tokens_per_pass / (tokens_per_pass + HALF_FULL_TOKENS)
        share *= SHARDING if setup.strategy in ("FSDP2", "ZeRO3") else 1.0
    speed = peak_flops * share / flops_per_token(model, setup, mean_tokens)
    return speed * setup.world_size


def cpu_flops(setup: Setup, num_cpus: int) -> float:
    """Return the measured operations per second of a rank's share of the cores."""
    return CPU_CORE_FLOPS[setup.value_bytes] * num_cpus / setup.world_size


def answering_seconds(
    model: Architecture,
    setup: Setup,
    *,
    flops: float,
    bandwidth: float,
    num_questions: int,
    rows: int,
    prompt_tokens: float,
    answer_tokens: float,
) -> float:
    """Estimate how long one worker takes to read questions and generate their answers.

    Args:
        model: The base model.
        setup: How it was trained, and is loaded.
        flops: The worker's peak per second.
        bandwidth: Bytes read from memory per second.
        num_questions: Its questions.
        rows: Questions answered together.
        prompt_tokens: Mean length of a question.
        answer_tokens: Length of the longest answer of a batch.
    """
    per_token = 2 * model.num_active_parameters
    reading = num_questions * (prompt_tokens + answer_tokens) * per_token / flops
    together = min(rows, num_questions)
    step = max(weight_bytes_of(model, setup) / bandwidth, together * per_token / flops)
    if setup.use_gpu:
        step = max(step, model.num_layers * LAUNCH_SECONDS)
    return reading + math.ceil(num_questions / together) * answer_tokens * step
