"""The informer against a server that misbehaves: cut, silence, 410, 5xx, malformed answers."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.resource import PODS
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache import informer as informer_module
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.metrics import KubeMetrics
from kit.cluster.objects import pod
from kit.processes.eventually import eventually_async
from kit.servers.scripted_server import (
    forbidden_in,
    hang_up,
    reply,
    reply_list,
    reply_status,
    scripted_server,
    status,
    stream,
)


@pytest.fixture
async def server(monkeypatch):
    monkeypatch.setattr(informer_module, "BACKOFF_BASE_SECONDS", 0.005)
    monkeypatch.setattr(informer_module, "BACKOFF_CAP_SECONDS", 0.02)
    monkeypatch.setattr(informer_module, "ABSENT_RETRY_SECONDS", 0.02)
    async with scripted_server() as running:
        yield running


@asynccontextmanager
async def running_informer(server, **options):
    async with KubeClient(Transport(Connection(server=server.url))) as client:
        informer = Informer(client, PODS, rng=random.Random(1), **options)
        told: list[tuple[str, str]] = []
        informer.store.add_handler(
            lambda kind, old, new: told.append((str(kind), (new or old)["metadata"]["name"]))
        )
        informer.told = told
        task = asyncio.create_task(informer.run())
        try:
            yield informer
            assert not task.done(), "an informer never ends by itself"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def names(informer: Informer) -> list[str]:
    return sorted(name for _, name in informer.store)


async def test_pages_then_events_fill_the_cache(server):
    server.lists.extend(
        [reply_list(pod("a", 1), version="5", token="t"), reply_list(pod("b", 2), version="5")]
    )
    server.watches.append(stream(("ADDED", pod("c", 6)), ("DELETED", pod("a", 7)), then="hold"))
    async with running_informer(server) as informer:
        await eventually_async(lambda: names(informer) == ["b", "c"])
        assert informer.synced.is_set()
    assert server.requests("GET", watch="1")[0].query["resourceVersion"] == "5"


async def test_not_synced_before_the_last_page(server):
    server.lists.extend(
        [reply_list(pod("a", 1), version="5", token="t"), reply_status(500, "InternalError")]
    )
    async with running_informer(server) as informer:
        await eventually_async(lambda: len(server.requests("GET")) >= 4)
        assert names(informer) == ["a"]
        assert not informer.synced.is_set()


@pytest.mark.parametrize("then", ["cut", "end"])
async def test_broken_watch_resumes_from_the_last_version_seen(server, then):
    server.lists.append(reply_list(pod("a", 1), version="5"))
    server.watches.extend(
        [
            stream(("ADDED", pod("b", 6)), ("BOOKMARK", pod("", 90)), then=then),
            stream(("ADDED", pod("c", 91)), then="hold"),
        ]
    )
    async with running_informer(server) as informer:
        await eventually_async(lambda: names(informer) == ["a", "b", "c"])
    watches = server.requests("GET", watch="1")
    assert [seen.query["resourceVersion"] for seen in watches] == ["5", "90"]
    assert len(server.requests("GET", limit="500")) == 1


async def test_silent_watch_is_reopened(server):
    server.lists.append(reply_list(version="5"))
    server.watches.extend([stream(then="hold"), stream(("ADDED", pod("a", 6)), then="hold")])
    async with running_informer(server, silence_seconds=0.2) as informer:
        await eventually_async(lambda: names(informer) == ["a"])


@pytest.mark.parametrize(
    "too_old",
    [
        stream(("ERROR", status(410, "Expired")), then="hold"),
        reply_status(410, "Expired"),
        reply_status(410, "Gone"),
    ],
    ids=["in-stream", "http-expired", "http-gone"],
)
async def test_objects_deleted_while_cut_are_dropped_after_410(server, too_old):
    server.lists.extend(
        [
            reply_list(*(pod(f"p{n}", 1) for n in range(20)), version="5"),
            reply_list(*(pod(f"p{n}", 1) for n in range(10)), version="50"),
        ]
    )
    server.watches.extend([stream(then="cut"), too_old, stream(then="hold")])
    async with running_informer(server) as informer:
        await eventually_async(lambda: len(informer.store) == 10)
        deleted = sorted(name for kind, name in informer.told if kind == "DELETED")
        assert deleted == sorted(f"p{n}" for n in range(10, 20))
        adds = [name for kind, name in informer.told if kind == "ADDED"]
        assert len(adds) == len(set(adds)) == 20
        await eventually_async(lambda: len(server.requests("GET", watch="1")) == 3)
    assert server.requests("GET", watch="1")[-1].query["resourceVersion"] == "50"


@pytest.mark.parametrize(
    "fault",
    [
        reply_status(500, "InternalError"),
        reply_status(503, "ServiceUnavailable"),
        reply_status(429, "TooManyRequests"),
        reply_status(403, "Forbidden"),
        hang_up(),
        reply({"not": "a list"}),
    ],
    ids=["500", "503", "429", "403", "hang-up", "malformed"],
)
async def test_faults_on_list_are_outlived(server, fault):
    server.lists.extend([fault] * 12 + [reply_list(pod("a", 1), version="5")])
    server.watches.append(stream(then="hold"))
    async with running_informer(server) as informer:
        await eventually_async(informer.synced.is_set)
        assert names(informer) == ["a"]


@pytest.mark.parametrize(
    "fault",
    [
        reply_status(500, "InternalError"),
        stream(("ERROR", status(500, "InternalError")), then="hold"),
        stream(("ERROR", {"weird": True}), then="hold"),
        hang_up(),
        stream(then="end"),
        stream(("NOVELTY", pod("x", 6)), then="cut"),
    ],
    ids=["500", "in-stream-500", "in-stream-junk", "hang-up", "ends-at-once", "unknown-type"],
)
async def test_faults_on_watch_are_outlived(server, fault):
    server.lists.append(reply_list(version="5"))
    server.watches.extend([fault] * 12 + [stream(("ADDED", pod("a", 9)), then="hold")])
    async with running_informer(server) as informer:
        await eventually_async(lambda: names(informer) == ["a"])


async def test_malformed_object_leads_to_a_fresh_list_not_to_an_end(server):
    server.lists.append(reply_list(pod("a", 1), version="5"))
    server.watches.extend([stream(("ADDED", {"no": "metadata"}), then="hold"), stream(then="hold")])
    async with running_informer(server) as informer:
        await eventually_async(lambda: len(server.requests("GET", limit="500")) == 2)
        assert names(informer) == ["a"]


async def test_each_namespace_has_its_own_list_and_watch(server):
    async def by_namespace(request):
        space = request.path.split("/")[4]
        if "watch" in request.query:
            return await stream(("ADDED", pod("w", 9, namespace=space)), then="hold")(request)
        return await reply_list(pod("l", 1, namespace=space), version="5")(request)

    server.lists.append(by_namespace)
    server.watches.append(by_namespace)
    async with running_informer(server, namespaces=["x", "y"]) as informer:
        await eventually_async(
            lambda: sorted(informer.store) == [("x", "l"), ("x", "w"), ("y", "l"), ("y", "w")]
        )
        assert informer.synced.is_set()


async def test_waits_grow_while_the_server_stays_down(server, monkeypatch):
    monkeypatch.setattr(informer_module, "BACKOFF_CAP_SECONDS", 30.0)
    server.lists.append(reply_status(503, "ServiceUnavailable"))
    bounds = []

    def longest(rng, attempt, *, base, cap):
        bounds.append(min(cap, base * 2 ** (attempt - 1)))
        return 0.0

    monkeypatch.setattr(informer_module, "full_jitter", longest)
    async with running_informer(server):
        await eventually_async(lambda: len(bounds) >= 16)
    assert bounds == sorted(bounds)
    assert bounds[-1] == 30.0


async def test_repeated_410_backs_off_instead_of_storming(server, monkeypatch):
    server.lists.append(reply_list(version="5"))
    server.watches.append(reply_status(410, "Expired"))
    attempts = []

    def note(rng, attempt, *, base, cap):
        attempts.append(attempt)
        return 0.0

    monkeypatch.setattr(informer_module, "full_jitter", note)
    async with running_informer(server):
        await eventually_async(lambda: len(server.requests("GET", limit="500")) >= 10)
    # The first 410 is answered at once, every further one with a longer wait.
    assert attempts[:8] == list(range(1, 9))


async def test_metrics_count_lists_watches_ghosts_and_objects(server):
    server.lists.extend(
        [reply_list(pod("a", 1), pod("b", 2), version="5"), reply_list(pod("a", 1), version="9")]
    )
    server.watches.extend([reply_status(410, "Expired"), stream(then="hold")])
    async with running_informer(server) as informer:
        await eventually_async(lambda: len(server.requests("GET", watch="1")) == 2)
        sample = informer._client.metrics.registry.get_sample_value
        name = {"name": "pods"}
        assert sample("reflector_lists_total", name) == 2
        assert sample("reflector_watches_total", name) == 2
        assert sample("reflector_ghosts_total", name) == 1
        assert sample("reflector_watch_errors_total", name | {"error": "Gone"}) == 1
        assert sample("informer_cached_objects", name) == 1


def test_a_kind_is_synced_once_all_its_caches_are():
    metrics, synced = KubeMetrics(), [False, False]
    for number in range(2):
        metrics.add_cache("pods", lambda: 3, lambda number=number: synced[number])
    sample = metrics.registry.get_sample_value
    name = {"name": "pods"}
    assert sample("informer_cached_objects", name) == 6
    for number in (1, 0):
        assert sample("informer_synced", name) == 0
        synced[number] = True
    assert sample("informer_synced", name) == 1


async def test_a_type_the_cluster_may_lack_counts_as_listed_and_is_found_once_it_is_there(server):
    server.lists.extend([reply_status(404, "NotFound")] * 3)
    server.lists.append(reply_list(pod("a", 1), version="5"))
    server.watches.append(stream(then="hold"))
    seen: list[bool] = []
    async with running_informer(server, on_served=lambda _, why: seen.append(not why)) as informer:
        await eventually_async(lambda: seen == [False])
        assert informer.synced.is_set()
        assert not informer.is_served
        await eventually_async(lambda: names(informer) == ["a"])
        assert informer.is_served
    assert seen == [False, True]


async def test_a_type_that_is_taken_away_is_noticed_and_listed_anew(server):
    server.lists.extend([reply_list(pod("a", 1), version="5"), reply_status(404, "NotFound")])
    server.lists.append(reply_list(pod("b", 7), version="8"))
    server.watches.extend([stream(("BOOKMARK", pod("", 6))), reply_status(404, "NotFound")])
    server.watches.append(stream(then="hold"))
    seen: list[bool] = []
    async with running_informer(server, on_served=lambda _, why: seen.append(not why)) as informer:
        await eventually_async(lambda: names(informer) == ["b"])
    assert seen == [False, True]


async def test_a_type_that_must_be_there_is_waited_for(server):
    server.lists.extend([reply_status(404, "NotFound")] * 6)
    server.lists.append(reply_list(pod("a", 1), version="5"))
    server.watches.append(stream(then="hold"))
    async with running_informer(server) as informer:
        await eventually_async(lambda: len(server.requests("GET")) >= 3)
        assert not informer.synced.is_set()
        await eventually_async(informer.synced.is_set)


async def test_a_namespace_that_may_not_be_listed_holds_up_no_other(server, caplog):
    server.lists.append(
        forbidden_in("gone", otherwise=reply_list(pod("a", 1, namespace="x"), version="5"))
    )
    server.watches.append(stream(then="hold"))
    async with running_informer(server, namespaces=["gone", "x"]) as informer:
        await eventually_async(informer.synced.is_set)
        assert sorted(informer.store) == [("x", "a")]
        assert informer.scopes.is_unread("gone")
        assert not informer.scopes.is_unread("x")
        await eventually_async(lambda: len(server.requests("GET", limit="500")) > 6)
        told = [line for line in caplog.messages if "gone" in line]
        assert len(told) == 1, "said once in a while, not at every try"
        assert "namespace gone may not be listed; all others go on" in told[0]
        server.lists.append(reply_list(pod("b", 6, namespace="gone"), version="7"))
        server.lists.popleft()
        await eventually_async(lambda: not informer.scopes.is_unread("gone"))
        assert ("gone", "b") in informer.store


@pytest.mark.parametrize("namespaces", [(), ("x",), ("x", "y")])
async def test_to_be_forbidden_everywhere_is_not_to_know_that_there_is_nothing(server, namespaces):
    server.lists.append(reply_status(403, "Forbidden"))
    async with running_informer(server, namespaces=namespaces) as informer:
        await eventually_async(lambda: len(server.seen) >= 3 * max(1, len(namespaces)))
        assert not informer.synced.is_set()


async def test_a_namespace_that_was_read_keeps_what_it_held_while_it_is_forbidden(server):
    server.lists.append(reply_list(pod("a", 1, namespace="x"), version="5"))
    server.watches.extend([stream(then="cut"), *[reply_status(403, "Forbidden")] * 5])
    server.watches.append(stream(("ADDED", pod("b", 6, namespace="x")), then="hold"))
    async with running_informer(server, namespaces=["x"]) as informer:
        await eventually_async(lambda: len(server.requests("GET", watch="1")) == 4)
        assert ("x", "a") in informer.store
        assert not informer.scopes.is_unread("x")
        await eventually_async(lambda: ("x", "b") in informer.store)
    assert len(server.requests("GET", limit="500")) == 1


async def test_where_a_type_may_not_be_read_is_told_by_namespace(server):
    server.lists.append(forbidden_in("gone", otherwise=reply_list(version="5")))
    server.watches.append(stream(then="hold"))
    told = []
    async with running_informer(
        server,
        namespaces=["gone", "x"],
        on_served=lambda *news: told.append(news),
        may_be_forbidden=True,
    ) as informer:
        await eventually_async(informer.synced.is_set)
        assert [informer.scopes.serves(each) for each in ("gone", "x")] == [False, True]
        assert informer.is_served
    assert [(scope, bool(why)) for scope, why in told] == [("gone", True)]


async def test_a_first_list_that_fails_for_long_is_done_without_until_it_succeeds(server):
    server.lists.append(reply_status(500, "InternalError", "conversion webhook failed"))
    server.watches.append(stream(then="hold"))
    told = []
    async with running_informer(
        server, on_served=lambda *news: told.append(news), patience_seconds=0.3
    ) as informer:
        await eventually_async(lambda: len(server.seen) >= 2)
        assert not informer.synced.is_set(), "not at the first failure"
        await eventually_async(informer.synced.is_set)
        assert not informer.is_served
        assert informer.scopes.is_unread("ns")
        server.lists.append(reply_list(pod("a", 1), version="5"))
        server.lists.popleft()
        await eventually_async(lambda: names(informer) == ["a"])
        assert informer.is_served
        assert not informer.scopes.is_unread("ns")
    (scope, why), back = told
    assert scope == ""
    assert "conversion webhook failed" in why
    assert back == ("", "")


async def test_an_own_write_during_a_list_does_not_make_it_stale(server):
    async with running_informer(server) as informer:

        async def list_meanwhile(request):
            informer.store.absorb(pod("a", 9))
            return await reply_list(pod("a", 4), version="5")(request)

        server.watches.append(reply_status(410, "Expired"))
        server.lists.append(list_meanwhile)
        server.lists.append(reply_list(pod("a", 9), version="9"))
        await eventually_async(lambda: len(server.requests("GET", watch="1")) >= 2)
        assert informer.synced.is_set()
