"""Connections to the progress endpoint: bounded, and whose are closed."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from finetune_operator.progress import door
from finetune_operator.progress.door import LimitedRunner
from kit.processes.eventually import eventually_async


@asynccontextmanager
async def serving(limit):
    """Serve at a limit; yields a function that connects from an address of this machine."""

    async def answer(request):
        return web.Response(text=await request.text())

    app = web.Application()
    app.router.add_post("/", answer)
    runner = LimitedRunner(app, limit=limit)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    writers = []

    async def connect(address):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        writers.append(writer)
        return reader, writer

    try:
        yield connect, f"http://127.0.0.1:{port}/"
    finally:
        for writer in writers:
            writer.close()
        await runner.cleanup()


async def is_closed(reader):
    try:
        async with asyncio.timeout(0.05):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_who_holds_most_loses_the_oldest():
    async with serving(limit=10) as (connect, url):
        victims = [(await connect("127.0.0.2"))[0] for _ in range(2)]
        crowd = [(await connect("127.0.0.3"))[0] for _ in range(30)]

        async def lost():
            return [await is_closed(reader) for reader in crowd]

        async def only_the_last_are_left():
            return await lost() == [True] * 22 + [False] * 8

        await eventually_async(only_the_last_are_left)
        assert [await is_closed(reader) for reader in victims] == [False, False]
        async with aiohttp.ClientSession() as session, session.post(url, data=b"x" * 60_000) as got:
            assert await got.text() == "x" * 60_000


async def test_a_connection_that_sends_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(door, "IDLE_SECONDS", 0.2)
    async with serving(limit=10) as (connect, _):
        silent, _ = await connect("127.0.0.1")
        talking, writer = await connect("127.0.0.1")
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        await eventually_async(lambda: is_closed(silent))
        assert not await is_closed(talking)
        writer.write(b"x")
        assert (await talking.readline()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("count", [1, 5])
async def test_ended_connections_count_no_more(count):
    async with serving(limit=count) as (_, url):
        for number in range(3 * count):
            body = str(number).encode()
            async with aiohttp.ClientSession() as session, session.post(url, data=body) as got:
                assert await got.read() == body


REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"


@pytest.fixture
def ten_a_second(monkeypatch):
    monkeypatch.setattr(door, "REQUESTS_PER_SECOND", 10.0)
    monkeypatch.setattr(door, "BURST", 10)


async def answers_within(connect, address, *, connections, seconds):
    """Ask again and again on several connections of one address; return how many answers came."""
    num_answers = 0
    over = time.monotonic() + seconds

    async def ask():
        nonlocal num_answers
        reader, writer = await connect(address)
        while time.monotonic() < over:
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\nx")
            num_answers += 1

    await asyncio.gather(*(ask() for _ in range(connections)), return_exceptions=True)
    return num_answers


async def test_an_address_that_floods_is_read_at_its_rate_and_others_at_once(ten_a_second):
    async with serving(limit=100) as (connect, url):
        flood = asyncio.create_task(
            answers_within(connect, "127.0.0.2", connections=8, seconds=2.0)
        )
        await asyncio.sleep(1.0)
        began = time.monotonic()
        async with aiohttp.ClientSession() as session, session.post(url, data=b"y") as got:
            assert await got.text() == "y"
        assert time.monotonic() - began < 1.5
        # Ten at once and ten a second, of which eight are the connections; and one each on the way.
        assert 10 <= await flood <= 10 + 10 * 4


async def test_requests_in_one_piece_count_each(ten_a_second):
    async with serving(limit=100) as (connect, _):
        reader, writer = await connect("127.0.0.2")
        writer.write(9 * REQUEST)
        for _ in range(9):
            await reader.readuntil(b"\r\n\r\nx")
        writer.write(100 * REQUEST)
        assert await reader.read() == b"", "it would wait for ten seconds"


async def test_connections_of_an_address_beyond_its_rate_are_closed_before_anything_else(
    ten_a_second,
):
    async with serving(limit=1000) as (connect, _):
        began = time.monotonic()
        readers = [(await connect("127.0.0.2"))[0] for _ in range(100)]

        async def num_closed():
            return sum(await asyncio.gather(*map(is_closed, readers)))

        await eventually_async(num_closed)
        # Ten at once, twenty that get their turn within two seconds, and ten a second meanwhile.
        most = 10 + 20 + 10 * (time.monotonic() - began)
        assert 20 <= 100 - await num_closed() <= most + 1
