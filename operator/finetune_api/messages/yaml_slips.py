"""Tell what YAML made of a value that its writer meant otherwise: `Off`, `0,9`, or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

DECIMAL_COMMA = re.compile(r"([-+]?[0-9]+),([0-9]+([eE][-+]?[0-9]+)?)")
YES_WORDS, NO_WORDS = ("yes", "on", "true", "y"), ("no", "off", "false", "n")


def slip_of(value: object, choices: Sequence[object]) -> str:
    """Return a remedy for a value that YAML has converted; empty if it has not.

    Args:
        value: The refused value.
        choices: Words that the field takes; empty if it takes others.
    """
    if isinstance(value, bool) and choices:
        words = YES_WORDS if value else NO_WORDS
        meant = [choice for choice in choices if str(choice).lower() in words]
        bare = ", ".join(word.capitalize() for word in words[:2])
        text = f"YAML reads a bare {bare} as {'true' if value else 'false'}"
        return f'{text}: write "{meant[0]}" in quotes' if meant else f"{text}: write one of these"
    if isinstance(value, str) and (comma := DECIMAL_COMMA.fullmatch(value)):
        return f'decimals have a point: write "{comma[1]}.{comma[2]}"'
    return ""


def is_left_empty(body: Mapping[str, Any], location: Sequence[str | int]) -> bool:
    """Return whether a field stands in an object without a value."""
    place: Any = body
    for part in location[:-1]:
        try:
            place = place[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(place, dict) and location[-1] in place and place[location[-1]] is None
