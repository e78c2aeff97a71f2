"""Equal parts of cached objects, kept once.

Ten thousand objects of one kind say the same in most of their fields: defaults, reasons, times of
the same second. A cache keeps them for as long as the objects live, so each copy counts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import orjson

V = TypeVar("V")
M = TypeVar("M", bound=Mapping[str, Any])

MAX_TEXT = 128
"""Longer texts are of one object alone."""


class SharedParts:
    """A bounded memory of values that are in use; what it hands out must never be changed.

    Args:
        limit: Values remembered. Beyond it all are forgotten, which costs copies and no harm.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._known: dict[bytes, Any] = {}

    def of(self, value: V) -> V:
        """Return the value that came first of all that are equal to this one as JSON."""
        key = orjson.dumps(value)
        known: V | None = self._known.get(key)
        if known is not None:
            return known
        if len(self._known) >= self._limit:
            self._known.clear()
        self._known[key] = value
        return value


def share_texts(obj: M) -> M:
    """Replace the short texts of an object by equal ones, kept once in this process; return it."""
    fields = cast("dict[str, Any]", obj)
    for key, value in fields.items():
        if type(value) is str:
            if len(value) <= MAX_TEXT:
                fields[key] = sys.intern(value)
        elif type(value) is dict:
            share_texts(value)
        elif type(value) is list:
            for each in value:
                if type(each) is dict:
                    share_texts(each)
    return obj
