"""Attention implementations in the order of trial.

Pure. Only loading a model shows whether it supports one.
"""

from __future__ import annotations

from dataclasses import dataclass

FLASH = "flash_attention_2"
NAMES = {"Flash": FLASH, "Flex": "flex_attention", "SDPA": "sdpa", "Eager": "eager"}
"""Names in the API and in transformers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSupport:
    """Attention support of this process.

    FlashAttention needs its package, a GPU and bfloat16 (``is_half_precision``).
    """

    has_gpu: bool
    has_flash: bool
    is_half_precision: bool


def list_attention(asked: str, support: AttentionSupport) -> tuple[str, ...]:
    """Return transformers' names of the implementations to try, best first.

    ``Auto`` leaves flex attention out: it compiles for every new shape.
    """
    if asked != "Auto":
        return (NAMES[asked],)
    fastest = (FLASH,) if _can_flash(support) else ()
    return (*fastest, "sdpa", "eager")


def explain_missing(asked: str, support: AttentionSupport) -> str | None:
    """Return why an asked implementation cannot run here at all; None where it can."""
    if asked == "Flash" and not _can_flash(support):
        if not support.has_gpu:
            return "FlashAttention needs a GPU"
        if not support.has_flash:
            return "the package flash-attn is not installed in the trainer image"
        return "FlashAttention computes in bfloat16 only, and the base is held in float32"
    if asked == "Flex" and not support.has_gpu:
        return "flex attention trains on GPUs only"
    return None


def _can_flash(support: AttentionSupport) -> bool:
    return support.has_gpu and support.has_flash and support.is_half_precision
