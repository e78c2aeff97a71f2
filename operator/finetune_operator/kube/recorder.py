"""Events for ``kubectl describe``: aggregated, limited, never blocking a reconcile.

The same (object, reason, message) becomes one Event whose count grows. The Event's name is derived
from these, so that a restarted process or a standby continues the same Event. Recording never waits
and never fails. Core ``v1`` Events have the ``count`` that ``kubectl describe`` shows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeVar

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import (
    AlreadyExists,
    KubeError,
    NotFound,
    ServerUnavailable,
    TooManyRequests,
    TransportError,
)
from finetune_operator.kube.api.resource import EVENTS, Object, Resource
from finetune_operator.kube.clock import Clock, to_timestamp
from finetune_operator.kube.digest import digest_of
from finetune_operator.kube.ratelimit import TokenBucket

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 1024
_MAX_KNOWN = 2048
_MAX_TRIES = 4

H = TypeVar("H")
V = TypeVar("V")


@dataclass(kw_only=True, slots=True)
class _Known:
    """One Event and how often it happened.

    Attributes:
        event: The Event without count and last time.
        count: Number of times it was recorded here.
        base: Count that another process had reached before.
        is_told: Whether the server has it.
        is_scheduled: Whether a write is on its way.
        num_failures: Failed writes in a row.
    """

    event: Object
    count: int = 0
    base: int = 0
    is_told: bool = False
    is_scheduled: bool = False
    num_failures: int = 0


class EventRecorder:
    """Records Events of one component. Event loop only; ``record`` never waits.

    Args:
        component: Shown as the source of the Event.
        clock: Wall time for the Events, monotonic time for the limit.
        burst: Different Events per object that pass at once.
        refill_seconds: Time in which an object earns one more Event.
        repeat_seconds: Time in which repeats of an Event are collected into one write.
        rest_seconds: Pause of an idle sender; later Events are sent together.
        max_pending: Events waiting to be sent before new ones are dropped.
        num_senders: Writes in flight at once.

    Source: the limits are those of client-go's EventSourceObjectSpamFilter.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        component: str,
        instance: str,
        clock: Clock,
        burst: int = 25,
        refill_seconds: float = 300.0,
        repeat_seconds: float = 10.0,
        rest_seconds: float = 0.5,
        max_pending: int = 10_000,
        num_senders: int = 2,
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance
        self._clock = clock
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._repeat_seconds = repeat_seconds
        self._rest_seconds = rest_seconds
        self._max_pending = max_pending
        self._num_senders = num_senders
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._queue: asyncio.Queue[_Known] = asyncio.Queue()
        counter = client.metrics.recorded_events
        self._created = counter.labels("created")
        self._aggregated = counter.labels("aggregated")
        self._dropped = counter.labels("dropped")

    def record(
        self,
        resource: Resource,
        obj: Object,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
    ) -> None:
        """Record an Event on ``obj``.

        Args:
            resource: Type of the object (a cached object may carry no kind).
            obj: The object that the Event is about.
            kind: Normal or Warning.
            reason: Stable CamelCase word; part of the product's interface.
            message: For people; cut at 1024 characters.
        """
        metadata = obj["metadata"]
        uid = metadata.get("uid", "")
        message = message[:MAX_MESSAGE_CHARACTERS]
        digest = digest_of([uid, kind, reason, message])
        known = self._known.get(digest)
        if known is None:
            if self._queue.qsize() >= self._max_pending or not self._has_token(uid):
                self._dropped.inc()
                return
            event = self._new_event(resource, metadata, kind, reason, message, digest)
            known = _remember(self._known, digest, _Known(event=event))
        else:
            self._known.move_to_end(digest)
        known.count += 1
        if not known.is_scheduled:
            known.is_scheduled = True
            if known.is_told:
                self._loop.call_later(self._repeat_seconds, self._queue.put_nowait, known)
            else:
                self._queue.put_nowait(known)

    async def run(self) -> None:
        """Send Events until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._num_senders):
                group.create_task(self._send_forever(), name=f"events-{number}")

    async def flush(self, timeout_seconds: float = 2.0) -> None:
        """Send what is waiting, at the end of a process; what remains then is dropped."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self._queue.empty():
                    await self._send(self._queue.get_nowait())
        except TimeoutError:
            self._dropped.inc(self._queue.qsize())

    async def _send_forever(self) -> None:
        while True:
            await self._send(await self._queue.get())
            if self._queue.empty():
                await asyncio.sleep(self._rest_seconds)

    async def _send(self, known: _Known) -> None:
        known.is_scheduled = False
        try:
            await (self._repeat(known) if known.is_told else self._create(known))
            known.num_failures = 0
        except (ServerUnavailable, TooManyRequests, TransportError) as error:
            known.num_failures += 1
            if known.num_failures >= _MAX_TRIES:
                self._drop(known, error)
            elif not known.is_scheduled:
                known.is_scheduled = True
                self._loop.call_later(float(known.num_failures), self._queue.put_nowait, known)
        except KubeError as error:
            # Usually the namespace is being deleted; a retry would not help.
            self._drop(known, error)
        except Exception:
            logger.exception("sending an Event failed unexpectedly")
            self._dropped.inc()

    async def _create(self, known: _Known) -> None:
        now = to_timestamp(self._clock.now())
        event = {**known.event, "count": known.count, "firstTimestamp": now, "lastTimestamp": now}
        try:
            await self._client.create(EVENTS, event)
            self._created.inc()
        except AlreadyExists:
            # An earlier process created it. This patch has no count, so it cannot reset the count.
            answer = await self._patch(known, {"lastTimestamp": now})
            known.base = int(answer.get("count") or 1) - known.count
            self._aggregated.inc()
        known.is_told = True

    async def _repeat(self, known: _Known) -> None:
        now = to_timestamp(self._clock.now())
        try:
            await self._patch(known, {"count": known.base + known.count, "lastTimestamp": now})
            self._aggregated.inc()
        except NotFound:
            # The server keeps Events for an hour; this is a new one.
            known.base, known.count = 0, 1
            await self._create(known)

    async def _patch(self, known: _Known, patch: Object) -> Object:
        metadata = known.event["metadata"]
        return await self._client.merge_patch(
            EVENTS, metadata["namespace"], metadata["name"], patch
        )

    def _drop(self, known: _Known, error: KubeError) -> None:
        logger.info("dropped an Event %s: %s", known.event["reason"], error)
        known.num_failures = 0
        self._dropped.inc()

    def _has_token(self, uid: str) -> bool:
        bucket = self._buckets.get(uid)
        if bucket is None:
            bucket = TokenBucket(self._clock, rate=1.0 / self._refill_seconds, burst=self._burst)
            _remember(self._buckets, uid, bucket)
        return bucket.try_take()

    def _new_event(
        self,
        resource: Resource,
        metadata: Object,
        kind: str,
        reason: str,
        message: str,
        digest: bytes,
    ) -> Object:
        namespace = metadata.get("namespace") or "default"
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "name": f"{metadata['name'][:200]}.{digest.hex()[:16]}",
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._component, "host": self._instance},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }


def _remember(memory: OrderedDict[H, V], key: H, value: V) -> V:
    """Add to a bounded memory; the least recently used entry falls out."""
    memory[key] = value
    if len(memory) > _MAX_KNOWN:
        memory.popitem(last=False)
    return value
