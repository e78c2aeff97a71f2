"""A watch that rests between two reads: late by no more than that, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest
from aiohttp import web

from finetune_operator.kube.api import errors
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.resource import PODS
from finetune_operator.kube.api.transport import BUSY_BYTES, Transport
from kit.cluster.devcluster import (
    create_control_plane_certificates,
    write_certificates,
)
from kit.cluster.objects import pod
from kit.servers.scripted_server import scripted_server, stream

REST_SECONDS = 0.3


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    write_certificates(folder, create_control_plane_certificates(["127.0.0.1"]))
    return folder


@pytest.fixture(params=["plain", "tls"])
async def place(request, pki):
    """A scripted server, and a client of it."""
    theirs = ours = None
    if request.param == "tls":
        theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        theirs.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        ours = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    async with scripted_server(ssl_context=theirs) as server:
        transport = Transport(Connection(server=server.url, ssl=ours))
        async with KubeClient(transport) as client:
            yield server, client


def watch(client, rest_seconds):
    return client.watch(PODS, "ns", resource_version="4", rest_seconds=rest_seconds)


async def test_what_comes_during_a_rest_is_seen_together_after_it(place):
    server, client = place
    has_seen_first = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(5, 10):
            event = {"type": "ADDED", "object": pod(f"pod-{number}", number)}
            await response.write(json.dumps(event).encode() + b"\n")
            if number == 5:
                await has_seen_first.wait()
        return response

    server.watches.append(answer)
    seen = []
    async for _, obj in watch(client, REST_SECONDS):
        seen.append((obj["metadata"]["name"], asyncio.get_running_loop().time()))
        has_seen_first.set()
    assert [name for name, _ in seen] == [f"pod-{number}" for number in range(5, 10)]
    first, second, last = seen[0][1], seen[1][1], seen[-1][1]
    assert second - first > 0.9 * REST_SECONDS
    assert last - second < 0.5 * REST_SECONDS, "another rest"


async def test_no_event_is_lost_however_the_bytes_come_apart(place):
    server, client = place
    pods = [pod(f"pod-{n}", n, annotations={"x": "y" * (37 * n % 5000)}) for n in range(1, 200)]
    pods.insert(50, pod("large", 50, annotations={"x": "y" * 1_500_000}))
    lines = [json.dumps({"type": "ADDED", "object": each}).encode() + b"\n" for each in pods]
    sent = b"".join(lines)

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        at = 0
        while at < len(sent):
            size = 1 + (at * 7919) % (3 * BUSY_BYTES)
            await response.write(sent[at : at + size])
            await asyncio.sleep(0.001)
            at += size
        return response

    server.watches.append(answer)
    assert [obj async for _, obj in watch(client, 0.01)] == pods


async def test_a_stream_cut_during_a_rest_is_a_transport_error(place):
    server, client = place
    server.watches.append(stream(("ADDED", pod("a", 5)), then="cut"))
    events = watch(client, 0.05)
    assert (await anext(events))[0] == "ADDED"
    with pytest.raises(errors.TransportError):
        await anext(events)


async def test_a_watch_is_closed_in_the_middle_of_a_rest(place):
    server, client = place
    server.watches.append(stream(("ADDED", pod("a", 5)), then="hold"))
    events = watch(client, 60.0)
    await anext(events)
    waiting = asyncio.create_task(anext(events))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await events.aclose()
