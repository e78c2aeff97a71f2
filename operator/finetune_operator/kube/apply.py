"""Server-side apply that sends nothing when nothing would change.

An apply without effect costs the server as much as one with effect. The applier remembers, per
object, a digest of what it applied and which state of the live object that led to; while both are
unchanged the call is skipped. The memory is lost with the process, which costs one no-op apply per
object and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.resource import Object, ObjectKey, Resource, key_of

Absorb: TypeAlias = Callable[[Object], None]
"""Told of every answer to a write, usually ``Store.absorb``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """Outcome of one apply.

    Attributes:
        object: The live object: the server's answer, or the cached one when nothing was sent.
        written: Whether a request was sent.
    """

    object: Object
    written: bool


class Applier:
    """Applies children of one field manager. Event loop only.

    Args:
        client: The API client.
        field_manager: Owner of the applied fields.
    """

    def __init__(self, client: KubeClient, *, field_manager: str) -> None:
        self._client = client
        self._field_manager = field_manager
        self._last: dict[tuple[str, ObjectKey], tuple[bytes, _LiveState]] = {}
        self._count = client.metrics.applies

    async def apply(
        self,
        resource: Resource,
        desired: Object,
        *,
        live: Object | None = None,
        absorb: Absorb | None = None,
    ) -> Applied:
        """Make the live object carry the fields in ``desired``.

        Args:
            resource: The object's type.
            desired: The fields to own. Leave out what others own (``spec.suspend`` of a queued
                Job) and what cannot change (a Job's template once created).
            live: The cached object, None if there is none.
            absorb: Given the server's answer.

        Raises:
            KubeError: The server refused.
        """
        entry = (resource.plural, key_of(desired))
        digest = digest_of(desired)
        if live is not None and self._last.get(entry) == (digest, _live_state(live, desired)):
            self._count.labels(resource.kind, "unchanged").inc()
            return Applied(object=live, written=False)
        answer = await self._client.apply(resource, desired, field_manager=self._field_manager)
        self._last[entry] = (digest, _live_state(answer, desired))
        self._count.labels(resource.kind, "written").inc()
        if absorb is not None:
            absorb(answer)
        return Applied(object=answer, written=True)

    def forget(self, resource: Resource, key: ObjectKey) -> None:
        """Drop the memory of an object that was deleted."""
        self._last.pop((resource.plural, key), None)


_LiveState: TypeAlias = tuple[str, str, bool]


def _live_state(live: Object, desired: Object) -> _LiveState:
    """Reduce an object to what a foreign change of our fields would alter.

    ``generation`` changes with the spec and, unlike resourceVersion, not with the status that
    other controllers write all the time. Kinds without a generation fall back to the version.
    """
    metadata = live["metadata"]
    generation = metadata.get("generation")
    mark = f"g{generation}" if generation else f"v{metadata.get('resourceVersion')}"
    return metadata.get("uid", ""), mark, _has_metadata(metadata, desired["metadata"])


def _has_metadata(live: Object, desired: Object) -> bool:
    """Whether our labels and annotations are all there; they do not change the generation."""
    for field in ("labels", "annotations"):
        have: dict[str, Any] = live.get(field) or {}
        for name, value in (desired.get(field) or {}).items():
            if have.get(name) != value:
                return False
    return True


def digest_of(value: Any) -> bytes:
    """Return a digest of JSON data that does not hang on the order of keys."""
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).digest()
