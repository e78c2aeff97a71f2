"""A cache fed by a host that loses events: ghosts are dropped, lost news is fetched."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import PODS
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache.feed import Feed
from kit.cluster.objects import pod
from kit.processes.eventually import eventually_async
from kit.servers.scripted_server import (
    forbidden_in,
    reply,
    reply_list,
    reply_status,
    scripted_server,
)


@pytest.fixture
async def server():
    async with scripted_server() as running:
        yield running


@asynccontextmanager
async def make_feed(server, **options):
    options = {"grace_seconds": 0.1, "rng": random.Random(1)} | options
    async with KubeClient(Transport(Connection(server=server.url))) as client:
        yield Feed(client, PODS, **options)


@asynccontextmanager
async def running(feed: Feed):
    task = asyncio.create_task(feed.run())
    try:
        yield feed
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_ghosts_are_dropped_by_a_list_of_names_only(server):
    server.lists.append(reply_list(pod("a", 1), version="9"))
    async with make_feed(server) as feed:
        for name in "abc":
            feed.observe("ADDED", pod(name, 1))
        told = []
        feed.store.add_handler(lambda kind, old, new: told.append((kind, old["metadata"]["name"])))
        await feed.repair()
        assert sorted(told) == [("DELETED", "b"), ("DELETED", "c")]
    assert "PartialObjectMetadataList" in server.seen[0].headers["Accept"]
    assert len(server.seen) == 1


async def test_object_created_during_the_list_stays(server):
    async with make_feed(server) as feed:

        async def list_meanwhile(request):
            feed.observe("ADDED", pod("new", 12))
            return await reply_list(version="9")(request)

        server.lists.append(list_meanwhile)
        await feed.repair()
        assert feed.store.keys() == [("ns", "new")]


async def test_lost_news_is_read_again(server):
    server.lists.append(reply_list(pod("a", 7), version="9"))
    server.others.append(reply(pod("a", 7, labels={"x": "new"})))
    async with make_feed(server) as feed:
        feed.observe("ADDED", pod("a", 1))
        await feed.repair()
        assert feed.store.get("ns", "a")["metadata"]["labels"] == {"x": "new"}


async def test_host_that_is_merely_late_costs_no_request(server):
    server.lists.append(reply_list(pod("a", 7), version="9"))
    async with make_feed(server, grace_seconds=5.0) as feed:
        repair = asyncio.create_task(feed.repair())
        await eventually_async(lambda: len(server.seen) == 1)
        feed.observe("ADDED", pod("a", 7))
        async with asyncio.timeout(2):
            await repair
    assert len(server.seen) == 1


async def test_object_that_vanished_after_the_list_is_dropped(server):
    server.lists.append(reply_list(pod("a", 7), version="9"))
    answer = {"kind": "Status", "reason": "NotFound", "details": {"name": "a", "kind": "pods"}}
    server.others.append(reply(answer, 404))
    async with make_feed(server) as feed:
        feed.observe("ADDED", pod("a", 1))
        await feed.repair()
        assert len(feed.store) == 0


async def test_a_404_that_names_no_object_drops_nothing(server):
    server.lists.append(reply_list(pod("a", 7), version="9"))
    server.others.append(reply_status(404, "NotFound", "404 page not found"))
    async with make_feed(server) as feed:
        feed.observe("ADDED", pod("a", 1))
        with pytest.raises(NotFound):
            await feed.repair()
        assert len(feed.store) == 1


async def test_synced_once_all_there_is_has_been_fed(server):
    server.lists.append(reply_list(pod("a", 7), version="9"))
    async with make_feed(server, grace_seconds=30.0) as feed, running(feed):
        await eventually_async(lambda: len(server.seen) == 1)
        assert not feed.synced.is_set()
        feed.observe(None, pod("a", 7))
        await eventually_async(feed.synced.is_set)


async def test_failed_repair_is_tried_again_and_leaves_the_cache_alone(server):
    server.lists.extend([reply_status(503, "Unavailable")] * 3 + [reply_list(version="9")])
    async with make_feed(server) as feed:
        feed.observe("ADDED", pod("a", 1))
        async with running(feed):
            await eventually_async(feed.synced.is_set)
        assert len(feed.store) == 0
    assert len(server.seen) == 4


async def test_a_host_that_lists_again_has_its_ghosts_dropped_at_once(server):
    both, one = pod("a", 7), pod("b", 8)
    left = reply_list(pod("b", 10), version="12")
    server.lists.extend([reply_list(both, one, version="9"), left])
    async with make_feed(server, repair_seconds=3600.0) as feed:
        feed.observe(None, both)
        feed.observe(None, one)
        async with running(feed):
            await eventually_async(feed.synced.is_set)
            assert len(feed.store) == 2
            feed.observe("MODIFIED", pod("b", 10))
            assert len(server.seen) == 1
            feed.observe(None, pod("b", 10))
            await eventually_async(lambda: len(feed.store) == 1)


async def test_a_namespace_that_may_not_be_listed_holds_up_no_other_and_is_tried_again(server):
    found = reply_list(pod("a", 7, namespace="x"), version="9")
    server.lists.append(forbidden_in("gone", otherwise=found))
    namespaces = ["gone", "x"]
    async with make_feed(server, namespaces=namespaces, repair_seconds=3600.0) as feed:
        feed.observe(None, pod("a", 7, namespace="x"))
        async with running(feed):
            await eventually_async(feed.synced.is_set)
            assert feed.scopes.is_unread("gone")
            assert not feed.scopes.is_unread("x")
            server.lists.append(reply_list(version="12"))
            server.lists.popleft()
            await eventually_async(lambda: not feed.scopes.is_unread("gone"))


@pytest.mark.parametrize("namespaces", [(), ("x",), ("x", "y")])
async def test_to_be_forbidden_everywhere_is_not_to_know_that_there_is_nothing(server, namespaces):
    server.lists.append(reply_status(403, "Forbidden"))
    async with make_feed(server, namespaces=namespaces) as feed, running(feed):
        await eventually_async(lambda: len(server.seen) >= 3 * max(1, len(namespaces)))
        assert not feed.synced.is_set()
