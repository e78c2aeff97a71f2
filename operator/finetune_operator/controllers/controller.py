"""One generic loop for every kind: keys wait in a queue, workers make them right.

What is special to a kind, its snapshot and its plan, stands in a reconciler of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from finetune_operator.kube.feed import Feed
from finetune_operator.kube.informer import Informer
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.resource import ObjectKey, Resource
from finetune_operator.kube.workers import Result, Workers
from finetune_operator.kube.workqueue import PRIORITY_CHILD, PRIORITY_RESYNC, WorkQueue

GATHER_SECONDS = 0.25
"""How long changes of children are gathered. Every stage ends, and starts, this much later."""


class Controller:
    """Makes all objects of one kind right. Event loop only.

    Args:
        kind: Type of the objects.
        reads: Caches of the kind and of what it owns, complete before the first look.
        keys: Names all objects there are.
        queue: Where keys wait.
        reconcile: Makes the world right for one key.
    """

    def __init__(
        self,
        kind: Resource,
        *,
        reads: Iterable[Feed | Informer],
        keys: Callable[[], Iterable[ObjectKey]],
        queue: WorkQueue[ObjectKey],
        reconcile: Callable[[ObjectKey], Awaitable[Result]],
    ) -> None:
        self.kind = kind
        self.queue = queue
        self._reads = tuple(reads)
        self._keys = keys
        self._reconcile = reconcile

    async def run(self, *, num_workers: int, metrics: KubeMetrics) -> None:
        """Work for as long as this replica leads: at all objects first, then at what changes."""
        for cache in self._reads:
            await cache.synced.wait()
        for key in list(self._keys()):
            self.queue.add(key, priority=PRIORITY_RESYNC)
        workers = Workers(self.queue, self._reconcile, num_workers=num_workers, metrics=metrics)
        await workers.run()

    def wake(self, key: ObjectKey, priority: int) -> None:
        """Queue a key; changes of children are gathered, for they come in swarms.

        A pod starts, its Job counts it, the next rank starts: one look afterwards sees it all.
        """
        if priority == PRIORITY_CHILD:
            self.queue.add_after(key, GATHER_SECONDS, priority=priority)
        else:
            self.queue.add(key, priority=priority)
