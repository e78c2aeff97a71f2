"""Decides the learning rate of a run. Pure.

5e-4 x (2000 / hidden size)^0.78, 1.5 times that below 100 steps, between 1e-4 and 2e-3. Qwen has
the exponent 0.0775. ``Full`` and preferences (DPO, KTO, ORPO) take a tenth. With LoRA+ it is the
geometric mean of the rates of A and B. Source: "LoRA Without Regret", Schulman et al. 2025; the
exponents are those of Llama and Qwen in ``tinker_cookbook.hyperparam_utils.get_lr``. Other families
take Llama's.

The rule holds for scale x rank = 32 (LoRA's alpha, RsLoRA's alpha x sqrt(rank)). Another strength
divides the rate accordingly; a weaker one raises it at most twofold, because A moves by the rate at
any scale.
"""

from __future__ import annotations

import math

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.planning.architecture import Architecture

REFERENCE_STRENGTH = 32
"""Scale x rank of the default adapter, which the rule of the learning rate was made for."""


def choose_rate(job: ResolvedJob, model: Architecture, total_steps: int) -> float:
    """Return the job's rate, or the rule's; ``total_steps`` are of the whole run."""
    hyper, method = job.spec.hyperparameters, job.spec.method
    return decide_learning_rate(
        hyper.learning_rate,
        model,
        total_steps,
        method.adapter,
        lora_plus_ratio=float(hyper.lora_plus_ratio or 1),
        learns_preferences=method.objective != "SFT",
    )


def decide_learning_rate(
    asked: str,
    model: Architecture,
    total_steps: int,
    adapter: Adapter,
    *,
    lora_plus_ratio: float = 1.0,
    learns_preferences: bool = False,
) -> float:
    """Return the asked rate, or the rule's; with LoRA+ the geometric mean of A and B."""
    if asked != "auto":
        return float(asked)
    rate = 5e-4 * (2000 / max(1, model.hidden_size)) ** exponent_of(model)
    if total_steps < 100:
        rate *= 1.5
    rate = min(2e-3, max(1e-4, rate))
    if adapter.type == "Full":
        return float(f"{rate / 10:.2g}")
    rate /= math.sqrt(lora_plus_ratio) * (10 if learns_preferences else 1)
    return float(f"{rate * min(2.0, REFERENCE_STRENGTH / adapter_strength(adapter)):.2g}")


def exponent_of(model: Architecture) -> float:
    """Return how fast the rate falls with the hidden size."""
    return 0.0775 if model.model_type.startswith("qwen") else 0.78


def adapter_strength(adapter: Adapter) -> float:
    """Return scale x rank: how far one step of a given rate moves the adapter's output."""
    if adapter.type == "RsLoRA":
        return float(adapter.alpha * math.sqrt(adapter.rank))
    return float(adapter.alpha)
