"""The loop that all kinds share: when it begins, what it looks at first, what it gathers."""

from __future__ import annotations

import asyncio
import random

import pytest

from finetune_operator.controllers.controller import (
    BEAT_SECONDS,
    GATHER_SECONDS,
    UNREAD_SECONDS,
    Controller,
    Owned,
)
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.errors import Forbidden
from finetune_operator.kube.cache.scopes import Scopes
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.queue.workers import Done
from finetune_operator.kube.queue.workqueue import PRIORITY_CHILD, PRIORITY_USER, WorkQueue

FIRST, SECOND = ("team-a", "first"), ("team-a", "second")


def obj(name, version, *, owner="", text=""):
    metadata = {"namespace": "team-a", "name": name, "resourceVersion": str(version)}
    return {"metadata": {**metadata, "owner": owner}, "text": text}


class Cache:
    """Stands for an informer: a store, and whether it is complete."""

    def __init__(self):
        self.resource, self.store, self.synced = FINETUNEJOBS, Store(), asyncio.Event()
        self.scopes = Scopes("pods", ["team-a", "team-b"])


class Loop:
    """A controller of two objects whose caches fill on request."""

    def __init__(self):
        self.seen = []
        self.kind, self.child, self.other = self.caches = [Cache() for _ in range(3)]
        for key in (FIRST, SECOND):
            self.kind.store.absorb(obj(key[1], 1))
        owned = Owned(
            cache=self.child,
            owner_of=lambda child: ("team-a", child["metadata"]["owner"]),
            is_news=lambda old, new: None in (old, new) or old["text"] != new["text"],
        )
        self.controller = Controller(
            self.kind,
            owns=[owned],
            reads=[self.other],
            queue=WorkQueue("test", rng=random.Random(1)),
            reconcile=self.reconcile,
        )

    def complete(self):
        for cache in self.caches:
            cache.synced.set()

    async def reconcile(self, key):
        self.seen.append((key, asyncio.get_running_loop().time()))
        return Done()


@pytest.mark.looptime
async def test_the_first_look_is_at_all_objects_once_every_cache_is_complete():
    loop = Loop()
    run = asyncio.create_task(loop.controller.run(num_workers=2, metrics=KubeMetrics()))
    for cache in loop.caches:
        await asyncio.sleep(1)
        assert loop.seen == []
        cache.synced.set()
    await asyncio.sleep(1)
    assert [key for key, _ in loop.seen] == [FIRST, SECOND]
    loop.controller.queue.shut_down()
    await run


@pytest.mark.looptime
async def test_a_swarm_of_changes_of_children_is_one_look_and_a_users_edit_waits_for_none():
    loop = Loop()
    loop.complete()
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
    waited = gathered - began
    assert GATHER_SECONDS - 0.01 < waited < GATHER_SECONDS + BEAT_SECONDS + 0.01
    loop.controller.queue.shut_down()
    await run


@pytest.mark.looptime
async def test_keys_whose_children_change_shortly_after_each_other_are_looked_at_together():
    loop = Loop()
    loop.complete()
    run = asyncio.create_task(loop.controller.run(num_workers=2, metrics=KubeMetrics()))
    await asyncio.sleep(1.01)
    loop.seen.clear()
    loop.controller.wake(FIRST, PRIORITY_CHILD)
    await asyncio.sleep(0.8 * BEAT_SECONDS)
    loop.controller.wake(SECOND, PRIORITY_CHILD)
    await asyncio.sleep(1)
    (one, first), (other, second) = loop.seen
    assert {one, other} == {FIRST, SECOND}
    assert second - first == pytest.approx(0.0, abs=0.001)
    loop.controller.queue.shut_down()
    await run


@pytest.mark.looptime
async def test_a_change_of_what_an_object_owns_is_a_look_at_the_owner_if_there_is_one():
    loop = Loop()
    loop.complete()
    run = asyncio.create_task(loop.controller.run(num_workers=1, metrics=KubeMetrics()))

    async def looks_after(*changes):
        await asyncio.sleep(1)
        loop.seen.clear()
        for kind, each in changes:
            loop.child.store.observe(kind, each)
        await asyncio.sleep(1)
        return [key for key, _ in loop.seen]

    assert await looks_after(("ADDED", obj("a", 2, owner="first"))) == [FIRST]
    assert await looks_after(("MODIFIED", obj("a", 3, owner="first"))) == []
    assert await looks_after(("MODIFIED", obj("a", 4, owner="first", text="new"))) == [FIRST]
    assert await looks_after(("DELETED", obj("a", 5, owner="first", text="new"))) == [FIRST]
    assert await looks_after(("ADDED", obj("b", 6, owner="gone"))) == []
    swarm = [("ADDED", obj(f"c{n}", 7 + n, owner="second")) for n in range(9)]
    assert await looks_after(*swarm) == [SECOND]
    loop.controller.queue.shut_down()
    await run


@pytest.mark.looptime
async def test_nothing_is_decided_where_children_cannot_be_read_before_they_can_be():
    loop = Loop()
    loop.complete()
    loop.child.scopes.note_forbidden("team-a", Forbidden("list Pod", status=403))
    run = asyncio.create_task(loop.controller.run(num_workers=1, metrics=KubeMetrics()))
    await asyncio.sleep(3 * UNREAD_SECONDS)
    assert loop.seen == []
    loop.child.scopes.note_listed("team-a")
    await asyncio.sleep(UNREAD_SECONDS)
    assert sorted(key for key, _ in loop.seen) == [FIRST, SECOND]
    loop.controller.queue.shut_down()
    await run
