"""The client on the wire: what it sends, how it reads errors, when it waits and retries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from aiohttp import web

from finetune_operator.kube.api import errors
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection, StaticCredentials
from finetune_operator.kube.api.paging import MAX_PAGE_BYTES
from finetune_operator.kube.api.resource import JOBS, PODS, TOKEN_REVIEWS
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.clock import ServerClock
from kit.cluster.objects import pod
from kit.processes.clock import START, FakeClock
from kit.processes.eventually import eventually_async
from kit.servers.scripted_server import (
    hang_up,
    reply,
    reply_list,
    reply_status,
    scripted_server,
    status,
    stream,
)


@pytest.fixture
async def server():
    async with scripted_server() as running:
        yield running


@pytest.fixture
async def client(server):
    async with KubeClient(Transport(Connection(server=server.url))) as connected:
        yield connected


async def test_get_reads_one_object(server, client):
    server.others.append(reply(pod("a", 1)))
    assert await client.get(PODS, "ns", "a") == pod("a", 1)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("GET", "/api/v1/namespaces/ns/pods/a")


@pytest.mark.parametrize("code", [200, 404])
async def test_every_answer_tells_the_servers_time(server, code):
    async def answer(_):
        headers = {"Date": "Thu, 01 Jan 2026 01:00:00 GMT"}
        return web.json_response(pod("a", 1), status=code, headers=headers)

    server.others.append(answer)
    clock = ServerClock(FakeClock())
    transport = Transport(Connection(server=server.url), clock=clock, server_clock=clock)
    async with KubeClient(transport) as client:
        with contextlib.suppress(errors.KubeError):
            await client.get(PODS, "ns", "a")
    assert 3599 <= (clock.now() - START).total_seconds() <= 3601


async def test_list_follows_pages_and_selectors(server, client):
    server.lists.extend(
        [reply_list(pod("a", 1), version="7", token="t+/="), reply_list(pod("b", 2), version="7")]
    )
    result = await client.list(PODS, label_selector="app=x,tier in (a,b)", limit=1)
    assert [item["metadata"]["name"] for item in result.items] == ["a", "b"]
    assert result.resource_version == "7"
    first, second = server.seen
    assert first.path == "/api/v1/pods"
    assert first.query == {"labelSelector": "app=x,tier in (a,b)", "limit": "1"}
    assert second.query["continue"] == "t+/="


async def test_metadata_list_asks_for_partial_objects(server, client):
    server.lists.append(reply_list(version="1"))
    await client.list(JOBS, "ns", metadata_only=True)
    assert "PartialObjectMetadataList" in server.seen[0].headers["Accept"]


async def test_apply_sends_owner_kind_and_force(server, client):
    server.others.append(reply(pod("a", 1)))
    await client.apply(JOBS, {"metadata": {"name": "a", "namespace": "ns"}}, field_manager="me")
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("PATCH", "/apis/batch/v1/namespaces/ns/jobs/a")
    assert seen.query == {"fieldManager": "me", "force": "true"}
    assert seen.headers["Content-Type"] == "application/apply-patch+yaml"
    assert (seen.body["apiVersion"], seen.body["kind"]) == ("batch/v1", "Job")


async def test_apply_status_goes_to_the_subresource(server, client):
    server.others.append(reply(pod("a", 1)))
    obj = {"metadata": {"name": "a", "namespace": "ns"}, "status": {"phase": "x"}}
    await client.apply_status(JOBS, obj, field_manager="me")
    assert server.seen[0].path.endswith("/jobs/a/status")


async def test_writes_that_the_server_calls_invalid_are_counted_by_resource(server, client):
    def count(resource):
        name, labels = "rest_client_rejected_writes_total", {"verb": "patch", "resource": resource}
        return client.metrics.registry.get_sample_value(name, labels)

    obj = {"metadata": {"name": "a", "namespace": "ns"}, "status": {"phase": 1}}
    answers = ((409, "Conflict"), (422, "Invalid"), (422, "Invalid"))
    server.others.extend(reply_status(code, reason) for code, reason in answers)
    for expected in (errors.Conflict, errors.Invalid):
        with pytest.raises(expected):
            await client.apply_status(JOBS, obj, field_manager="me")
    with pytest.raises(errors.Invalid):
        await client.get(JOBS, "ns", "a")
    assert count("jobs/status") == 1.0
    assert count("jobs") is None


async def test_delete_carries_preconditions(server, client):
    server.others.append(reply({}))
    await client.delete(PODS, "ns", "a", uid="u1", resource_version="5")
    assert server.seen[0].body["preconditions"] == {"uid": "u1", "resourceVersion": "5"}
    assert server.seen[0].body["propagationPolicy"] == "Background"


async def test_review_is_created_without_metadata(server, client):
    server.others.append(reply({"status": {"authenticated": True}}))
    review = await client.create(TOKEN_REVIEWS, {"spec": {"token": "t"}})
    assert review["status"]["authenticated"]
    assert server.seen[0].path == "/apis/authentication.k8s.io/v1/tokenreviews"


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", errors.Invalid),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.ServerUnavailable),
        (504, "Timeout", errors.ServerUnavailable),
    ],
)
async def test_status_becomes_a_typed_error_that_says_what_was_tried(
    server, client, code, reason, expected
):
    server.others.append(reply_status(code, reason, "because"))
    with pytest.raises(expected) as caught:
        await client.apply(JOBS, {"metadata": {"name": "a", "namespace": "ns"}}, field_manager="m")
    error = caught.value
    assert type(error) is expected
    assert (error.status, error.reason, error.message) == (code, reason, "because")
    assert "apply Job ns/a" in str(error)


async def test_error_page_of_a_proxy_is_shown_as_text(server, client):
    async def page(request):
        from aiohttp import web

        return web.Response(status=502, text="<h1>Bad gateway</h1>")

    server.others.append(page)
    with pytest.raises(errors.ServerUnavailable, match="Bad gateway"):
        await client.get(PODS, "ns", "a")


async def test_throttled_write_waits_as_told_and_is_sent_again(server, client):
    server.others.extend(
        [reply_status(429, "TooManyRequests", Retry_After="1"), reply(pod("a", 1))]
    )
    started = time.monotonic()
    await client.create(PODS, pod("a", ""))
    assert time.monotonic() - started >= 1.0
    assert len(server.seen) == 2


async def test_429_without_retry_after_is_the_callers_to_handle(server, client):
    server.others.append(reply_status(429, "TooManyRequests"))
    with pytest.raises(errors.TooManyRequests) as caught:
        await client.create(PODS, pod("a", ""))
    assert caught.value.retry_after == 1.0
    assert len(server.seen) == 1


async def test_5xx_is_not_retried_because_the_write_may_have_happened(server, client):
    server.others.append(reply_status(503, "ServiceUnavailable"))
    with pytest.raises(errors.ServerUnavailable):
        await client.create(PODS, pod("a", ""))
    assert len(server.seen) == 1


async def test_broken_connection_is_a_transport_error(server, client):
    server.others.append(hang_up())
    with pytest.raises(errors.TransportError, match="create Pod in ns"):
        await client.create(PODS, pod("a", ""))


async def test_refused_connection_is_a_transport_error(unused_tcp_port):
    connection = Connection(server=f"http://127.0.0.1:{unused_tcp_port}")
    async with KubeClient(Transport(connection)) as client:
        with pytest.raises(errors.TransportError):
            await client.get(PODS, "ns", "a")


async def test_silent_server_is_a_transport_error_after_the_timeout(server):
    server.others.append(stream(then="hold"))
    transport = Transport(Connection(server=server.url), request_timeout_seconds=0.2)
    async with KubeClient(transport) as client:
        with pytest.raises(errors.TransportError, match="Timeout"):
            await client.get(PODS, "ns", "a")


class RotatingCredentials:
    """Hands out a stale token until it is asked to refresh."""

    def __init__(self) -> None:
        self.value = "Bearer old"

    async def authorization(self, *, refresh: bool = False) -> str:
        if refresh:
            self.value = "Bearer new"
        return self.value


async def test_refused_token_is_read_again_once(server):
    server.others.extend([reply_status(401, "Unauthorized"), reply(pod("a", 1))])
    connection = Connection(server=server.url, credentials=RotatingCredentials())
    async with KubeClient(Transport(connection)) as client:
        await client.get(PODS, "ns", "a")
    assert [seen.headers["Authorization"] for seen in server.seen] == ["Bearer old", "Bearer new"]


async def test_token_that_stays_refused_is_an_error_with_a_remedy(server):
    server.others.append(reply_status(401, "Unauthorized"))
    connection = Connection(server=server.url, credentials=StaticCredentials(value="Bearer x"))
    async with KubeClient(Transport(connection)) as client:
        with pytest.raises(errors.Unauthorized, match="kubeconfig"):
            await client.get(PODS, "ns", "a")
    assert len(server.seen) == 2


async def test_watch_yields_events_and_ends_with_the_stream(server, client):
    server.watches.append(stream(("ADDED", pod("a", 5)), ("BOOKMARK", pod("", 9))))
    events = [event async for event in client.watch(PODS, "ns", resource_version="4")]
    assert [kind for kind, _ in events] == ["ADDED", "BOOKMARK"]
    assert server.seen[0].query["resourceVersion"] == "4"
    assert server.seen[0].query["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (status(410, "Expired"), errors.Gone),
        (status(500, "InternalError"), errors.ServerUnavailable),
    ],
)
async def test_error_inside_a_stream_is_typed(server, client, body, expected):
    server.watches.append(stream(("ERROR", body), then="hold"))
    with pytest.raises(expected):
        async for _ in client.watch(PODS, resource_version="4"):
            pass


async def test_refused_watch_is_typed(server, client):
    server.watches.append(reply_status(410, "Gone"))
    with pytest.raises(errors.Gone):
        async for _ in client.watch(PODS, resource_version="4"):
            pass


async def test_cut_stream_yields_whole_events_then_a_transport_error(server, client):
    server.watches.append(stream(("ADDED", pod("a", 5)), then="cut"))
    watch = client.watch(PODS, resource_version="4")
    assert (await anext(watch))[0] == "ADDED"
    with pytest.raises(errors.TransportError):
        await anext(watch)


async def test_silent_watch_is_given_up(server, client):
    server.watches.append(stream(("ADDED", pod("a", 5)), then="hold"))
    with pytest.raises(errors.TransportError):
        async for _ in client.watch(PODS, resource_version="4", silence_seconds=0.2):
            pass


async def test_event_larger_than_any_buffer_arrives_whole(server, client):
    big = pod("a", 5, annotations={"x": "y" * 3_000_000})
    server.watches.append(stream(("ADDED", big), ("MODIFIED", pod("b", 6))))
    events = [event async for event in client.watch(PODS, resource_version="4")]
    assert events[0][1] == big
    assert len(events) == 2


async def test_fence_stops_writes_but_not_reads(server, client):
    server.others.append(reply(pod("a", 1)))

    class Fenced(Exception):
        pass

    def gate():
        raise Fenced

    fenced = client.fenced(gate)
    assert await fenced.get(PODS, "ns", "a")
    for write in (
        lambda: fenced.create(PODS, pod("a", "")),
        lambda: fenced.replace(PODS, pod("a", 1)),
        lambda: fenced.apply(PODS, pod("a", ""), field_manager="m"),
        lambda: fenced.merge_patch(PODS, "ns", "a", {}),
        lambda: fenced.delete(PODS, "ns", "a"),
    ):
        with pytest.raises(Fenced):
            await write()
    assert [seen.method for seen in server.seen] == ["GET"]


async def test_write_that_waited_for_a_connection_beyond_the_lease_is_not_sent(server):
    lets_go = asyncio.Event()
    is_leader = True
    asked = []

    async def answer_late(request):
        await lets_go.wait()
        return web.json_response(pod("a", 1))

    def gate():
        asked.append(is_leader)
        if not is_leader:
            raise PermissionError("not the leader any more")

    server.others.append(answer_late)
    transport = Transport(Connection(server=server.url), max_connections=1)
    async with KubeClient(transport) as client:
        slow = asyncio.create_task(client.get(PODS, "ns", "slow"))
        await eventually_async(lambda: server.seen, 10)
        write = asyncio.create_task(client.fenced(gate).create(PODS, pod("a", "")))
        await eventually_async(lambda: asked == [True], 10)
        is_leader = False
        lets_go.set()
        assert await slow
        with pytest.raises(PermissionError, match="not the leader"):
            await write
        assert await client.get(PODS, "ns", "b")
    assert [seen.method for seen in server.seen] == ["GET", "GET"]


async def test_token_bucket_spreads_requests_above_the_burst(server):
    server.others.append(reply(pod("a", 1)))
    transport = Transport(Connection(server=server.url), qps=50, burst=5)
    async with KubeClient(transport) as client:
        started = time.monotonic()
        for _ in range(15):
            await client.get(PODS, "ns", "a")
    assert 0.15 <= time.monotonic() - started <= 2.0


async def test_requests_are_counted_and_recorded_as_rbac_sees_them(server):
    server.others.append(reply(pod("a", 1)))
    server.lists.append(reply_list(version="1"))
    server.watches.append(stream(("ADDED", pod("a", 5))))
    recorded = []
    transport = Transport(
        Connection(server=server.url), on_request=lambda *request: recorded.append(request)
    )
    async with KubeClient(transport, gate=lambda: None) as client:
        await client.get(PODS, "ns", "a")
        await client.list(JOBS)
        async for _ in client.watch(JOBS, resource_version="1"):
            pass
        await client.create(PODS, pod("a", ""))
        await client.replace(PODS, pod("a", 1))
        await client.apply_status(JOBS, pod("a", ""), field_manager="m")
        await client.delete(JOBS, "ns", "a")
        samples = client.metrics.registry.get_sample_value
        assert recorded == [
            ("get", "", "pods", ""),
            ("list", "batch", "jobs", ""),
            ("watch", "batch", "jobs", ""),
            ("create", "", "pods", ""),
            ("update", "", "pods", ""),
            ("patch", "batch", "jobs", "status"),
            ("delete", "batch", "jobs", ""),
        ]
        assert samples("rest_client_requests_total", {"code": "200", "method": "GET"}) == 3
        labels = {"verb": "patch", "group": "batch", "resource": "jobs/status"}
        assert samples("rest_client_resource_requests_total", labels) == 1


async def test_user_agent_names_the_product(server):
    server.others.append(reply(pod("a", 1)))
    transport = Transport(Connection(server=server.url), user_agent="thing/1.2")
    async with KubeClient(transport) as client:
        await client.get(PODS, "ns", "a")
    assert server.seen[0].headers["User-Agent"] == "thing/1.2"
    assert "Accept-Encoding" not in server.seen[0].headers


async def test_warning_of_the_server_is_logged_once(server, client, caplog):
    server.others.append(reply(pod("a", 1), Warning='299 - "unknown field spec.x"'))
    await client.get(PODS, "ns", "a")
    await client.get(PODS, "ns", "a")
    assert caplog.text.count("unknown field spec.x") == 1


@pytest.mark.parametrize(("namespace", "name"), [("ns", ""), ("", "a"), ("ns", "a/b")])
async def test_incomplete_name_never_reaches_the_server(server, client, namespace, name):
    with pytest.raises(ValueError, match="name"):
        await client.delete(PODS, namespace, name)
    assert server.seen == []


def paged_server(sizes):
    """Answer lists of objects of these sizes, as an API server does."""

    async def answer(request):
        limit, start = int(request.query["limit"]), int(request.query.get("continue") or 0)
        page = [
            {**pod(f"pod-{n}", n + 1), "spec": {"text": "x" * sizes[n]}}
            for n in range(start, min(start + limit, len(sizes)))
        ]
        more = start + limit < len(sizes)
        return web.json_response(
            {
                "metadata": {
                    "resourceVersion": "900",
                    "continue": str(start + limit) if more else "",
                },
                "items": page,
            }
        )

    return answer


PAGE_SIZES = {
    "small": [100] * 700,
    "large": [150_000] * 60,
    "one that is larger than a page": [100, 2 * MAX_PAGE_BYTES, 100],
    "large after small": [100] * 300 + [300_000] * 20 + [100] * 300,
    "none": [],
}


@pytest.mark.parametrize("sizes", PAGE_SIZES.values(), ids=PAGE_SIZES)
async def test_pages_are_bounded_in_bytes_and_nothing_is_left_out(server, client, sizes):
    server.lists.append(paged_server(sizes))
    names, largest = [], 0
    async for page in client.list_pages(PODS, limit=500):
        names += [item["metadata"]["name"] for item in page.items]
        if len(page.items) > 1:
            largest = max(largest, len(json.dumps(page.items)))
    assert names == [f"pod-{n}" for n in range(len(sizes))]
    assert largest <= 1.1 * MAX_PAGE_BYTES
    assert len(server.seen) <= 2 + sum(sizes) / MAX_PAGE_BYTES * 8


async def test_pages_of_usual_objects_are_as_large_as_asked_for(server, client):
    server.lists.append(paged_server([1000] * 1200))
    pages = [len(page.items) async for page in client.list_pages(PODS, limit=500)]
    assert pages == [500, 500, 200]
    assert len(server.seen) == 3


async def test_credentials_can_ride_on_a_session_for_a_library(server):
    server.others.append(reply(pod("a", 1)))
    connection = Connection(server=server.url, credentials=StaticCredentials(value="Bearer x"))
    async with (
        connection.open_session(
            max_connections=2, user_agent="lib", attach_credentials=True
        ) as session,
        session.get(f"{server.url}/api/v1") as response,
    ):
        assert response.status == 200
    assert server.seen[0].headers["Authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("body", "is_the_object"),
    [
        ({"reason": "NotFound", "details": {"name": "a", "kind": "pods"}}, True),
        ({"reason": "NotFound", "message": "the server could not find the resource"}, False),
        ({"reason": "", "details": {"name": "a"}}, False),
        (
            {
                "reason": "NotFound",
                "message": 'admission webhook "x" denied the request: no',
                "details": {"name": "a"},
            },
            False,
        ),
        ("404 page not found", False),
    ],
)
async def test_only_a_404_that_names_the_object_says_that_it_is_gone(
    server, client, body, is_the_object
):
    answer = {"kind": "Status", **body} if isinstance(body, dict) else body
    server.others.append(reply(answer, 404))
    with pytest.raises(errors.NotFound) as caught:
        await client.get(PODS, "ns", "a")
    assert isinstance(caught.value, errors.ObjectNotFound) is is_the_object
