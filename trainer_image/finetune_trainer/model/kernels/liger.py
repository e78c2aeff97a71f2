"""Whether Liger's fused kernels are used."""

from __future__ import annotations

from finetune_trainer.errors import UserError


def decide_liger(asked: str, model_type: str, *, use_gpu: bool) -> bool:
    """Return whether to replace norms, rotary positions and gated activations by Liger's.

    ``asked`` is ``hyperparameters.kernels``. Source: Hsu et al. 2024, "Liger Kernel" (arXiv
    2410.10989): exact up to rounding.

    Raises:
        UserError: The job asks for Liger, which is not installed or does not know the architecture.
    """
    if asked == "Off" or not use_gpu:
        return False
    known = list_liger_models()
    if model_type in known:
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
