"""How many tokens a model takes, from its ``config.json``: as it says, and as a server counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_UNSCALED = frozenset(
    ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
)
"""Kinds of stretched positions whose stated length is stretched already."""


def context_of(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that a model takes, from its ``config.json``; None if that is not said."""
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None


def served_context(config: Mapping[str, Any]) -> int | None:
    """Return the model length of a vLLM server; None if ``config.json`` does not state it.

    Stretched positions (some RoPE scaling) allow more. Source: ``_get_and_verify_max_len`` in
    vllm/config/model.py of vLLM 0.32.
    """
    part = config.get("text_config") or config
    stated = part.get("model_max_length")
    if not isinstance(stated, int) or not stated:
        stated = context_of(part) or context_of(config)
    if stated is None or "gemma3" in str(part.get("model_type")):
        return stated
    factor = 1.0
    for positions in _positions_of(part):
        if positions.get("rope_type", positions.get("type")) not in _UNSCALED:
            factor = positions.get("factor", factor) or 1.0
    return int(stated * factor)


def evaluated_context(config: Mapping[str, Any], engine: str) -> int | None:
    """Return the tokens that a model takes in an evaluation; None if unknown.

    ``engine`` is ``spec.evaluation.engine``.
    """
    return served_context(config) if engine == "VLLM" else context_of(config)


def _positions_of(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield how positions are turned: once, or for each kind of layer."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = [value for value in found.values() if isinstance(value, dict)]
    yield from nested or [found]
