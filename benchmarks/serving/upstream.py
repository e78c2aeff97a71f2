"""An engine that answers at once: bytes that were made before, one process, one core.

``python -m benchmarks.serving.upstream`` prints its port. A streamed answer has eight events. The
prefix of ``user`` asks for something else: ``long`` for 20 s of events, ``endless`` for events
without an end, as fast as they are taken, ``slow`` for a plain answer after 10 s.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache

STREAM = b'"stream":true'
NUM_EVENTS = 8
EVENT_SECONDS = 0.002
NUM_LONG, LONG_SECONDS = 100, 0.2
SLOW_SECONDS = 10.0


@cache
def plain(adapter: bytes) -> bytes:
    """Return an answer that names the adapter."""
    message = {"role": "assistant", "content": adapter.decode()}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    body = json.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@cache
def event(adapter: bytes) -> bytes:
    """Return one event of a stream, as a chunk."""
    delta = {"choices": [{"index": 0, "delta": {"content": adapter.decode()}}]}
    data = f"data: {json.dumps(delta)}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.index(b"content-length:")
            self._needed = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) >= self._needed:
                body = bytes(self._buffer[end + 4 : self._needed])
                del self._buffer[: self._needed]
                self._needed = 0
                self._answer(body)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        adapter = body.split(b'"model":"', 1)[1].split(b'"', 1)[0]
        if b'"user":"slow' in body:
            asyncio.get_running_loop().call_later(
                SLOW_SECONDS, self._transport.write, plain(adapter)
            )
            return
        if STREAM not in body:
            self._transport.write(plain(adapter))
            return
        if b'"user":"long' in body:
            answering = self._stream(adapter, NUM_LONG, LONG_SECONDS)
        elif b'"user":"endless' in body:
            answering = self._stream_endlessly(adapter)
        else:
            answering = self._stream(adapter, NUM_EVENTS, EVENT_SECONDS)
        task = asyncio.create_task(answering)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stream(self, adapter: bytes, num_events: int, seconds: float) -> None:
        assert self._transport is not None
        self._transport.write(STREAM_HEAD)
        for _ in range(num_events):
            self._transport.write(event(adapter))
            await asyncio.sleep(seconds)
        self._transport.write(STREAM_END)

    async def _stream_endlessly(self, adapter: bytes) -> None:
        assert self._transport is not None
        self._transport.write(STREAM_HEAD)
        while not self._transport.is_closing():
            if self._transport.get_write_buffer_size() < 2**16:
                self._transport.write(event(adapter) * 20)
            await asyncio.sleep(0.05)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
