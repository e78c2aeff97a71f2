"""Connections of fronts and agents: their drain, slow clients, and too many of them."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from finetune_trainer.serve import listening
from finetune_trainer.serve.listening import ProxyServer, trust
from finetune_trainer.serve.proxy import make_session, open_answer, pass_on, read_body
from kit.processes.eventually import eventually_async

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    """Answer what the body says: ``wait SECONDS``, ``stream``, ``key``, ``bytes N`` or other."""
    word, _, number = (await read_body(request)).decode().partition(" ")
    if word == "wait":
        await asyncio.sleep(float(number))
    elif word == "key":
        trust(request)
    elif word == "bytes":
        return web.Response(body=b"y" * int(number))
    elif word == "endless":
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        while True:
            await stream.write(b"y" * int(number))
            await asyncio.sleep(0)
    elif word == "stream":
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        await asyncio.sleep(float(number or 0))
        await stream.write_eof()
        return stream
    return web.Response(text="ok")


@dataclass
class Listening:
    """A server and its clients."""

    server: ProxyServer
    port: int
    opened: list[Writer] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    async def connect(self) -> tuple[Reader, Writer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    def stall(self, body: str, connection: str = "keep-alive") -> socket.socket:
        """Send a request and read nothing of its answer."""
        client = socket.socket()
        self.sockets.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        client.sendall(request(body, connection))
        return client


@asynccontextmanager
async def listening_server(handler: listening.Handler = answer) -> AsyncIterator[Listening]:
    server = ProxyServer(handler)
    made = Listening(server, await server.start("127.0.0.1", 0))
    try:
        yield made
    finally:
        await server.stop(linger_seconds=0, grace_seconds=0)
        for each in (*made.opened, *made.sockets):
            each.close()
        await asyncio.gather(*(each.wait_closed() for each in made.opened), return_exceptions=True)


def request(body: str, connection: str = "keep-alive") -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def read(reader: Reader) -> tuple[int, bool]:
    """Read an answer; return its status and whether it ends its connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if "content-length:" in head:
        await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return int(head.split()[1]), "connection: close" in head


async def ask(connection: tuple[Reader, Writer], body: str = "hi") -> tuple[int, bool]:
    connection[1].write(request(body))
    return await asyncio.wait_for(read(connection[0]), 30)


async def is_closed(connection: tuple[Reader, Writer]) -> bool:
    try:
        return await asyncio.wait_for(connection[0].read(1), 0.02) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_a_drain_answers_on_every_connection_that_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "IDLE_SECONDS", 1.5)
    async with listening_server() as made:
        pool = [await made.connect() for _ in range(20)]
        for each in pool:
            assert await ask(each) == (200, False)
        long, started = await made.connect(), await made.connect()
        long[1].write(request("wait 1.2"))
        started[1].write(request("stream 0.3"))
        await eventually_async(lambda: made.server.num_open == 2)
        draining = asyncio.create_task(made.server.stop(linger_seconds=0.1, grace_seconds=30))
        await eventually_async(lambda: made.server.is_draining)
        # A new connection still comes in the linger.
        assert await ask(await made.connect()) == (200, True)
        # A stream that has begun said nothing of an end, so its connection answers once more.
        assert await read(started[0]) == (200, False)
        assert await ask(started) == (200, True)
        for number, each in enumerate(pool):
            assert await ask(each, "stream" if number % 2 else "hi") == (200, True)
        with pytest.raises(ConnectionRefusedError):
            await made.connect()
        assert await read(long[0]) == (200, True)
        await asyncio.wait_for(draining, 10)


async def test_a_drain_ends_with_its_grace_and_when_no_connection_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "IDLE_SECONDS", 0.3)
    for body, grace in (("hi", 30.0), ("endless 9", 0.3)):
        async with listening_server() as made:
            reader, writer = await made.connect()
            writer.write(request(body))
            await reader.readuntil(b"\r\n\r\n")
            stopping = made.server.stop(linger_seconds=0.05, grace_seconds=grace)
            await asyncio.wait_for(stopping, 10)


@pytest.mark.parametrize("body", ["bytes 8000000", "endless 300", "endless 4000", "endless 60000"])
async def test_a_client_that_takes_nothing_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(listening, "STALLED_SECONDS", 0.2)
    async with listening_server() as made:
        for _ in range(5):
            made.stall(body)
        await eventually_async(lambda: len(made.server.crowd) == 5)
        await eventually_async(lambda: len(made.server.crowd) == 0)


async def test_a_connection_that_ends_waits_for_no_client_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "STALLED_SECONDS", 0.2)
    async with listening_server() as made:
        made.stall("bytes 500000", "close")
        await eventually_async(lambda: len(made.server.crowd) == 1)
        await eventually_async(lambda: len(made.server.crowd) == 0)


async def test_a_client_that_reads_slowly_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "STALLED_SECONDS", 0.2)
    async with listening_server() as made:
        reader, writer = await made.connect()
        writer.write(request("bytes 4000000"))
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(40):
            await asyncio.sleep(0.025)
            await reader.readexactly(100_000)


async def test_one_address_without_a_key_holds_its_share_and_the_longest_idle_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "MAX_PER_ADDRESS", 3)
    monkeypatch.setattr(listening, "YOUNG_SECONDS", 0.0)
    async with listening_server() as made:
        known = []
        for _ in range(5):
            known.append(await made.connect())
            await ask(known[-1], "key")
        busy, idle, other = [await made.connect() for _ in range(3)]
        busy[1].write(request("wait 0.3"))
        await ask(idle)
        await ask(other)
        newest = await made.connect()
        assert [await is_closed(each) for each in (idle, other, newest)] == [True, False, False]
        assert await read(busy[0]) == (200, False)
        for each in (*known, newest, other):
            assert (await ask(each))[0] == 200


async def test_many_new_connections_at_once_have_time_to_send_their_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "MAX_PER_ADDRESS", 3)
    monkeypatch.setattr(listening, "YOUNG_SECONDS", 30.0)
    async with listening_server() as made:
        pool = await asyncio.gather(*(made.connect() for _ in range(20)))
        assert {(await ask(each, "key"))[0] for each in pool} == {200}
        pool = await asyncio.gather(*(made.connect() for _ in range(20)))
        # Once their time is over, all those beyond the share end at the next connection.
        monkeypatch.setattr(listening, "YOUNG_SECONDS", 0.0)
        pool.append(await made.connect())
        assert Counter([await is_closed(each) for each in pool]) == {True: 18, False: 3}


async def test_full_of_idle_connections_it_serves_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "MAX_CONNECTIONS", 3)
    async with listening_server() as made:
        pool = [await made.connect() for _ in range(3)]
        for each in pool:
            await ask(each, "key")
        await ask(pool[0])  # the second one is idle for the longest time
        newest = await made.connect()
        assert await ask(newest) == (200, False)
        assert [await is_closed(each) for each in pool] == [False, True, False]
        assert len(made.server.crowd) == 3


async def test_full_of_connections_one_without_a_key_ends_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(listening, "YOUNG_SECONDS", 1e-6)
    async with listening_server() as made:
        pool = [await made.connect() for _ in range(3)]
        for each, text in zip(pool, ("key", "key", "hi"), strict=True):
            await ask(each, text)
        newest = await made.connect()
        assert await ask(newest, "key") == (200, False)
        assert [await is_closed(each) for each in pool] == [False, False, True]
        assert await ask(await made.connect()) == (200, False)
        assert [await is_closed(each) for each in pool] == [True, False, True]


async def test_full_of_idle_connections_with_keys_new_ones_have_time_to_send_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "MAX_CONNECTIONS", 5)
    monkeypatch.setattr(listening, "YOUNG_SECONDS", 30.0)
    async with listening_server() as made:
        pool = [await made.connect() for _ in range(5)]
        for each in pool:
            await ask(each, "key")
        newest = [await made.connect() for _ in range(3)]
        assert [await ask(each, "key") for each in newest] == [(200, False)] * 3
        assert Counter([await is_closed(each) for each in pool]) == {True: 3, False: 2}


async def test_a_request_that_meets_the_close_of_an_idle_connection_is_sent_again() -> None:
    seen: list[int] = []

    async def serve(reader: Reader, writer: Writer) -> None:
        """Answer the first request of each connection, and close at the second."""
        for number in (1, 2):
            await reader.readuntil(b"hi")
            seen.append(number)
            if number == 1:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with make_session() as session:
        for _ in range(3):
            opened = await open_answer(session, url, b"hi", {})
            assert (opened.status, opened.first) == (200, b"ok")
            opened.response.release()
    assert seen == [1, 2, 1, 2, 1]
    server.close()


async def test_no_answer_tells_the_version_of_a_library() -> None:
    async def engine(request: web.BaseRequest) -> web.StreamResponse:
        return await answer(request)

    async with listening_server(engine) as inner, make_session() as session:

        async def proxy(request: web.BaseRequest) -> web.StreamResponse:
            body = await read_body(request)
            url = f"http://127.0.0.1:{inner.port}/"
            return await pass_on(request, await open_answer(session, url, body, {}), {})

        async with listening_server(proxy) as made:
            for sent in (request("hi"), request("stream"), b"no HTTP\r\n\r\n"):
                reader, writer = await made.connect()
                writer.write(sent)
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"\r\nserver: finetune\r\n" in head.lower()
                assert b"python" not in head.lower()
