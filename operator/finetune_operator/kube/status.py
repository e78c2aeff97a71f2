"""Status that changes often (progress): the latest value wins, writes are rate-limited.

Written by server-side apply, so that another field manager can own the rest of the status.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    ObjectNotFound,
)
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource, key_of
from finetune_operator.kube.digest import digest_of
from finetune_operator.kube.queue.workqueue import WorkQueue

logger = logging.getLogger(__name__)


class StatusThrottle:
    """Writes a part of the status at most once per interval and object. Event loop only.

    Args:
        field_manager: Owner of the written fields; another one than the controller's.
        interval_seconds: Least time between two writes of one object.
        absorb: Called with the server's answers.
        on_refused: Called with the object and the answer where the server refuses a write
            permanently.
        is_wanted: Called with object and value right before a write; False drops the value.
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
        absorb: Callable[[Object], None] | None = None,
        on_refused: Callable[[Object, KubeError], None] | None = None,
        is_wanted: Callable[[Object, Object], bool] | None = None,
        num_workers: int = 8,
    ) -> None:
        self._client = client
        self._resource = resource
        self._field_manager = field_manager
        self._interval_seconds = interval_seconds
        self._absorb = absorb
        self._on_refused = on_refused
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
        """Write ``status`` when the object's interval allows; replaces the pending value.

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

    def has_pending(self, key: ObjectKey) -> bool:
        """Return whether a value of an object waits to be written."""
        return key in self._pending

    def forget(self, key: ObjectKey) -> None:
        """Drop all memory of an object that was deleted or has ended."""
        self._pending.pop(key, None)
        self._last_write.pop(key, None)
        self._last_digest.pop(key, None)
        self._queue.forget(key)

    async def run(self) -> None:
        """Write until cancelled; pending values are lost, because progress is reported again."""
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
        # Before the answer: values submitted meanwhile wait for the interval as well.
        self._last_write[key] = self._loop.time()
        try:
            answer = await self._client.apply_status(
                self._resource, self._part_of(obj, status), field_manager=self._field_manager
            )
        except (ObjectNotFound, Conflict):
            self.forget(key)
        except (Invalid, Forbidden) as error:
            logger.error("status of %s/%s cannot be written: %s", *key, error)
            if self._on_refused is not None:
                self._on_refused(obj, error)
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

    def _part_of(self, obj: Object, status: Object) -> Object:
        namespace, name = key_of(obj)
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        return {"metadata": metadata, "status": status}
