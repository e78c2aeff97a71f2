"""A cache that a host framework feeds, and its repair.

The host passes every event of its watch to ``observe``. It reports no objects that vanished while
the watch was broken, and may lose events. So the cache is compared periodically with a list of
names and versions: vanished objects are dropped, and outdated ones are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Forbidden, KubeError, ObjectNotFound
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource, key_of, version_of
from finetune_operator.kube.backoff import full_jitter
from finetune_operator.kube.cache.scopes import Scopes
from finetune_operator.kube.cache.store import (
    ALL_NAMESPACES,
    Indexer,
    Store,
    Transform,
    drop_managed_fields,
)

logger = logging.getLogger(__name__)

_GRACE_STEPS = 20


class Feed:
    """A store fed through ``observe`` and repaired by lists. Event loop only.

    Args:
        namespaces: Namespaces that the host watches; empty for all.
        label_selector: Selector of the host's watch.
        grace_seconds: Delay after which an event of the host counts as lost; also the delay of the
            first repair.

    Attributes:
        synced: Set after the first repair of every namespace that may be listed.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        namespaces: Sequence[str] = (),
        label_selector: str = "",
        indexers: Mapping[str, Indexer] | None = None,
        transform: Transform = drop_managed_fields,
        repair_seconds: float = 600.0,
        grace_seconds: float = 5.0,
        rng: random.Random | None = None,
    ) -> None:
        self.resource = resource
        self.store = Store(indexers=indexers, transform=transform)
        self.scopes = Scopes(resource.plural, namespaces)
        self.synced = self.scopes.synced
        self._client = client
        self._label_selector = label_selector
        self._repair_seconds = repair_seconds
        self._grace_seconds = grace_seconds
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._due = {scope: asyncio.Event() for scope in self.scopes.names}
        self._ghosts = client.metrics.ghosts.labels(resource.plural)
        self._lists = client.metrics.lists.labels(resource.plural)
        client.metrics.add_cache(resource.plural, self.store.__len__, self.synced.is_set)

    def observe(self, kind: str | None, body: Object) -> None:
        """Take in one event of the host: type (None for listed objects) and raw object.

        A host that lists again has lost its watch, so a repair follows at once.
        """
        self.store.observe(kind, body)
        if kind is None and self.synced.is_set():
            self._due[self.scopes.of(body["metadata"]["namespace"])].set()

    async def run(self) -> None:
        """Repair at start, then periodically and on request, until cancelled."""
        await self.scopes.run_each(self._run_scope, "feed")

    async def _run_scope(self, scope: str) -> None:
        due, failures = self._due[scope], 0
        while True:
            try:
                await self.repair(scope)
                self.scopes.note_listed(scope)
                failures, delay = 0, self._repair_seconds
            except KubeError as error:
                failures += 1
                if not isinstance(error, Forbidden) or not self.scopes.note_forbidden(scope, error):
                    logger.warning("%s: repair failed, will retry: %s", self.resource.plural, error)
                delay = full_jitter(self._rng, failures, base=0.2, cap=30.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await due.wait()
            due.clear()

    async def repair(self, scope: str = ALL_NAMESPACES) -> None:
        """Compare the cache of ``scope`` with the server and correct it.

        Raises:
            KubeError: No answer, or a doubtful one; the cache is unchanged.
        """
        self._lists.inc()
        versions: dict[ObjectKey, int] = {}
        listed = 0
        async for page in self._client.list_pages(
            self.resource, scope, label_selector=self._label_selector, metadata_only=True
        ):
            listed = int(page.resource_version)
            for item in page.items:
                versions[key_of(item)] = version_of(item)
        if ghosts := self.store.drop_unseen(set(versions), listed, scope=scope):
            self._ghosts.inc(ghosts)
            logger.info("%s: %d objects vanished unseen", self.resource.plural, ghosts)
        await self._wait_for_host(versions)
        for key in self._stale(versions):
            await self._read_again(key, versions[key])

    async def _wait_for_host(self, versions: Mapping[ObjectKey, int]) -> None:
        """Give the host's own events their grace; return early once it has caught up."""
        for _ in range(_GRACE_STEPS):
            if not self._stale(versions):
                return
            await asyncio.sleep(self._grace_seconds / _GRACE_STEPS)

    def _stale(self, versions: Mapping[ObjectKey, int]) -> list[ObjectKey]:
        """Return keys whose cached version is older than the list's, or missing."""
        stale = []
        for key, version in versions.items():
            cached = self.store.get(*key)
            if (version_of(cached) if cached is not None else 0) < version:
                stale.append(key)
        return stale

    async def _read_again(self, key: ObjectKey, version: int) -> None:
        try:
            obj = await self._client.get(self.resource, *key)
        except ObjectNotFound:
            cached = self.store.get(*key)
            # Deleted after the list; the host's event may be lost as well.
            if cached is not None and version_of(cached) <= version:
                self.store.discard(cached)
        else:
            self.store.observe(None, obj)
