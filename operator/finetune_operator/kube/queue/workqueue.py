"""A queue of keys for level-triggered reconciling.

As in client-go, a key waits at most once, and one worker at most holds it. A key that is added
meanwhile is queued again when the worker is done. In addition there are priorities, delayed adds on
one timer, per-key back-off, turns of tenants (``ready.py``) and a limit for heavy keys.

Source: k8s.io/client-go/util/workqueue; priorities and back-off bounds from controller-runtime's
designs/priorityqueue.md.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from finetune_operator.kube.backoff import Pauses, exponential
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.queue.ready import ReadyKeys

K = TypeVar("K", bound=Hashable)

PRIORITY_USER = 0
"""Something a person did or waits for: a new object, a changed spec, a deletion."""
PRIORITY_CHILD = -10
"""Changes of children."""
PRIORITY_RESYNC = -100
"""The list at start-up and periodic resyncs: must not delay new work."""
MAX_HEAVY = 2
"""Heavy keys in work at once. More make the API server slower for all, and not faster for them."""
_TICK_SECONDS = 1e-3
"""Timers may fire a clock tick early; what is due within it goes now."""


class QueueShutDown(Exception):  # noqa: N818 - a signal, as asyncio.QueueShutDown
    """The queue was shut down and holds nothing more to do."""


class WorkQueue(Generic[K]):
    """Dedupes, orders and hands out keys. Event loop only; only ``get`` waits.

    Light and heavy keys take turns, up to the limit of heavy keys. Both are ordered as in
    ``ReadyKeys``.

    Args:
        rng: Source of back-off jitter; seeded in tests.
        tenant_of: Returns the tenant of a key; by default all keys have the same.
        is_heavy: Whether only a few such keys are worked on at once; asked when a key becomes
            ready.
        base_delay_seconds: Back-off after the first failure of a key.
    """

    def __init__(
        self,
        name: str,
        *,
        rng: random.Random,
        tenant_of: Callable[[K], Hashable] | None = None,
        is_heavy: Callable[[K], bool] | None = None,
        metrics: KubeMetrics | None = None,
        base_delay_seconds: float = 0.005,
        max_delay_seconds: float = 1000.0,
    ) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._rng = rng
        self._base_delay_seconds = base_delay_seconds
        self._max_delay_seconds = max_delay_seconds
        tenant_of = tenant_of or (lambda key: None)
        self._light, self._heavy = ReadyKeys[K](tenant_of), ReadyKeys[K](tenant_of)
        self._is_heavy = is_heavy or (lambda key: False)
        self._is_heavy_turn = False
        self._sequence = 0
        self._processing: dict[K, tuple[float, bool]] = {}
        self._dirty: dict[K, int] = {}
        self._waiting: list[tuple[float, int, K]] = []
        self._due: dict[K, tuple[float, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pauses: dict[K, Pauses] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._is_shut_down = False
        metrics = metrics or KubeMetrics()
        self._adds = metrics.queue_adds.labels(name)
        self._retries = metrics.queue_retries.labels(name)
        self._queue_seconds = metrics.queue_seconds.labels(name)
        self._work_seconds = metrics.work_seconds.labels(name)
        metrics.queue_depth.labels(name).set_function(self.__len__)
        metrics.unfinished_seconds.labels(name).set_function(self._unfinished_seconds)
        metrics.longest_running_seconds.labels(name).set_function(self._longest_running_seconds)

    def __len__(self) -> int:
        """Return the number of ready keys, with heavy ones that wait."""
        return len(self._light) + len(self._heavy)

    @property
    def num_processing(self) -> int:
        """Number of keys that workers hold."""
        return len(self._processing)

    @property
    def num_delayed(self) -> int:
        """Number of keys with a delayed add."""
        return len(self._due)

    def add(self, key: K, *, priority: int = PRIORITY_USER) -> None:
        """Queue a key now; higher priority first, then first come first served."""
        if self._is_shut_down:
            return
        if key in self._processing:
            previous = self._dirty.get(key)
            if previous is None:
                self._adds.inc()
            if previous is None or priority > previous:
                self._dirty[key] = priority
            return
        for ready in (self._light, self._heavy):
            if (entry := ready.get(key)) is not None:
                if priority > entry.priority:
                    ready.put(key, priority, entry.since)
                return
        self._adds.inc()
        self._make_ready(key, priority, self._loop.time())

    def add_after(self, key: K, delay_seconds: float, *, priority: int = PRIORITY_USER) -> None:
        """Queue a key after a delay; of several delayed adds of a key the earliest counts."""
        if self._is_shut_down:
            return
        if delay_seconds <= 0:
            self.add(key, priority=priority)
            return
        due = self._loop.time() + delay_seconds
        current = self._due.get(key)
        if current is not None:
            priority = max(priority, current[1])
            if current[0] <= due:
                self._due[key] = (current[0], priority)
                return
        self._due[key] = (due, priority)
        self._sequence += 1
        heapq.heappush(self._waiting, (due, self._sequence, key))
        self._arm()

    def add_rate_limited(self, key: K, *, priority: int = PRIORITY_USER) -> float:
        """Queue a key after its own back-off; return the delay in seconds.

        The delay doubles with every pause since the last ``forget``. Up to a tenth is added at
        random, so that keys do not come back together. A key that fails before its pause is over
        waits for the rest of it.
        """
        self._retries.inc()
        now = self._loop.time()
        pauses = self._pauses.get(key, Pauses()).after_failure(
            now, self._length_of, tick_seconds=_TICK_SECONDS
        )
        self._pauses[key] = pauses
        delay = pauses.until - now
        self.add_after(key, delay, priority=priority)
        return delay

    def forget(self, key: K) -> None:
        """Reset the back-off of a key: it succeeded, or is gone."""
        self._pauses.pop(key, None)

    def num_requeues(self, key: K) -> int:
        """Return how many pauses the failures of a key have cost since the last ``forget``."""
        return self._pauses.get(key, Pauses()).number

    def _length_of(self, number: int) -> float:
        bound = exponential(number, base=self._base_delay_seconds, cap=self._max_delay_seconds)
        return bound * (1.0 + self._rng.uniform(0.0, 0.1))

    async def get(self) -> K:
        """Wait for a key; the caller must call ``done`` with it, whatever happens.

        Raises:
            QueueShutDown: The queue was shut down and is empty.
        """
        while not self._can_take():
            if self._is_shut_down and not len(self):
                raise QueueShutDown(self.name)
            getter = self._loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                getter.cancel()
                if getter in self._getters:
                    self._getters.remove(getter)
                elif self._can_take():
                    # This waiter was woken but will not take the key: wake another.
                    self._wake_one()
                raise
        return self._take()

    def done(self, key: K) -> None:
        """Give a key back; if it was added meanwhile, it is queued again."""
        now = self._loop.time()
        since, is_heavy = self._processing.pop(key)
        self._work_seconds.observe(now - since)
        if is_heavy and self._heavy:
            self._wake_one()
        priority = self._dirty.pop(key, None)
        if priority is not None:
            self._make_ready(key, priority, now)
        if self._is_shut_down:
            self._wake_all()

    def shut_down(self) -> None:
        """Take no more keys; waiting workers end once what is ready has been taken."""
        self._is_shut_down = True
        self._due.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_all()

    def _make_ready(self, key: K, priority: int, since: float) -> None:
        ready = self._heavy if self._is_heavy(key) else self._light
        ready.put(key, priority, since)
        self._wake_one()

    def _can_take(self) -> bool:
        return bool(self._light) or self._can_take_heavy()

    def _can_take_heavy(self) -> bool:
        num_heavy = sum(is_heavy for _, is_heavy in self._processing.values())
        return bool(self._heavy) and num_heavy < MAX_HEAVY

    def _take(self) -> K:
        is_heavy = self._can_take_heavy() and (self._is_heavy_turn or not self._light)
        self._is_heavy_turn = not is_heavy
        key, entry = (self._heavy if is_heavy else self._light).take()
        now = self._loop.time()
        self._queue_seconds.observe(now - entry.since)
        self._processing[key] = (now, is_heavy)
        return key

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._getters:
            self._wake_one()

    def _arm(self) -> None:
        """Set the one timer to the earliest delayed add."""
        waiting = self._waiting
        while waiting and self._due.get(waiting[0][2], (None,))[0] != waiting[0][0]:
            heapq.heappop(waiting)
        if not waiting:
            return
        due = waiting[0][0]
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._release_due)

    def _release_due(self) -> None:
        self._timer = None
        now = self._loop.time() + _TICK_SECONDS
        while self._waiting and self._waiting[0][0] <= now:
            due, _, key = heapq.heappop(self._waiting)
            current = self._due.get(key)
            if current is not None and current[0] == due:
                del self._due[key]
                self.add(key, priority=current[1])
        self._arm()

    def _unfinished_seconds(self) -> float:
        now = self._loop.time()
        return sum(now - since for since, _ in self._processing.values())

    def _longest_running_seconds(self) -> float:
        now = self._loop.time()
        return max((now - since for since, _ in self._processing.values()), default=0.0)
