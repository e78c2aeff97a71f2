"""Places in the line, from Kueue's visibility API: one small read per waiting LocalQueue.

Kueue reports no changes of places. So they are read for queues with our waiting jobs, each at most
every ``REFRESH_SECONDS``, few at a time, and only the front. An administrator can disable this
aggregated API; then there are no places.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from finetune_operator.integrations.kueue.state import Place
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Forbidden, KubeError, NotFound
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource
from finetune_operator.kube.clock import Clock

logger = logging.getLogger(__name__)

VERSIONS = ("v1beta2", "v1beta1")
"""Of the visibility API, newest first; both say the same."""
SUBRESOURCE = "pendingworkloads"
REFRESH_SECONDS = 30.0
ABSENT_SECONDS = 300.0
"""How long an API that is not there, or not for us, is left alone."""
FRONT = 100
"""Workloads of a LocalQueue whose places are read; whoever stands behind them has none yet."""
MAX_QUEUES = 20
"""LocalQueues read in one round."""
EXACT = 10
"""Every step is reported up to this place, then every tenth. Otherwise one step of the line would
write every status in it.
"""


def read_places(summary: Mapping[str, Any]) -> dict[str, Place]:
    """Read a PendingWorkloadsSummary: places by the name of the Workload, coarse at the back."""
    return {
        item["metadata"]["name"]: Place(
            in_cluster_queue=_coarse(int(item.get("positionInClusterQueue") or 0) + 1),
            in_local_queue=_coarse(int(item.get("positionInLocalQueue") or 0) + 1),
        )
        for item in summary.get("items") or ()
    }


def _coarse(place: int) -> int:
    """Round up to whole tens behind the front."""
    return place if place <= EXACT else -(-place // EXACT) * EXACT


class QueuePlaces:
    """Keeps the places of waiting Workloads. Event loop only.

    Args:
        client: The API client; only reads.
        waiting: Yields (namespace, LocalQueue) of every Workload of ours that waits.
        on_change: Called with the Workloads, by namespace and name, whose place changed.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        waiting: Callable[[], Iterable[ObjectKey]],
        on_change: Callable[[ObjectKey], None],
        clock: Clock,
    ) -> None:
        self._client = client
        self._waiting = waiting
        self._on_change = on_change
        self._clock = clock
        self._places: dict[ObjectKey, dict[str, Place]] = {}
        self._read_at: dict[ObjectKey, float] = {}
        self._version = VERSIONS[0]
        self._absent_until = float("-inf")

    def of(self, namespace: str, queue: str, workload: str) -> Place | None:
        """Return the place of a Workload, or None: not known, or too far behind."""
        return self._places.get((namespace, queue), {}).get(workload)

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS / 3)

    async def refresh(self) -> None:
        """Read the queues that are due, those that were read longest ago first."""
        waiting = set(self._waiting())
        for gone in self._places.keys() - waiting:
            del self._places[gone]
            self._read_at.pop(gone, None)
        now = self._clock.monotonic()
        if now < self._absent_until:
            return
        due = [
            key for key in waiting if now - self._read_at.get(key, float("-inf")) >= REFRESH_SECONDS
        ]
        due.sort(key=lambda key: (self._read_at.get(key, float("-inf")), key))
        for key in due[:MAX_QUEUES]:
            self._read_at[key] = now
            if not await self._read(key):
                return

    async def _read(self, key: ObjectKey) -> bool:
        """Read one queue; return whether to go on with the next."""
        try:
            summary = await self._ask(key)
        except (NotFound, Forbidden) as error:
            if _names_queue(error, key):
                self._take(key, {})  # the LocalQueue is gone; the API is there
                return True
            logger.info("places in Kueue's queues are not shown: %s", error)
            self._absent_until = self._clock.monotonic() + ABSENT_SECONDS
            return False
        except KubeError as error:
            # Kueue restarts or is busy: the old places stay until the next round.
            logger.debug("places in LocalQueue %s/%s: %s", *key, error)
            return False
        self._take(key, read_places(summary))
        return True

    async def _ask(self, key: ObjectKey) -> Object:
        """Ask in the version that answered last; in the other one if the server lacks it."""
        other = VERSIONS[1] if self._version == VERSIONS[0] else VERSIONS[0]
        try:
            return await self._ask_in(self._version, key)
        except NotFound as error:
            if _names_queue(error, key):
                raise
        summary = await self._ask_in(other, key)
        self._version = other
        return summary

    async def _ask_in(self, version: str, key: ObjectKey) -> Object:
        resource = Resource(
            group="visibility.kueue.x-k8s.io",
            version=version,
            plural="localqueues",
            kind="LocalQueue",
        )
        query = {"limit": str(FRONT)}
        return await self._client.get(resource, *key, subresource=SUBRESOURCE, query=query)

    def _take(self, key: ObjectKey, places: dict[str, Place]) -> None:
        before = self._places.get(key, {})
        self._places[key] = places
        for workload in before.keys() | places.keys():
            if before.get(workload) != places.get(workload):
                self._on_change((key[0], workload))


def _names_queue(error: KubeError, key: ObjectKey) -> bool:
    """Return whether a 404 names the LocalQueue; a 404 for an unknown type has no name."""
    return isinstance(error, NotFound) and error.details.get("name") == key[1]
