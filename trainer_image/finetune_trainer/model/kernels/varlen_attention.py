"""Attention of joined examples by their boundaries, with torch's own kernel for GPUs.

A mask over a joined row costs the square of its length. ``torch.nn.attention.varlen`` runs the
FlashAttention kernel of torch's SDPA (Dao 2023, arXiv 2307.08691) on each example alone. TRL's
collator puts the boundaries beside a joined row, and transformers hands them to the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune_trainer.planning.activations import ORDERED_TOKENS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "sdpa_varlen"
"""Transformers checks names with ``sdpa`` in them against what a model supports."""
_UNKNOWN = ("softcap", "position_bias", "cache", "s_aux")
"""Arguments of transformers that the kernel does not compute."""
TOLERANCE = 0.02
"""Largest error of the kernel in bfloat16, as a share of the norm. Rounding alone makes 0.004."""

Kernel = Callable[..., Any]


def register_varlen(kernel: Kernel | None = None) -> None:
    """Make the attention known to transformers; ``kernel`` takes the place of torch's."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface, AttentionMaskInterface

    chosen = kernel or varlen_attn

    def attend(*arguments: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return attend_by_boundaries(*arguments, kernel=chosen, **kwargs)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask_padded)


def mask_padded(
    *, attention_mask: Tensor | None = None, q_length: int, kv_length: int, **kwargs: Any
) -> Tensor | None:
    """Build SDPA's mask where rows are padded or a cache is read; else boundaries serve."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None and q_length == kv_length:
        return None
    mask: Tensor | None = sdpa_mask(
        attention_mask=attention_mask, q_length=q_length, kv_length=kv_length, **kwargs
    )
    return mask


def attend_by_boundaries(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kernel: Kernel,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each example; rows with a mask or a cache go to SDPA.

    Arguments are those of transformers, the boundaries among ``kwargs``. Tensors are rows by heads
    by tokens by size. ``sliding_window`` counts the token itself.

    Raises:
        ValueError: The layer needs what the kernel does not compute.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, tokens, size = query.shape
    if attention_mask is not None or tokens != key.shape[2]:
        attended: Tensor
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    unknown = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if dropout or unknown or value.shape[3] != size:
        needs = unknown[0] if unknown else "dropout" if dropout else "values of another size"
        raise ValueError(f"attention implementation {NAME} does not compute {needs}")
    offsets, longest = _read_boundaries(kwargs, rows, tokens, query.device)
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    flat = [part.transpose(1, 2).flatten(0, 1).to(dtype) for part in (query, key, value)]
    joined = kernel(
        *flat,
        offsets,
        offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        enable_gqa=heads != key.shape[1],
    )
    if rows * tokens <= ORDERED_TOKENS:
        _order_backward(joined)
    return joined.view(rows, tokens, heads, size), None


def _order_backward(joined: Tensor) -> None:
    """Let the kernel add gradients in a fixed order, so that a run that resumes gives the same.

    FlashAttention has such a backward pass, and torch takes it where algorithms have to be
    deterministic. The switch is of the process, and other operations have no such way. So it is on
    for this one operation. Compiled code has no graph to hook into. Rows longer than
    ``ORDERED_TOKENS`` do without: the order takes memory by their length.
    """
    import torch

    node = joined.grad_fn
    if node is not None and not torch.compiler.is_compiling():
        node.register_prehook(lambda _: torch.use_deterministic_algorithms(True))
        node.register_hook(lambda *_: torch.use_deterministic_algorithms(False))


def _read_boundaries(
    kwargs: Mapping[str, Any], rows: int, tokens: int, device: torch.device
) -> tuple[Tensor, int]:
    """Return where examples begin, with the end, and the longest one's tokens."""
    import torch

    offsets, longest = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q")
    if offsets is not None and longest is not None:
        return offsets.to(device), int(longest)
    positions = kwargs.get("position_ids")
    if positions is None:
        return torch.arange(0, rows * tokens + 1, tokens, dtype=torch.int32, device=device), tokens
    starts = (positions.expand(rows, tokens).flatten() == 0).nonzero().flatten()
    offsets = torch.nn.functional.pad(starts, (0, 1), value=rows * tokens).to(torch.int32)
    return offsets, int(offsets.diff().max())


def attend_one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    _offsets: Tensor,
    _longest: int,
    _longest_key: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, 0),
    enable_gqa: bool = False,
) -> Tensor:
    """Compute what the kernel computes, by SDPA with a mask on one example after the other."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    found = []
    for start, end in pairwise(offsets.tolist()):
        length = end - start
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        if window_size[0] >= 0:
            mask = mask.triu(-window_size[0])
        q, k, v = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        one = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        found.append(one[0].transpose(0, 1))
    return torch.cat(found)


def find_fault(
    heads: int, kv_heads: int, size: int, *, device: str = "cuda", kernel: Kernel | None = None
) -> str:
    """Compare the kernel with plain attention here, both ways; return what is wrong, else nothing.

    A GPU of another generation, or another torch, may lack the kernel.

    Raises:
        torch.OutOfMemoryError: The device is full, which says nothing of the kernel.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.varlen import varlen_attn

    lengths = [5, 1, 130]
    noise = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    shapes = [(sum(lengths), n, size) for n in (heads, kv_heads, kv_heads, heads)]
    parts = [torch.randn(shape, generator=noise).to(device, torch.bfloat16) for shape in shapes]

    def compute(chosen: Kernel, window: int) -> list[Tensor]:
        inputs = [part.clone().requires_grad_() for part in parts[:3]]
        bounds = (offsets, offsets, max(lengths), max(lengths))
        out = chosen(*inputs, *bounds, window_size=(window, 0), enable_gqa=heads != kv_heads)
        return [out.detach(), *torch.autograd.grad(out, inputs, parts[3])]

    for window in (-1, 15):
        try:
            ours = compute(kernel or varlen_attn, window)
            with sdpa_kernel(SDPBackend.MATH):  # no fused kernel judges another
                plain = compute(attend_one_by_one, window)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first, _, _ = str(error).strip().partition("\n")
            return f"torch's kernel does not run here: {first}"
        for one, other in zip(ours, plain, strict=True):
            share = float((one.float() - other.float()).norm() / other.float().norm())
            if not share <= TOLERANCE:
                return f"torch's kernel is off by {share:.2g} here"
    return ""
