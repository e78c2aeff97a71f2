"""Ready keys, and the order in which tenants have a turn.

Takes alternate: one returns the most urgent key of all tenants, the next one a key of the tenant
that has waited longest. So urgent work goes first, and every tenant has its turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Entry(NamedTuple):
    """A key that is ready.

    Attributes:
        priority: The higher, the more urgent.
        sequence: Number of its heap entry; other entries of the key are outdated.
        since: Time of the loop at which it became ready, in seconds.
    """

    priority: int
    sequence: int
    since: float


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


class ReadyKeys(Generic[K]):
    """Orders keys by tenant, then by priority and age.

    While n tenants have keys waiting, each of them has a turn within 2n keys that are taken.

    Args:
        tenant_of: Returns the tenant of a key.
    """

    def __init__(self, tenant_of: Callable[[K], Hashable]) -> None:
        self._tenant_of = tenant_of
        # The heaps may hold outdated entries: `_entries` has the valid entry of each key, the
        # ticket of a lane that of each tenant.
        self._entries: dict[K, Entry] = {}
        self._lanes: dict[Hashable, _Lane[K]] = {}
        self._by_turn: list[tuple[int, Hashable]] = []
        self._by_priority: list[tuple[int, int, Hashable]] = []
        self._is_turn = False
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> Entry | None:
        """Return the entry of a key; None if it is not ready."""
        return self._entries.get(key)

    def put(self, key: K, priority: int, since: float) -> None:
        """Add a key, or raise the priority of one that is there."""
        self._sequence += 1
        self._entries[key] = Entry(priority, self._sequence, since)
        tenant = self._tenant_of(key)
        lane = self._lanes.get(tenant)
        if lane is None:
            lane = self._lanes[tenant] = _Lane(self._sequence)
            heapq.heappush(self._by_turn, (lane.ticket, tenant))
        heapq.heappush(lane.heap, (-priority, self._sequence, key))
        if lane.heap[0][2] == key:
            heapq.heappush(self._by_priority, (-priority, lane.ticket, tenant))

    def take(self) -> tuple[K, Entry]:
        """Remove the key whose turn it is; there must be one."""
        tenant = self._next_tenant()
        lane = self._lanes[tenant]
        _, _, key = heapq.heappop(lane.heap)
        entry = self._entries.pop(key)
        self._line_up(tenant, lane)
        return key, entry

    def _next_tenant(self) -> Hashable:
        """Return the tenant whose turn it is: every other time the one at the head of the line."""
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

        This removes outdated entries from the top of its heap.
        """
        while lane.heap:
            negated, sequence, key = lane.heap[0]
            entry = self._entries.get(key)
            if entry is not None and entry.sequence == sequence:
                self._sequence += 1
                lane.ticket = self._sequence
                heapq.heappush(self._by_turn, (lane.ticket, tenant))
                heapq.heappush(self._by_priority, (negated, lane.ticket, tenant))
                self._drop_outdated()
                return
            heapq.heappop(lane.heap)
        del self._lanes[tenant]

    def _drop_outdated(self) -> None:
        """Drop outdated turns: below more urgent ones they might never come up."""
        if len(self._by_priority) > 4 * len(self._lanes) + 64:
            self._by_priority = [
                (lane.heap[0][0], lane.ticket, tenant) for tenant, lane in self._lanes.items()
            ]
            heapq.heapify(self._by_priority)
