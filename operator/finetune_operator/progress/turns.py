"""A few turns at a time, handed out fairly among groups: a group that floods waits for itself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFull(Exception):  # noqa: N818 - an answer, not a fault
    """So many of the group wait already that one more would wait for nothing."""


class FairSemaphore:
    """Limits how many tasks run at once.

    Free turns go to the groups in rotation, and within a group by age.

    Args:
        max_waiting: Most that wait in one group.
    """

    def __init__(self, num_turns: int, *, max_waiting: int) -> None:
        self._free = num_turns
        self._max_waiting = max_waiting
        # In order of their next turn. Nobody waits while a turn is free.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, group: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the duration of the context.

        Raises:
            QueueFull: ``max_waiting`` tasks of the group wait already.
        """
        await self._take(group)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, group: str) -> None:
        if self._free:
            self._free -= 1
            return
        queue = self._waiting.setdefault(group, deque())
        if len(queue) >= self._max_waiting:
            raise QueueFull(f"{len(queue)} of {group} wait already")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                # The turn came at the same moment: pass it on.
                self._give_back()
            elif future in queue:
                queue.remove(future)
                if not queue and self._waiting.get(group) is queue:
                    del self._waiting[group]
            raise

    def _give_back(self) -> None:
        while self._waiting:
            group, queue = next(iter(self._waiting.items()))
            future = queue.popleft()
            if queue:
                self._waiting.move_to_end(group)
            else:
                del self._waiting[group]
            if not future.done():
                future.set_result(None)
                return
        self._free += 1
