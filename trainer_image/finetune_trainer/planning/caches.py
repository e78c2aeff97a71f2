"""The generation cache, counted from ``config.json``.

Attention keeps keys and values of every token, or of a window; latent attention (DeepSeek) keeps
the compressed values; other layers keep a state of fixed size. Source: transformers,
``cache_utils.DynamicCache``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STATE_SPACE = frozenset(("mamba", "mamba2", "falcon_mamba", "xlstm", "rwkv"))
"""Families without any attention."""
_BOTH = frozenset(("falcon_h1",))
"""Families whose every layer has attention and a state."""
_FULL = frozenset(("full_attention", "attention", "hybrid"))
_SLIDING = frozenset(("sliding_attention", "chunked_attention", "local_attention"))
_STATES = frozenset(("linear_attention", "mamba", "conv", "recurrent", "hybrid"))
_MIXED_WINDOWS = frozenset(("gemma2", "gemma3", "gemma3_text", "cohere2"))
"""Families of which only some layers have the window, where the file does not say which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheShape:
    """The cache of one conversation.

    Attributes:
        full_layers: Layers that keep all tokens.
        sliding_layers: Layers that keep the last ones.
        window: Of those layers, in tokens, without the current one.
        token_values: Values of one token in such a layer, keys and values together.
        state_layers: Layers with a state of fixed size.
        recurrent_values: Values of that state, mostly float32.
        conv_values: Values of the convolution's last inputs.
    """

    full_layers: int = 0
    sliding_layers: int = 0
    window: int = 0
    token_values: int = 0
    state_layers: int = 0
    recurrent_values: int = 0
    conv_values: int = 0

    def num_bytes(self, tokens: int, value_bytes: int, *, read: int = 1) -> int:
        """Return the bytes of one conversation of so many tokens.

        ``read`` tokens were read last: a layer with a window keeps these, and the window of the
        first.
        """
        in_window = min(tokens, max(0, self.window - 1) + read - 1)
        kept = self.full_layers * tokens + self.sliding_layers * in_window
        states = 4 * self.recurrent_values + value_bytes * self.conv_values
        return kept * self.token_values * value_bytes + self.state_layers * states


def describe_cache(
    config: Mapping[str, Any], *, num_layers: int, kv_width: int, hidden_size: int
) -> CacheShape:
    """Describe the cache of a model from its configuration.

    ``config`` is the text part of ``config.json``; ``kv_width`` are channels of all key heads.
    """
    kinds = _layer_kinds(config, num_layers)
    latent = _whole(config, "kv_lora_rank")
    recurrent, conv = _state_sizes(config, hidden_size)
    return CacheShape(
        full_layers=sum(kind in _FULL for kind in kinds),
        sliding_layers=sum(kind in _SLIDING for kind in kinds),
        window=_whole(config, "sliding_window", "attention_chunk_size"),
        token_values=latent + _whole(config, "qk_rope_head_dim") if latent else 2 * kv_width,
        state_layers=sum(kind in _STATES for kind in kinds),
        recurrent_values=recurrent,
        conv_values=conv,
    )


def _layer_kinds(config: Mapping[str, Any], num_layers: int) -> list[str]:
    family = str(config.get("model_type", ""))
    named = config.get("layer_types") or config.get("layers_block_type")
    if family in _BOTH:
        return ["hybrid"] * num_layers
    if isinstance(named, list):
        return [str(kind) for kind in named][:num_layers]
    if family in _STATE_SPACE:
        return ["mamba"] * num_layers
    if period := _whole(config, "attn_layer_period"):
        offset = _whole(config, "attn_layer_offset")
        return ["attention" if i % period == offset else "mamba" for i in range(num_layers)]
    if isinstance(where := config.get("attn_layer_indices"), list):
        return ["attention" if i in where else "mamba" for i in range(num_layers)]
    has_window = _whole(config, "sliding_window") and config.get("use_sliding_window") is not False
    everywhere = has_window and family not in _MIXED_WINDOWS
    return ["sliding_attention" if everywhere else "full_attention"] * num_layers


def _state_sizes(config: Mapping[str, Any], hidden_size: int) -> tuple[int, int]:
    """Return the values of one layer's recurrent state and of its convolution's."""
    if width := _whole(config, "linear_num_value_heads"):
        key = _whole(config, "linear_key_head_dim")
        value = width * _whole(config, "linear_value_head_dim")
        channels = 2 * _whole(config, "linear_num_key_heads") * key + value
        return value * key, channels * _whole(config, "linear_conv_kernel_dim")
    if kept := _whole(config, "conv_L_cache"):
        return 0, hidden_size * kept
    state = _whole(config, "mamba_d_state", "ssm_state_size", "state_size")
    if not state:
        return 0, 0
    kernel = _whole(config, "mamba_d_conv", "conv_kernel")
    expand = _whole(config, "mamba_expand", "expand") or 2
    width = _whole(config, "mamba_d_ssm") or expand * hidden_size
    is_plain = str(config.get("model_type")) in ("mamba", "falcon_mamba", "jamba")
    groups = 0 if is_plain else _whole(config, "mamba_n_groups", "mamba_ngroups", "n_groups") or 1
    if heads := _whole(config, "mamba_num_heads"):
        width = heads * _whole(config, "mamba_head_dim")
    return width * state, (width + 2 * groups * state) * kernel


def _whole(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of these that is a whole number, else 0."""
    return next((config[n] for n in names if isinstance(config.get(n), int)), 0)
