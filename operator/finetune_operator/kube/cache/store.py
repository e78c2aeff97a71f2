"""A cache of one kind: objects by key, secondary indexes, and handlers of changes.

An ``Informer`` fills the store from list and watch, or a ``Feed`` from a host's watch. Both may
deliver old events, so the store drops versions older than its own. An object in the store is never
changed, only replaced. Handlers run synchronously, in the order of the changes, after the store has
changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeAlias

from finetune_operator.kube.api.resource import Object, ObjectKey, key_of, version_of

logger = logging.getLogger(__name__)


class EventType(StrEnum):
    """What happened to an object, as the API server's watch names it."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


Handler: TypeAlias = Callable[[EventType, Any, Any], None]
"""Called with (type, old, new): old is None for ADDED, new is None for DELETED. Must be quick."""

Transform: TypeAlias = Callable[[Object], Any]
"""Trims an object on its way in, in place or into another type for indexers and handlers."""

Indexer: TypeAlias = Callable[[Any], Iterable[str]]
"""Computes the values an object is found under."""

ALL_NAMESPACES = ""


def drop_managed_fields(obj: Object) -> Object:
    """Drop ``metadata.managedFields``, often half of an object and never read here."""
    obj["metadata"].pop("managedFields", None)
    return obj


class Store:
    """Objects of one kind with indexes. Event loop only.

    Args:
        indexers: Named functions to index by.
    """

    def __init__(
        self,
        *,
        indexers: Mapping[str, Indexer] | None = None,
        transform: Transform = drop_managed_fields,
    ) -> None:
        self._objects: dict[ObjectKey, Object] = {}
        self._indexers = dict(indexers or {})
        self._indexes: dict[str, dict[str, set[ObjectKey]]] = {name: {} for name in self._indexers}
        self._transform = transform
        self._handlers: list[Handler] = []
        self._observed: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[ObjectKey]:
        return iter(self.keys())

    def keys(self) -> list[ObjectKey]:
        """Return a snapshot of all keys."""
        return list(self._objects)

    def objects(self, scope: str = ALL_NAMESPACES) -> list[Object]:
        """Return a snapshot of all objects, of one namespace or of all."""
        if not scope:
            return list(self._objects.values())
        return [obj for (namespace, _), obj in self._objects.items() if namespace == scope]

    def get(self, namespace: str, name: str) -> Object | None:
        """Return the cached object, or None."""
        return self._objects.get((namespace, name))

    def by_index(self, index: str, value: str) -> list[Object]:
        """Return all objects that ``index`` files under ``value``, in no particular order."""
        objects = self._objects
        return [objects[key] for key in self._indexes[index].get(value, ())]

    def add_handler(self, handler: Handler) -> None:
        """Tell ``handler`` of every later change."""
        self._handlers.append(handler)

    def observed_version(self, namespace: str) -> int:
        """Return the newest version up to which the cache is complete for ``namespace``."""
        everywhere = self._observed.get(ALL_NAMESPACES, 0)
        return max(everywhere, self._observed.get(namespace, 0))

    def mark_observed(self, scope: str, version: int) -> None:
        """Record that everything in ``scope`` up to ``version`` has been seen (bookmarks)."""
        if version > self._observed.get(scope, 0):
            self._observed[scope] = version

    def observe(self, kind: str | None, obj: Object, *, scope: str = ALL_NAMESPACES) -> None:
        """Take in one watch event.

        Args:
            kind: ADDED, MODIFIED or DELETED; None for a listed object, which is an upsert.
            obj: The object; the store owns it from now on.
            scope: Namespace of the watch, empty for all.
        """
        version = version_of(obj)
        key = key_of(obj)
        if kind == EventType.DELETED:
            old = self._objects.get(key)
            # This delete is of an earlier object of the same name.
            if old is not None and version_of(old) <= version:
                self._remove(key, old)
        else:
            self._upsert(key, obj, version)
        if kind is not None:
            self.mark_observed(scope, version)

    def absorb(self, obj: Object) -> None:
        """Take in the answer to an own write, so that the next reconcile sees it.

        An object that is not cached and older than the watch has been deleted since, and is
        ignored.
        """
        key = key_of(obj)
        version = version_of(obj)
        if key in self._objects or version > self.observed_version(key[0]):
            self._upsert(key, obj, version)

    def replace(
        self, objects: Iterable[Object], version: int, *, scope: str = ALL_NAMESPACES
    ) -> int:
        """Make the store equal to a complete list; return the number of ghosts dropped."""
        seen: set[ObjectKey] = set()
        for obj in objects:
            seen.add(key_of(obj))
            self.observe(None, obj, scope=scope)
        return self.drop_unseen(seen, version, scope=scope)

    def discard(self, obj: Object) -> None:
        """Remove ``obj`` if the store holds exactly this one, and call the handlers."""
        key = key_of(obj)
        if self._objects.get(key) is obj:
            self._remove(key, obj)

    def drop_unseen(
        self, seen: set[ObjectKey], version: int, *, scope: str = ALL_NAMESPACES
    ) -> int:
        """Delete cached objects in ``scope`` that a complete list did not hold.

        Handlers get DELETED with the last known state.

        Args:
            seen: Keys in the list.
            version: The list's resourceVersion; newer objects stay.
            scope: Namespace of the list, empty for all.

        Returns:
            Number of objects dropped.
        """
        ghosts = [
            (key, obj)
            for key, obj in self._objects.items()
            if key not in seen and (not scope or key[0] == scope) and version_of(obj) <= version
        ]
        for key, obj in ghosts:
            self._remove(key, obj)
        self.mark_observed(scope, version)
        return len(ghosts)

    def _upsert(self, key: ObjectKey, obj: Object, version: int) -> None:
        old = self._objects.get(key)
        if old is not None and version <= version_of(old):
            return
        new: Object = self._transform(obj)
        self._objects[key] = new
        for name, indexer in self._indexers.items():
            self._reindex(self._indexes[name], key, indexer(old) if old else (), indexer(new))
        if old is not None and old["metadata"].get("uid") != new["metadata"].get("uid"):
            # Deleted and created again between two lists: two objects, so two events.
            self._tell(EventType.DELETED, old, None)
            old = None
        self._tell(EventType.MODIFIED if old is not None else EventType.ADDED, old, new)

    def _remove(self, key: ObjectKey, old: Object) -> None:
        del self._objects[key]
        for name, indexer in self._indexers.items():
            self._reindex(self._indexes[name], key, indexer(old), ())
        self._tell(EventType.DELETED, old, None)

    @staticmethod
    def _reindex(
        index: dict[str, set[ObjectKey]],
        key: ObjectKey,
        before: Iterable[str],
        after: Iterable[str],
    ) -> None:
        before, after = set(before), set(after)
        for value in before - after:
            keys = index[value]
            keys.discard(key)
            if not keys:
                del index[value]
        for value in after - before:
            index.setdefault(value, set()).add(key)

    def _tell(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            self._call(handler, kind, old, new)

    @staticmethod
    def _call(handler: Handler, kind: EventType, old: Object | None, new: Object | None) -> None:
        try:
            handler(kind, old, new)
        except Exception:
            # A bug in one handler must not stop the watch or the other handlers.
            logger.exception("handler %r failed on %s", handler, kind)
