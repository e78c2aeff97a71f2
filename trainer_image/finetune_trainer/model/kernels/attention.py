"""Attention implementations in the order of trial.

Pure. Only loading a model shows whether it supports one.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.model.kernels.varlen_attention import NAME as VARLEN
from finetune_trainer.planning.architecture import Architecture

FLASH = "flash_attention_2"
NAMES = {
    "Flash": FLASH,
    "Varlen": VARLEN,
    "Flex": "flex_attention",
    "SDPA": "sdpa",
    "Eager": "eager",
}
"""Names in the API and in transformers."""
VARLEN_FAMILIES = frozenset(
    ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma3_text", "phi3",
     "granite", "smollm3", "olmo2")
)  # fmt: skip
"""Families of which tests show that attention by boundaries computes what SDPA does."""
LARGEST_HEAD = 256
"""Widest head of torch's FlashAttention kernel; widths are multiples of 8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSupport:
    """Attention support of this process.

    FlashAttention needs its package, a GPU and computation in bfloat16 (``is_half_precision``),
    whatever type the weights are stored in. ``joins_rows``: rows are joined without padding.
    ``varlen_fault`` says why attention by boundaries cannot run; empty where it can.
    """

    has_gpu: bool
    has_flash: bool
    is_half_precision: bool
    joins_rows: bool = False
    varlen_fault: str = ""


def list_attention(asked: str, support: AttentionSupport) -> tuple[str, ...]:
    """Return transformers' names of the implementations to try, best first.

    ``Auto`` leaves flex attention out: it compiles for every new shape. Attention by boundaries
    pays only where rows are joined.
    """
    if asked != "Auto":
        return (NAMES[asked],)
    fastest: tuple[str, ...] = (FLASH,) if _can_flash(support) else ()
    if support.joins_rows and explain_missing("Varlen", support) is None:
        fastest += (VARLEN,)
    return (*fastest, "sdpa", "eager")


def explain_missing(asked: str, support: AttentionSupport) -> str | None:
    """Return why an asked implementation cannot run here at all; None where it can."""
    if asked == "Flash" and not _can_flash(support):
        if not support.has_gpu:
            return "FlashAttention needs a GPU"
        if not support.has_flash:
            return "the package flash-attn is not installed in the trainer image"
        return "FlashAttention computes in bfloat16 only, and this run in float32"
    if asked == "Flex" and not support.has_gpu:
        return "flex attention trains on GPUs only"
    if asked == "Varlen":
        if not support.has_gpu:
            return "attention by boundaries needs a GPU"
        if not support.is_half_precision:
            return "attention by boundaries computes in bfloat16 only, and this run in float32"
        return support.varlen_fault or None
    return None


def explain_varlen(model: Architecture) -> str:
    """Return why attention by boundaries does not suit a model; empty if it does."""
    if model.model_type not in VARLEN_FAMILIES:
        known = ", ".join(sorted(VARLEN_FAMILIES))
        return f"it is not tested for {model.model_type}, but for {known}"
    if model.attention_dropout:
        return "its kernel has no dropout, and the model's attention has"
    if model.head_dim > LARGEST_HEAD or model.head_dim % 8:
        return (
            f"its kernel takes heads of up to {LARGEST_HEAD} channels in multiples of 8, and the "
            f"model's have {model.head_dim}"
        )
    return ""


def _can_flash(support: AttentionSupport) -> bool:
    return support.has_gpu and support.has_flash and support.is_half_precision
