"""Workers that take keys from a queue, call a reconciler and act on its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.queue.workqueue import QueueShutDown, WorkQueue

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do until the next event."""


@dataclass(frozen=True, slots=True)
class RequeueAfter:
    """Reconcile again after ``seconds``, although nothing failed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Retry:
    """Failed; try again with the key's back-off.

    Attributes:
        error: The error; the message is logged.
        after_seconds: Try again after this time instead, when the server named one.
    """

    error: Exception
    after_seconds: float | None = None


Result: TypeAlias = Done | RequeueAfter | Retry


class Workers(Generic[K]):
    """A pool of reconciling tasks on one queue. Event loop only.

    Args:
        queue: The queue; its name labels the metrics.
        reconcile: Reconciles one key. An exception from it is a bug: it is logged with its trace,
            counted as a panic and retried.
        num_workers: Keys worked on at once.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        reconcile: Callable[[K], Awaitable[Result]],
        *,
        num_workers: int = 16,
        metrics: KubeMetrics | None = None,
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._num_workers = num_workers
        metrics = metrics or KubeMetrics()
        name = queue.name
        self._results = {
            result: metrics.reconciles.labels(name, result)
            for result in ("success", "requeue_after", "requeue", "error")
        }
        self._errors = metrics.reconcile_errors.labels(name)
        self._panics = metrics.reconcile_panics.labels(name)
        self._seconds = metrics.reconcile_seconds.labels(name)
        metrics.max_workers.labels(name).set(num_workers)
        metrics.active_workers.labels(name).set_function(lambda: queue.num_processing)

    async def run(self) -> None:
        """Work until cancelled or the queue is shut down.

        A cancelled worker puts its key back, because its reconcile may be incomplete.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(self._num_workers):
                group.create_task(self._work(), name=f"worker-{self._queue.name}-{number}")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                key = await self._queue.get()
            except QueueShutDown:
                return
            started = loop.time()
            try:
                self._settle(key, await self._reconcile(key))
            except asyncio.CancelledError:
                self._queue.add(key)
                raise
            except Exception as error:
                logger.exception("reconcile of %s failed unexpectedly", key)
                self._panics.inc()
                self._settle(key, Retry(error), log=False)
            finally:
                self._queue.done(key)
            self._seconds.observe(loop.time() - started)

    def _settle(self, key: K, result: Result, *, log: bool = True) -> None:
        queue = self._queue
        match result:
            case Done():
                queue.forget(key)
                self._results["success"].inc()
            case RequeueAfter(seconds):
                queue.forget(key)
                queue.add_after(key, seconds)
                self._results["requeue_after"].inc()
            case Retry(error, after_seconds):
                self._errors.inc()
                self._results["error"].inc()
                if after_seconds is not None:
                    queue.add_after(key, after_seconds)
                    delay = after_seconds
                else:
                    delay = queue.add_rate_limited(key)
                if log:
                    logger.warning("reconcile of %s failed, again in %.3f s: %s", key, delay, error)
