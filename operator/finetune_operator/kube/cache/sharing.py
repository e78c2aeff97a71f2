"""Equal parts of cached objects, kept once.

Ten thousand objects of one kind share most of their fields: defaults, reasons, times.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, TypeVar, cast

import orjson

V = TypeVar("V")
M = TypeVar("M", bound=Mapping[str, Any])

MAX_TEXT = 128
"""Longer texts are of one object alone."""
MAX_PART_BYTES = 16 * 1024
"""Larger values, as JSON, are of one object alone."""


class SharedParts:
    """A bounded memory of values in use; returned values must never be changed.

    Args:
        limit: Most values. At the limit all are forgotten, which only costs copies.
        limit_bytes: The same for their size as JSON, because values outlive their objects.
    """

    def __init__(self, limit: int = 4096, *, limit_bytes: int = 2 * 1024 * 1024) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._known: dict[bytes, Any] = {}

    def of(self, value: V) -> V:
        """Return the value that came first of all that are equal to this one as JSON."""
        wire = orjson.dumps(value)
        if len(wire) > MAX_PART_BYTES:
            return value
        key = _brief_key_of(wire)
        known: V | None = self._known.get(key)
        if known is not None:
            return known
        if len(self._known) >= self._limit or self._num_bytes + len(wire) > self._limit_bytes:
            self._known.clear()
            self._num_bytes = 0
        if isinstance(value, dict):
            share_texts(value)
        self._known[key] = value
        self._num_bytes += len(wire)
        return value

    def of_each(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same fields, each with the value that came first of all equal ones."""
        return {key: self.of(value) for key, value in fields.items()}

    def share(self, obj: dict[str, Any], *, apart: str = "") -> None:
        """Share equal parts of ``obj`` with other objects, by field of its spec, in place.

        The fields of the spec's field ``apart`` are shared one by one.
        """
        self._share_metadata(obj)
        if isinstance(spec := obj.get("spec"), dict):
            obj["spec"] = type(spec)(
                (
                    key,
                    self.of_each(value)
                    if key == apart and isinstance(value, dict)
                    else self.of(value),
                )
                for key, value in spec.items()
            )
        if isinstance(status := obj.get("status"), dict):
            share_texts(status)

    def _share_metadata(self, obj: dict[str, Any]) -> None:
        """Share metadata with other objects of the same kind, namespace and owner."""
        for key in ("apiVersion", "kind"):
            if key in obj:
                obj[key] = sys.intern(obj[key])
        metadata = obj["metadata"]
        for key in ("namespace", "creationTimestamp"):
            if key in metadata:
                metadata[key] = sys.intern(metadata[key])
        if labels := metadata.get("labels"):
            share_texts(labels)
        if owners := metadata.get("ownerReferences"):
            metadata["ownerReferences"] = self.of(owners)


def brief_key(value: object) -> bytes:
    """Return what two values have in common that are equal as JSON, and no others: 128 bytes."""
    return _brief_key_of(orjson.dumps(value))


def _brief_key_of(wire: bytes) -> bytes:
    return wire if len(wire) <= MAX_TEXT else blake2b(wire, digest_size=16).digest()


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
