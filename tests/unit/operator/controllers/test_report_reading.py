"""What is read of one report, and what of a hostile answer is not."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import orjson
import pytest

from finetune_api.protocol.serving import REPORT_PORT, parse_report
from finetune_operator.controllers.memory import report_reading as module
from finetune_operator.controllers.memory.report_reading import fetch_report, sift

# The port is fixed, so each process that tests at the same time needs addresses of its own.
ADDRESSES = iter(
    f"127.{number}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}" for number in range(125, 250)
)
STREAM = {"weight": 5, "active": {"requests": 9}, "candidate": {"requests": 1}}


async def fetch(answer: bytes) -> bytes:
    """Fetch a report from a pod that answers with these bytes, and then says nothing."""
    ends = asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await ends.wait()
        writer.transport.abort()

    address = next(ADDRESSES)
    server = await asyncio.start_server(respond, address, REPORT_PORT)
    async with server:
        try:
            return await fetch_report(address)
        finally:
            ends.set()


async def test_a_body_of_known_length_is_read_without_waiting_for_the_end() -> None:
    assert await fetch(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X-Padding: x\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 524289\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\n123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["interim answers", "a long head", "too large", "no length", "compressed", "two lengths"],
)
async def test_any_other_answer_is_refused_by_its_head(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"^127"):
        await fetch(answer)


async def test_a_body_that_does_not_come_ends_with_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        await fetch(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")


def front(*endpoints: Any) -> bytes:
    return orjson.dumps({"kind": "Front", "id": "boot", "endpoints": endpoints})


def sifted(body: bytes, *names: str) -> Any:
    return orjson.loads(sift(body, names))


def test_only_known_endpoints_are_read_and_each_once() -> None:
    found = sifted(front({"name": "a"}, {"name": "b"}, {"name": "a"}, 7, {"name": [1]}), "a", "c")
    assert found["endpoints"] == [{"name": "a"}]


def test_only_versions_that_endpoints_name_are_read() -> None:
    body = orjson.dumps({"kind": "Server", "adapters": [{"name": "a"}, {"name": "b"}]})
    assert sifted(body, "b")["adapters"] == [{"name": "b"}]


def test_traffic_that_decides_nothing_is_no_news() -> None:
    assert sift(front({"name": "a", "requests": 1}), "a") == sift(
        front({"name": "a", "requests": 2}), "a"
    )


@pytest.mark.parametrize(
    ("num_endpoints", "num_each", "num_read"),
    [(200, 2, 400), (201, 1, 200), (17, 32, 512), (1, 513, 0)],
)
def test_the_streams_of_a_report_are_bounded(
    num_endpoints: int, num_each: int, num_read: int
) -> None:
    names = [f"endpoint-{number}" for number in range(num_endpoints)]
    found = sifted(front(*({"name": name, "streams": [STREAM] * num_each} for name in names)),
                   *names)  # fmt: skip
    assert len(found["endpoints"]) == num_endpoints
    assert sum(len(each["streams"]) for each in found["endpoints"]) == num_read
    parse_report(orjson.dumps(found))


def test_a_report_of_countless_parts_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="8192 objects and lists"):
        sift(b"[" + b"[]," * 8192 + b"[]]", ())


@pytest.mark.parametrize("body", [b"[1]", b"{", b"[" * 4000, b'"\\ud800"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        sift(body, ())
