"""The loop that all kinds share: when it begins, what it looks at first, what it gathers."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from finetune_operator.controllers.caches import FINETUNEJOBS
from finetune_operator.controllers.controller import GATHER_SECONDS, Controller
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.workers import Done
from finetune_operator.kube.workqueue import PRIORITY_CHILD, PRIORITY_USER, WorkQueue

FIRST, SECOND = ("team-a", "first"), ("team-a", "second")


class Loop:
    """A controller of two objects whose caches fill on request."""

    def __init__(self):
        self.seen = []
        self.synced = [asyncio.Event(), asyncio.Event()]
        self.controller = Controller(
            FINETUNEJOBS,
            reads=[SimpleNamespace(synced=event) for event in self.synced],
            keys=lambda: [FIRST, SECOND],
            queue=WorkQueue("test", rng=random.Random(1)),
            reconcile=self.reconcile,
        )

    async def reconcile(self, key):
        self.seen.append((key, asyncio.get_running_loop().time()))
        return Done()


@pytest.mark.looptime
async def test_the_first_look_is_at_all_objects_once_every_cache_is_complete():
    loop = Loop()
    run = asyncio.create_task(loop.controller.run(num_workers=2, metrics=KubeMetrics()))
    loop.synced[0].set()
    await asyncio.sleep(1)
    assert loop.seen == []
    loop.synced[1].set()
    await asyncio.sleep(1)
    assert [key for key, _ in loop.seen] == [FIRST, SECOND]
    loop.controller.queue.shut_down()
    await run


@pytest.mark.looptime
async def test_a_swarm_of_changes_of_children_is_one_look_and_a_users_edit_waits_for_none():
    loop = Loop()
    for event in loop.synced:
        event.set()
    run = asyncio.create_task(loop.controller.run(num_workers=1, metrics=KubeMetrics()))
    await asyncio.sleep(1)
    loop.seen.clear()
    for _ in range(5):
        loop.controller.wake(FIRST, PRIORITY_CHILD)
    loop.controller.wake(SECOND, PRIORITY_USER)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(1)
    (second, at_once), (first, gathered) = loop.seen
    assert (second, first) == (SECOND, FIRST)
    assert at_once - began < GATHER_SECONDS / 2
    assert gathered - began == pytest.approx(GATHER_SECONDS, abs=0.1)
    loop.controller.queue.shut_down()
    await run
