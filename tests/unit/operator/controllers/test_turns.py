"""Turns are handed out among groups in rotation, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.progress.turns import FairSemaphore, QueueFull

pytestmark = pytest.mark.looptime


class Office:
    """Serves one group's member a second, and notes in which order."""

    def __init__(self, *, num_turns=1, max_waiting=100):
        self.turns = FairSemaphore(num_turns, max_waiting=max_waiting)
        self.served: list[str] = []
        self.tasks: list[asyncio.Task] = []

    async def come(self, *members: str) -> None:
        for member in members:
            self.tasks.append(asyncio.create_task(self._visit(member)))
        await asyncio.sleep(0)

    async def _visit(self, member: str) -> None:
        async with self.turns.turn(member[0]):
            self.served.append(member)
            await asyncio.sleep(1)

    async def close(self) -> list:
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_groups_take_turns_whatever_the_length_of_their_queues():
    office = Office()
    await office.come("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    await office.close()
    assert office.served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_no_more_run_at_once_than_there_are_turns():
    office = Office(num_turns=2)
    await office.come("a1", "a2", "a3", "b1")
    assert office.served == ["a1", "a2"]
    await asyncio.sleep(1.5)
    assert office.served == ["a1", "a2", "a3", "b1"]
    await office.close()


async def test_a_long_queue_is_refused_and_only_for_its_own_group():
    office = Office(max_waiting=2)
    await office.come("a1", "a2", "a3", "a4", "b1")
    ends = await office.close()
    assert [type(end) for end in ends] == [type(None)] * 3 + [QueueFull, type(None)]
    assert sorted(office.served) == ["a1", "a2", "a3", "b1"]


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "with its turn"])
async def test_who_leaves_takes_no_turn_along(late):
    office = Office()
    await office.come("a1", "a2", "b1")
    if late:
        # The turn is handed over, and its taker cancelled, before it runs.
        await asyncio.sleep(1)
    office.tasks[1].cancel()
    await office.close()
    assert office.served[-1] == "b1"
    await office.come("c1")
    assert office.served[-1] == "c1"
    await office.close()
