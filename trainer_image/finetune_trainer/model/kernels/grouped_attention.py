"""Attention of grouped queries without copies of keys and values.

Transformers repeats the shared heads (Ainslie et al. 2023) before it calls torch. On a CPU with a
long cache these copies take most of a step. Here the heads of a group are further queries of their
shared head: the same result without a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

NAME = "sdpa_grouped"
_UNKNOWN = ("softcap", "position_bias", "cache")
"""Arguments of transformers that only its own attention supports."""


def attend_in_groups(model: PreTrainedModel) -> None:
    """Enable this attention for a model on the CPU with torch's attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu":
        return

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        groups = getattr(module, "num_key_value_groups", 1)
        is_known = all(kwargs.get(name) is None for name in _UNKNOWN) and not kwargs.get("dropout")
        if groups > 1 and is_known and _is_told(query, attention_mask):
            return attend_grouped(
                query, key, value, attention_mask, groups=groups, scaling=kwargs.get("scaling")
            ), None
        attended: Tensor
        attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return attended, None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _is_told(query: Tensor, mask: Tensor | None) -> bool:
    """Whether a mask or a single query defines the visible tokens; else torch does."""
    return query.shape[2] == 1 if mask is None else mask.dim() == 4 and mask.shape[1] == 1


def attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    groups: int,
    scaling: float | None = None,
) -> Tensor:
    """Attend with the query heads of a group as further queries of their shared head.

    Args:
        query: Batch by heads by queries by size; heads that share one are adjacent.
        key: Batch by shared heads by tokens by size.
        value: The same.
        mask: Batch by 1 by queries by tokens; None without a mask.
        groups: Query heads of each shared head.
        scaling: Of the products; None takes one over the root of the size.

    Returns:
        Batch by queries by heads by size.
    """
    from torch.nn import functional

    rows, heads, num_queries, size = query.shape
    attended = functional.scaled_dot_product_attention(
        query.reshape(rows, heads // groups, groups * num_queries, size),
        key,
        value,
        attn_mask=None if mask is None else mask.repeat(1, 1, groups, 1),
        scale=scaling,
    )
    return attended.reshape(rows, heads, num_queries, -1).transpose(1, 2).contiguous()
