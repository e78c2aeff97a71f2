"""An engine that answers at once: bytes that were made before, one process, one core.

``python -m benchmarks.serving.upstream`` prints its port. A streamed answer has eight events.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache

STREAM = b'"stream":true'
NUM_EVENTS = 8
EVENT_SECONDS = 0.002


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
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            at = self._buffer.lower().index(b"content-length:")
            length = int(self._buffer[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        adapter = body.split(b'"model":"', 1)[1].split(b'"', 1)[0]
        if STREAM not in body:
            self._transport.write(plain(adapter))
            return
        task = asyncio.create_task(self._stream(adapter))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stream(self, adapter: bytes) -> None:
        assert self._transport is not None
        self._transport.write(STREAM_HEAD)
        for _ in range(NUM_EVENTS):
            self._transport.write(event(adapter))
            await asyncio.sleep(EVENT_SECONDS)
        self._transport.write(STREAM_END)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
