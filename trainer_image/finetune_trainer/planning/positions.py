"""How a model turns queries and keys by their positions, as far as plans depend on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

LENGTH_DEPENDENT = frozenset({"longrope", "dynamic"})
"""Kinds of rotary positions whose frequencies depend on the longest position of a pass."""
_NAMES = ("rope_type", "type")


def turns_by_length(config: object) -> bool:
    """Whether a configuration has rotary positions that depend on the length.

    Source: transformers, ``modeling_rope_utils.dynamic_rope_update``.
    """
    if not isinstance(config, Mapping):
        return False
    if any(config.get(name) in LENGTH_DEPENDENT for name in _NAMES):
        return True
    return any(turns_by_length(part) for name, part in config.items() if name not in _NAMES)
