"""An engine's OpenAI routes without a model: scripted by adapter, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

MAX_SEEN = 1000


@dataclass
class Asked:
    """One request as the engine got it."""

    path: str
    headers: list[tuple[str, str]]
    body: dict[str, Any]
    left: Callable[[], Coroutine[Any, Any, bytes]]
    """Returns when the asker closes the connection."""

    @property
    def adapter(self) -> str:
        return str(self.body["model"])

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Behaviour = Callable[["StreamingEngine", Asked, asyncio.StreamWriter], Any]
"""Writes the answer. What it returns is awaited."""


async def answer(engine: StreamingEngine, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer as vLLM does, streamed if asked so."""
    texts = engine.texts.get(asked.adapter, ["Hello", " from ", asked.adapter])
    usage = {"prompt_tokens": 3, "completion_tokens": len(texts)}
    if asked.body.get("stream"):
        writer.write(head(200, "text/event-stream"))
        for text in texts:
            writer.write(chunk(event({"choices": [{"index": 0, "delta": {"content": text}}]})))
            await writer.drain()
            await asyncio.sleep(0)
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            writer.write(chunk(event({"choices": [], "usage": usage})))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return
    message = {"role": "assistant", "content": "".join(texts)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    writer.write(whole(200, {"id": "chatcmpl-1", "choices": [choice], "usage": usage}))


async def cut(engine: StreamingEngine, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Begin to answer, and break off."""
    writer.write(head(200, "text/event-stream"))
    writer.write(chunk(event({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})))
    await writer.drain()
    await engine.may_cut.wait()
    writer.transport.abort()


async def hang_up(engine: StreamingEngine, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Break off before the first byte."""
    writer.transport.abort()


def fail(status: int, **error: Any) -> Behaviour:
    """Answer with an error."""

    async def behave(engine: StreamingEngine, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(status, {"error": {"message": "told so", **error}}))

    return behave


async def wait(engine: StreamingEngine, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer when the test lets it, unless the asker leaves before."""
    waits = [asyncio.create_task(engine.may_answer.wait()), asyncio.create_task(asked.left())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
    if engine.may_answer.is_set():
        await answer(engine, asked, writer)
    else:
        engine.num_left += 1
        raise ConnectionResetError


def head(status: int, kind: str) -> bytes:
    """Return the start of a chunked answer. Some of its headers must not cross a proxy."""
    return (
        f"HTTP/1.1 {status} Told\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n"
        "Set-Cookie: inner=1\r\nServer: inner\r\nX-Inner: 1\r\n\r\n"
    ).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def whole(status: int, value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    return (
        f"HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


@dataclass
class StreamingEngine:
    """The engine.

    Attributes:
        behaviours: By adapter; others answer.
        texts: Pieces of the answer, by adapter.
        asked: The last requests.
        counts: All requests, by adapter.
    """

    port: int = 0
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    num_left: int = 0
    may_cut: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Close the port and all connections; ``start`` opens the same port again."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = [line.partition(":")[::2] for line in lines[1:] if line]
                headers = [(name, value.strip()) for name, value in pairs]
                lengths = [int(value) for name, value in headers if name == "Content-Length"]
                body = json.loads(await reader.readexactly(lengths[0])) if lengths else {}
                asked = Asked(lines[0].split(" ")[1], headers, body, partial(reader.read, 1))
                self.counts[asked.adapter] += 1
                self.asked = [*self.asked[-MAX_SEEN:], asked]
                await self.behaviours.get(asked.adapter, answer)(self, asked, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def streaming_engine() -> AsyncIterator[StreamingEngine]:
    """Run an engine on a free port of the loopback."""
    engine = StreamingEngine()
    await engine.start()
    try:
        yield engine
    finally:
        await engine.die()
