"""Parses JSON without losing a value: an object with a repeated key is reported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


class _Repeating(dict[str, Any]):
    """An object that had a key more than once; it holds the last value, as JSON's parsers do."""

    key: str = ""


class JsonParser:
    """Parses JSON; ``num_repeating`` counts objects with a repeated key."""

    def __init__(self) -> None:
        self.num_repeating = 0
        self.parse = json.JSONDecoder(object_pairs_hook=self._make).decode

    def _make(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) == len(pairs):
            return fields
        self.num_repeating += 1
        repeating = _Repeating(fields)
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeating.key = key
                break
            seen.add(key)
        return repeating


def find_repeated_key(value: Any) -> str | None:
    """Return words for the first repeated key of an object within a value, or None."""
    for found in _walk(value):
        # Keys may be a row's text, which no message quotes.
        return f"the key {found.key!r}" if _NAME.fullmatch(found.key) else "a key"
    return None


def _walk(value: Any) -> Iterator[_Repeating]:
    if isinstance(value, _Repeating):
        yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)
