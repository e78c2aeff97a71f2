"""Status writes: one request per change, none otherwise.

``StatusWriter`` writes at once and is for what a reconcile computed. ``StatusThrottle`` is for what
changes all the time (progress): per object at most one write per interval, the latest value wins.
Both use server-side apply, so that two field managers can own different parts of one status.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from finetune_operator.kube.apply import Absorb, digest_of
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.clock import Clock, to_timestamp
from finetune_operator.kube.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
)
from finetune_operator.kube.resource import Object, ObjectKey, Resource, key_of
from finetune_operator.kube.workqueue import WorkQueue

logger = logging.getLogger(__name__)


class StatusWriter:
    """Writes whole statuses of one kind. Event loop only.

    Args:
        client: The API client.
        resource: The kind.
        field_manager: Owner of the written fields.
        clock: Wall time for ``lastTransitionTime``.
        foreign_fields: Top-level status fields that another manager owns; never compared.
        absorb: Given the server's answers, usually ``Store.absorb``.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        field_manager: str,
        clock: Clock,
        foreign_fields: Collection[str] = (),
        absorb: Absorb | None = None,
    ) -> None:
        self._client = client
        self._resource = resource
        self._field_manager = field_manager
        self._clock = clock
        self._foreign_fields = frozenset(foreign_fields)
        self._absorb = absorb
        # What was sent and what the server made of it (defaults): the pair is "unchanged" too.
        self._last: dict[ObjectKey, tuple[bytes, bytes]] = {}
        self._written = client.metrics.status_writes.labels("written")
        self._unchanged = client.metrics.status_writes.labels("unchanged")

    async def write(self, obj: Object, status: Object) -> Object | None:
        """Make the object's status equal ``status``; skip if it is already.

        Args:
            obj: The cached object whose status it is.
            status: All fields this manager owns. Conditions may come without
                ``lastTransitionTime``: it is kept while a condition's status stays and set to now
                when it flips.

        Returns:
            The server's answer, None if nothing was sent.

        Raises:
            NotFound: The object is gone.
            Conflict: ``obj`` is not the current version: somebody wrote in between, or another
                object has its name by now. Look again and decide anew.
            KubeError: The server refused.
        """
        current = self._own(obj.get("status") or {})
        status = self._with_times(status, current.get("conditions") or ())
        if current == status:
            self._unchanged.inc()
            return None
        key = key_of(obj)
        digest = digest_of(status)
        if self._last.get(key) == (digest, digest_of(current)):
            self._unchanged.inc()
            return None
        # Pinned to the version it was computed from: the status endpoint ignores a UID, and the
        # end of a deleted object must not become that of the one created under its name.
        answer = await _apply_status(
            self._client,
            self._resource,
            obj,
            status,
            field_manager=self._field_manager,
            resource_version=obj["metadata"]["resourceVersion"],
        )
        self._last[key] = (digest, digest_of(self._own(answer.get("status") or {})))
        self._written.inc()
        if self._absorb is not None:
            self._absorb(answer)
        return answer

    def forget(self, key: ObjectKey) -> None:
        """Drop the memory of an object that was deleted."""
        self._last.pop(key, None)

    def _own(self, status: Object) -> Object:
        if not self._foreign_fields:
            return status
        return {name: value for name, value in status.items() if name not in self._foreign_fields}

    def _with_times(self, status: Object, previous: Sequence[Object]) -> Object:
        conditions = status.get("conditions")
        if not conditions:
            return status
        timed = with_transition_times(conditions, previous, self._clock.now())
        return {**status, "conditions": timed}


class StatusThrottle:
    """Writes a part of the status at most once per interval and object. Event loop only.

    Args:
        client: The API client.
        resource: The kind.
        field_manager: Owner of the written fields; another one than the ``StatusWriter``'s.
        interval_seconds: Least time between two writes of one object.
        rng: Source of back-off jitter.
        absorb: Given the server's answers.
        is_wanted: Asked with object and value right before a write; what it refuses is dropped.
            A value is not pinned to a version, because a process whose cache lags may tell it.
        num_workers: Writes in flight at once.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        field_manager: str,
        interval_seconds: float = 15.0,
        rng: random.Random | None = None,
        absorb: Absorb | None = None,
        is_wanted: Callable[[Object, Object], bool] | None = None,
        num_workers: int = 8,
    ) -> None:
        self._client = client
        self._resource = resource
        self._field_manager = field_manager
        self._interval_seconds = interval_seconds
        self._absorb = absorb
        self._is_wanted = is_wanted
        self._num_workers = num_workers
        self._pending: dict[ObjectKey, tuple[Object, Object]] = {}
        self._last_write: dict[ObjectKey, float] = {}
        self._last_digest: dict[ObjectKey, bytes] = {}
        self._loop = asyncio.get_running_loop()
        self._queue: WorkQueue[ObjectKey] = WorkQueue(
            f"status-{field_manager}",
            rng=rng or random.Random(),  # noqa: S311 - jitter, not a secret
            metrics=client.metrics,
            base_delay_seconds=0.2,
            max_delay_seconds=60.0,
        )
        self._written = client.metrics.status_writes.labels("written")
        self._unchanged = client.metrics.status_writes.labels("unchanged")

    def submit(self, obj: Object, status: Object, *, urgent: bool = False) -> None:
        """Write ``status`` when the object's interval allows; replaces what is pending.

        Args:
            obj: Holds name, namespace and UID; never sent itself.
            status: All fields this manager owns.
            urgent: Do not wait for the interval: the last value before an end.
        """
        key = key_of(obj)
        self._pending[key] = (obj, status)
        last = self._last_write.get(key)
        wait = 0.0 if last is None else last + self._interval_seconds - self._loop.time()
        self._queue.add_after(key, 0.0 if urgent else wait)

    def forget(self, key: ObjectKey) -> None:
        """Drop all memory of an object that was deleted or has ended."""
        self._pending.pop(key, None)
        self._last_write.pop(key, None)
        self._last_digest.pop(key, None)
        self._queue.forget(key)

    async def run(self) -> None:
        """Write until cancelled. What is pending then is lost: progress is told again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._num_workers):
                group.create_task(self._work(), name=f"status-{self._field_manager}")

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._flush(key)
            except Exception:
                # A bug on one object must not stop the progress of all others.
                logger.exception("writing the status of %s/%s failed unexpectedly", *key)
            finally:
                self._queue.done(key)

    async def _flush(self, key: ObjectKey) -> None:
        pending = self._pending.pop(key, None)
        if pending is None:
            return
        obj, status = pending
        if self._is_wanted is not None and not self._is_wanted(obj, status):
            return
        digest = digest_of([obj["metadata"].get("uid"), status])
        if self._last_digest.get(key) == digest:
            self._unchanged.inc()
            return
        # Before the answer: what is submitted meanwhile has to wait its interval as well.
        self._last_write[key] = self._loop.time()
        try:
            answer = await _apply_status(
                self._client, self._resource, obj, status, field_manager=self._field_manager
            )
        except (NotFound, Conflict):
            self.forget(key)
        except (Invalid, Forbidden) as error:
            logger.error("status of %s/%s cannot be written: %s", *key, error)
        except KubeError as error:
            logger.warning("status of %s/%s not written, will retry: %s", *key, error)
            self._pending.setdefault(key, pending)
            self._queue.add_rate_limited(key)
        else:
            self._last_digest[key] = digest
            self._queue.forget(key)
            self._written.inc()
            if self._absorb is not None:
                self._absorb(answer)


async def _apply_status(
    client: KubeClient,
    resource: Resource,
    obj: Object,
    status: Object,
    *,
    field_manager: str,
    resource_version: str = "",
) -> Object:
    namespace, name = key_of(obj)
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if resource_version:
        metadata["resourceVersion"] = resource_version
    patch = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "status": status,
    }
    return await client.apply_status(resource, patch, field_manager=field_manager)


def with_transition_times(
    conditions: Sequence[Object], previous: Sequence[Object], now: datetime
) -> list[Object]:
    """Return ``conditions`` with ``lastTransitionTime`` set as the API conventions ask.

    Args:
        conditions: Desired conditions; a time that one already has is kept.
        previous: Conditions as they are now.
        now: Time of those whose ``status`` is new or flipped.
    """
    before: dict[str, Any] = {condition["type"]: condition for condition in previous}
    result: list[Object] = []
    for condition in conditions:
        if not condition.get("lastTransitionTime"):
            old = before.get(condition["type"])
            kept = old is not None and old.get("status") == condition["status"]
            time = old.get("lastTransitionTime") if old is not None and kept else None
            condition = {**condition, "lastTransitionTime": time or to_timestamp(now)}
        result.append(condition)
    return result
