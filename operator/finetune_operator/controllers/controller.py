"""One generic loop for every kind: keys wait in a queue, workers reconcile them.

The snapshot and the plan of a kind are in its own reconciler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from finetune_operator.kube.api.resource import ObjectKey
from finetune_operator.kube.cache.feed import Feed
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.store import EventType
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.queue.workers import RequeueAfter, Result, Workers
from finetune_operator.kube.queue.workqueue import PRIORITY_CHILD, PRIORITY_RESYNC, WorkQueue

GATHER_SECONDS = 0.2
"""How long changes of children are gathered. Every stage ends, and starts, this much later."""
BEAT_SECONDS = 0.05
"""Keys that are due within such an interval are reconciled together.

A sleeping process pays more for waking up than for a request.
"""
UNREAD_SECONDS = 10.0
"""After so long it is asked again whether what belongs to a key can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owned:
    """A kind whose objects belong to objects of the controller's kind.

    Attributes:
        owner_of: Returns the key of a cached object's owner; None if it has none.
        is_news: Whether a change needs a reconcile of the owner; called with the cached object
            before and after, None where it did not exist.
        is_needed: Whether a namespace needs the kind's first read before any decision.
    """

    cache: Feed | Informer
    owner_of: Callable[[Any], ObjectKey | None]
    is_news: Callable[[Any, Any], bool]
    is_needed: bool = True


class Controller:
    """Reconciles all objects of one kind. Event loop only; made before its caches run.

    Args:
        owns: Kinds whose objects belong to them: a change wakes the owner.
        reads: Other caches that must be complete before the first reconcile.
    """

    def __init__(
        self,
        kind: Feed | Informer,
        *,
        owns: Iterable[Owned],
        reads: Iterable[Feed | Informer] = (),
        queue: WorkQueue[ObjectKey],
        reconcile: Callable[[ObjectKey], Awaitable[Result]],
    ) -> None:
        self.kind = kind.resource
        self.queue = queue
        self._objects = kind.store
        self._reconcile = reconcile
        owned = tuple(owns)
        self._needed = tuple(each.cache for each in owned if each.is_needed)
        self._caches: tuple[Feed | Informer, ...] = (kind, *(each.cache for each in owned), *reads)
        for each in owned:
            self._follow(each)

    async def run(self, *, num_workers: int, metrics: KubeMetrics) -> None:
        """Work for as long as this replica leads: at all objects first, then at what changes."""
        for cache in self._caches:
            await cache.synced.wait()
        for key in list(self._objects):
            self.queue.add(key, priority=PRIORITY_RESYNC)
        workers = Workers(self.queue, self._look_at, num_workers=num_workers, metrics=metrics)
        await workers.run()

    def wake(self, key: ObjectKey, priority: int) -> None:
        """Queue a key; changes of children are collected, because they come in groups."""
        if priority == PRIORITY_CHILD:
            due = asyncio.get_running_loop().time() + GATHER_SECONDS
            wait = GATHER_SECONDS + -due % BEAT_SECONDS
            self.queue.add_after(key, wait, priority=priority)
        else:
            self.queue.add(key, priority=priority)

    async def _look_at(self, key: ObjectKey) -> Result:
        """Reconcile one key, unless its children cannot be read there.

        An unread child would look like a missing one, and its run would be lost.
        """
        if any(cache.scopes.is_unread(key[0]) for cache in self._needed):
            return RequeueAfter(UNREAD_SECONDS)
        return await self._reconcile(key)

    def _follow(self, owned: Owned) -> None:
        def wake_owner(kind: EventType, old: Any, new: Any) -> None:
            if not owned.is_news(old, new):
                return
            key = owned.owner_of(old if new is None else new)
            if key is not None and key in self._objects:
                self.wake(key, PRIORITY_CHILD)

        owned.cache.store.add_handler(wake_owner)
