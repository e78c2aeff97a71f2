"""List and watch one kind into a ``Store``, without limit and without ghosts.

As in client-go's Reflector: a paged list, then a watch with bookmarks from the list's version. A
broken watch resumes from the last version seen. After 410 the list replaces the store, so objects
deleted unseen are dropped. Other errors are retried with full jitter. A server whose etcd was
restored needs a new process. A type can be declared as one that the cluster may lack; then 404, and
403 on request, count as an answer. A namespace that may not be listed does not delay the others
(``scopes.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import (
    Forbidden,
    Gone,
    KubeError,
    NotFound,
    TransportError,
)
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource, key_of, version_of
from finetune_operator.kube.backoff import full_jitter
from finetune_operator.kube.cache.scopes import Scopes
from finetune_operator.kube.cache.store import (
    EventType,
    Indexer,
    Store,
    Transform,
    drop_managed_fields,
)

logger = logging.getLogger(__name__)

BACKOFF_BASE_SECONDS = 0.2
BACKOFF_CAP_SECONDS = 30.0
ABSENT_RETRY_SECONDS = 30.0
"""How often a type that the server does not serve is asked for again."""
SHORT_WATCH_SECONDS = 1.0
"""A watch that ends sooner and without events is a fault, not a time-out."""


class Informer:
    """Keeps a store equal to the server. Event loop only.

    Args:
        namespaces: Namespaces, with one list and watch each; empty for all.
        label_selector: Only objects with these labels.
        page_limit: Objects per page of a list.
        watch_timeout_seconds: Least time after which the server ends a watch. A random part up to
            the same again is added, so that watches do not reconnect at once.
        silence_seconds: Reconnect after so long without a byte.
        rest_seconds: Delay of changes, so that they are read together.
        on_served: Set if the cluster may lack this type. Called with the scope and the cause when
            the server does not serve it, which counts as an empty list; with an empty cause once it
            does.
        may_be_forbidden: 403 counts as not served; needs ``on_served``.
        patience_seconds: A first list that fails for longer counts as not served until it succeeds;
            needs ``on_served``.

    Attributes:
        store: The cache. It keeps its content while the type is not served.
        synced: Set when the first list of every namespace that may be listed is in the store; never
            unset.
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
        page_limit: int = 500,
        watch_timeout_seconds: int = 240,
        silence_seconds: float = 90.0,
        rest_seconds: float = 0.0,
        on_served: Callable[[str, str], None] | None = None,
        may_be_forbidden: bool = False,
        patience_seconds: float = math.inf,
        rng: random.Random | None = None,
    ) -> None:
        self.resource = resource
        self.store = Store(indexers=indexers, transform=transform)
        self.scopes = Scopes(resource.plural, namespaces)
        self.synced = self.scopes.synced
        self._client = client
        self._incomplete: set[str] = set()
        self._label_selector = label_selector
        self._page_limit = page_limit
        self._watch_timeout_seconds = watch_timeout_seconds
        self._silence_seconds = silence_seconds
        self._rest_seconds = rest_seconds
        self._on_served = on_served
        # The path is a collection's, so the type is unknown.
        self._absence: tuple[type[KubeError], ...] = (
            (NotFound, Forbidden) if may_be_forbidden else (NotFound,)
        )
        self._patience_seconds = patience_seconds if on_served is not None else math.inf
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        metrics = client.metrics
        self._lists = metrics.lists.labels(resource.plural)
        self._watches = metrics.watches.labels(resource.plural)
        self._ghosts = metrics.ghosts.labels(resource.plural)
        self._errors = metrics.watch_errors
        metrics.add_cache(resource.plural, self.store.__len__, self.synced.is_set)

    @property
    def is_served(self) -> bool:
        """Whether the server serves this type somewhere, as far as is known."""
        return self.scopes.serves_any

    def list_again(self, namespace: str) -> None:
        """List anew once the watch of a namespace ends, for objects taken out of the store."""
        self._incomplete.add(self.scopes.of(namespace))

    async def run(self) -> None:
        """List and watch until cancelled."""
        await self.scopes.run_each(self._run_scope, "informer")

    async def _run_scope(self, scope: str) -> None:
        version = ""
        failures = 0
        give_up_at = asyncio.get_running_loop().time() + self._patience_seconds
        while True:
            progress = _Progress("" if scope in self._incomplete else version)
            self._incomplete.discard(scope)
            try:
                if not progress.version:
                    progress.version = await self._list(scope)
                await self._watch(scope, progress)
                failures = 0
            except Gone as error:
                logger.info("%s: version too old, listing again: %s", self.resource.plural, error)
                self._errors.labels(self.resource.plural, "Gone").inc()
                progress.version = ""
                # Retry the first one at once; delay those that follow.
                failures = 1 if progress.advanced else failures + 1
                if failures > 1:
                    await self._back_off(failures - 1)
            except KubeError as error:
                if isinstance(error, self._absence) and self._on_served is not None:
                    self._errors.labels(self.resource.plural, type(error).__name__).inc()
                    self._note(scope, self.scopes.note_absent, str(error))
                    progress.version, failures = "", 0
                    await asyncio.sleep(ABSENT_RETRY_SECONDS * self._rng.uniform(0.8, 1.2))
                else:
                    self._note_error(scope, error)
                    if asyncio.get_running_loop().time() >= give_up_at:
                        self._note(scope, self.scopes.note_failing, str(error))
                    failures = 1 if progress.advanced else failures + 1
                    await self._back_off(failures)
            except Exception:
                # A malformed object or a bug in a transform: list again.
                logger.exception("%s: informer failed, listing again", self.resource.plural)
                self._errors.labels(self.resource.plural, "Internal").inc()
                progress.version = ""
                failures += 1
                await self._back_off(failures)
            version = progress.version

    async def _list(self, scope: str) -> str:
        """Take in all pages, drop what they do not hold; return the list's version."""
        self._lists.inc()
        seen: set[ObjectKey] = set()
        version = ""
        async for page in self._client.list_pages(
            self.resource, scope, label_selector=self._label_selector, limit=self._page_limit
        ):
            version = page.resource_version
            for obj in page.items:
                seen.add(key_of(obj))
                self.store.observe(None, obj, scope=scope)
        if ghosts := self.store.drop_unseen(seen, int(version), scope=scope):
            self._ghosts.inc(ghosts)
            logger.info("%s: %d objects vanished unseen", self.resource.plural, ghosts)
        self._note(scope, self.scopes.note_listed, "")
        return version

    async def _watch(self, scope: str, progress: _Progress) -> None:
        """Take in events until the server ends the stream; ``progress`` has the last version."""
        self._watches.inc()
        clock = asyncio.get_running_loop()
        started = clock.time()
        least = self._watch_timeout_seconds
        events = self._client.watch(
            self.resource,
            scope,
            resource_version=progress.version,
            label_selector=self._label_selector,
            timeout_seconds=least + int(self._rng.uniform(0, least)),
            silence_seconds=self._silence_seconds,
            rest_seconds=self._rest_seconds,
        )
        async with contextlib.aclosing(events):
            async for kind, obj in events:
                self._take_in(scope, kind, obj)
                progress.version = obj["metadata"]["resourceVersion"]
                progress.advanced = True
        if not progress.advanced and clock.time() - started < SHORT_WATCH_SECONDS:
            raise TransportError(
                f"watch {self.resource.kind}", message="the server ended it at once, without events"
            )

    def _take_in(self, scope: str, kind: str, obj: Object) -> None:
        if kind == "BOOKMARK":
            self.store.mark_observed(scope, version_of(obj))
        elif kind in EventType.__members__:
            self.store.observe(kind, obj, scope=scope)
        else:
            logger.warning("%s: unknown watch event %r", self.resource.plural, kind)

    def _note(self, scope: str, note: Callable[[str], None], problem: str) -> None:
        """Note whether a scope serves the type; report when that changes."""
        before = self.scopes.serves(scope)
        note(scope)
        self._tell_served(scope, before, problem)

    def _tell_served(self, scope: str, before: bool, problem: str) -> None:
        if self._on_served is not None and before != self.scopes.serves(scope):
            self._on_served(scope, problem)

    def _note_error(self, scope: str, error: KubeError) -> None:
        self._errors.labels(self.resource.plural, type(error).__name__).inc()
        before = self.scopes.serves(scope)
        if isinstance(error, Forbidden) and self.scopes.note_forbidden(scope, error):
            self._tell_served(scope, before, str(error))
        else:
            logger.warning("%s: list or watch failed, will retry: %s", self.resource.plural, error)

    async def _back_off(self, failures: int) -> None:
        await asyncio.sleep(
            full_jitter(self._rng, failures, base=BACKOFF_BASE_SECONDS, cap=BACKOFF_CAP_SECONDS)
        )


class _Progress:
    """How far one watch came, also when it ends in an error."""

    __slots__ = ("advanced", "version")

    def __init__(self, version: str) -> None:
        self.version = version
        self.advanced = False
