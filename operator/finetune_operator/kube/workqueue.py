"""A queue of keys for level-triggered reconciling.

Semantics are client-go's: a key waits at most once however often it is added; no two workers ever
hold the same key; a key added while it is being worked on is queued again when the worker is done,
so no wake-up is lost. On top: priorities, delayed adds on one timer, per-key back-off, and tenants
in turn: of two keys that are taken one is of the highest priority, whoever's it is, the other of
the tenant that has waited longest. So urgent work goes first, and no crowd keeps others waiting.

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

K = TypeVar("K", bound=Hashable)

PRIORITY_USER = 0
"""Something a person did or waits for: a new object, a changed spec, a deletion."""
PRIORITY_CHILD = -10
"""Changes of children."""
PRIORITY_RESYNC = -100
"""The list at start-up and periodic resyncs: must not delay new work."""
_TICK_SECONDS = 1e-3
"""Timers may fire a clock tick early; what is due within it goes now."""


class QueueShutDown(Exception):  # noqa: N818 - a signal, as asyncio.QueueShutDown
    """The queue was shut down and holds nothing more to do."""


class _Lane(Generic[K]):
    """The ready keys of one tenant.

    Attributes:
        heap: The keys, the most urgent first; it may hold outdated entries.
        ticket: Place of the tenant in the line; a new one after each turn.
    """

    __slots__ = ("heap", "ticket")

    def __init__(self, ticket: int) -> None:
        self.heap: list[tuple[int, int, K]] = []
        self.ticket = ticket


class WorkQueue(Generic[K]):
    """Dedupes, orders and hands out keys. Event loop only; only ``get`` waits.

    Of one tenant's keys the highest priority comes first, then who came first. While n tenants
    have keys waiting, each of them has a turn within 2n keys that are taken.

    Args:
        name: Label of the metrics.
        rng: Source of back-off jitter; seeded in tests.
        tenant_of: Whose a key is; by default all are one tenant's.
        metrics: Where to count.
        base_delay_seconds: Back-off after the first failure of a key.
        max_delay_seconds: Largest back-off.
    """

    def __init__(
        self,
        name: str,
        *,
        rng: random.Random,
        tenant_of: Callable[[K], Hashable] | None = None,
        metrics: KubeMetrics | None = None,
        base_delay_seconds: float = 0.005,
        max_delay_seconds: float = 1000.0,
    ) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._rng = rng
        self._base_delay_seconds = base_delay_seconds
        self._max_delay_seconds = max_delay_seconds
        self._tenant_of = tenant_of or (lambda key: None)
        # Ready keys. The heaps may hold outdated entries: `_ready` says which one of a key counts,
        # the ticket of its lane which one of a tenant.
        self._lanes: dict[Hashable, _Lane[K]] = {}
        self._by_turn: list[tuple[int, Hashable]] = []
        self._by_priority: list[tuple[int, int, Hashable]] = []
        self._is_turn = False
        self._ready: dict[K, tuple[int, int, float]] = {}
        self._sequence = 0
        self._processing: dict[K, float] = {}
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
        """Return the number of keys that a worker could take now."""
        return len(self._ready)

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
        entry = self._ready.get(key)
        if entry is None:
            self._adds.inc()
            self._make_ready(key, priority, self._loop.time())
        elif priority > entry[0]:
            # Raised: a new heap entry; the old one is skipped when it comes up.
            self._make_ready(key, priority, entry[2])

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
        random, so that keys that failed together do not come back together. A key that fails again
        before its pause is over waits for the rest of it.
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
        while not self._ready:
            if self._is_shut_down:
                raise QueueShutDown(self.name)
            getter = self._loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                getter.cancel()
                if getter in self._getters:
                    self._getters.remove(getter)
                elif self._ready:
                    # This waiter was woken but will not take the key: wake another.
                    self._wake_one()
                raise
        return self._take()

    def done(self, key: K) -> None:
        """Give a key back; if it was added meanwhile, it is queued again."""
        now = self._loop.time()
        self._work_seconds.observe(now - self._processing.pop(key))
        priority = self._dirty.pop(key, None)
        if priority is not None:
            self._make_ready(key, priority, now)

    def shut_down(self) -> None:
        """Take no more keys; waiting workers end once what is ready has been taken."""
        self._is_shut_down = True
        self._due.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._getters:
            self._wake_one()

    def _make_ready(self, key: K, priority: int, since: float) -> None:
        self._sequence += 1
        is_new = key not in self._ready
        self._ready[key] = (priority, self._sequence, since)
        tenant = self._tenant_of(key)
        lane = self._lanes.get(tenant)
        if lane is None:
            lane = self._lanes[tenant] = _Lane(self._sequence)
            heapq.heappush(self._by_turn, (lane.ticket, tenant))
        heapq.heappush(lane.heap, (-priority, self._sequence, key))
        if lane.heap[0][2] == key:
            heapq.heappush(self._by_priority, (-priority, lane.ticket, tenant))
        if is_new:
            self._wake_one()

    def _take(self) -> K:
        tenant = self._next_tenant()
        lane = self._lanes[tenant]
        _, _, key = heapq.heappop(lane.heap)
        entry = self._ready.pop(key)
        self._line_up(tenant, lane)
        now = self._loop.time()
        self._queue_seconds.observe(now - entry[2])
        self._processing[key] = now
        return key

    def _next_tenant(self) -> Hashable:
        """Return whose turn it is: that of the tenant at the head of the line, every other time."""
        self._is_turn = not self._is_turn
        if self._is_turn:
            while True:
                negated, ticket, tenant = heapq.heappop(self._by_priority)
                lane = self._lanes.get(tenant)
                if lane is None or lane.ticket != ticket:
                    continue
                if lane.heap[0][0] == negated:
                    return tenant
        while True:
            ticket, tenant = heapq.heappop(self._by_turn)
            lane = self._lanes.get(tenant)
            if lane is not None and lane.ticket == ticket:
                return tenant

    def _line_up(self, tenant: Hashable, lane: _Lane[K]) -> None:
        """Put a tenant that had its turn at the end of the line, if it has more keys.

        Its heap has no outdated entry at the top afterwards; nor does one get there, for a key
        that is raised is above what it was.
        """
        while lane.heap:
            negated, sequence, key = lane.heap[0]
            entry = self._ready.get(key)
            if entry is not None and entry[1] == sequence:
                self._sequence += 1
                lane.ticket = self._sequence
                heapq.heappush(self._by_turn, (lane.ticket, tenant))
                heapq.heappush(self._by_priority, (negated, lane.ticket, tenant))
                self._drop_outdated()
                return
            heapq.heappop(lane.heap)
        del self._lanes[tenant]

    def _drop_outdated(self) -> None:
        """Forget turns that are over: below more urgent ones they might never come up."""
        if len(self._by_priority) > 4 * len(self._lanes) + 64:
            self._by_priority = [
                (lane.heap[0][0], lane.ticket, tenant) for tenant, lane in self._lanes.items()
            ]
            heapq.heapify(self._by_priority)

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

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
        return sum(now - since for since in self._processing.values())

    def _longest_running_seconds(self) -> float:
        now = self._loop.time()
        return max((now - since for since in self._processing.values()), default=0.0)
