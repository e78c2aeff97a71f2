"""Liger's fused kernels: whether they are used, and putting them into a model."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from finetune_trainer.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKED_FAMILIES = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite",
     "smollm3", "olmo2", "exaone4", "mixtral", "qwen3_moe")
)  # fmt: skip
"""Families of which logits and gradients with Liger 0.8.5 were compared with the model's own.

They agree within 2e-6 in float32, under Triton's interpreter, on joined rows.
"""
MIXTURES = frozenset(("mixtral", "qwen3_moe"))
"""Of them, those whose experts stay their own: Liger's do not run under the interpreter."""
_PARTLY = frozenset(("olmo2",))
"""Families of which Liger leaves some norms alone."""


def decide_liger(asked: str, model_type: str, *, use_gpu: bool) -> bool:
    """Return whether to replace norms, rotary positions and gated activations by Liger's.

    ``asked`` is ``hyperparameters.kernels``; ``Auto`` takes families that were checked. Source: Hsu
    et al. 2024, "Liger Kernel" (arXiv 2410.10989): exact up to rounding.

    Raises:
        UserError: The job asks for Liger, which is not installed or does not know the architecture.
    """
    if asked == "Off" or not use_gpu:
        return False
    known = list_liger_models()
    if model_type in known and (asked == "Liger" or model_type in CHECKED_FAMILIES):
        return True
    if asked == "Liger":
        why = f"it knows {', '.join(sorted(known))}" if known else "liger-kernel is not installed"
        raise UserError(
            "KernelsUnsupported",
            f"hyperparameters.kernels Liger: no kernels for {model_type}: {why}; use Auto or Off, "
            "or a trainer image with a liger-kernel that knows the architecture",
        )
    return False


def list_liger_models() -> frozenset[str]:
    """Return the model types that the installed Liger knows; none where it is not installed."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError:
        return frozenset()
    return frozenset(MODEL_TYPE_TO_APPLY_LIGER_FN)


def apply_liger(model: PreTrainedModel) -> None:
    """Replace norms, rotary positions and gated activations of a loaded model in place.

    The losses stay ours: Liger's fused cross entropy would replace the forward pass in which TRL
    computes the loss in chunks, without whole logits. TRL's own switch for Liger does the same as
    this function, for supervised training only, and is deprecated.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    experts = {"swiglu": False} if model.config.model_type in MIXTURES else {}
    _apply_liger_kernel_to_instance(
        model=model, cross_entropy=False, fused_linear_cross_entropy=False, **experts
    )


def expects_liger(asked: str, model_type: str, *, use_gpu: bool) -> bool:
    """Whether the planner counts on Liger's savings; imports neither Liger nor torch."""
    is_counted = model_type in CHECKED_FAMILIES - _PARTLY
    is_there = importlib.util.find_spec("liger_kernel") is not None
    return asked != "Off" and use_gpu and is_counted and is_there
