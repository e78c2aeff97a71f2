"""A small HTTP client that costs less than what it measures."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer. ``seconds`` are from when the request was due, so a late client shows."""

    seconds: float
    status: int
    version: str
    body: bytes

    @property
    def is_whole(self) -> bool:
        """Whether it is a good answer with its end."""
        end = b"[DONE]\n\n" if self.body.startswith(b"data:") else b"}"
        return self.status == 200 and self.body.endswith(end)


def request(model: str, *, user: str, is_stream: bool) -> bytes:
    """Return the bytes of a request."""
    fields = {
        "model": model,
        "user": user,
        "stream": is_stream,
        "messages": [{"role": "user", "content": "Is this headline good news? " * 8}],
    }
    body = json.dumps(fields, separators=(",", ":")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


class Pool:
    """Connections to one port, used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, sent: bytes, due: float) -> Answered:
        """Send a request and read its whole answer; status 0 if the connection broke."""
        try:
            reader, writer = self._take_idle() or await self._connect()
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {key.lower(): value.strip() for key, _, value in map(_split, head[1:])}
            if "content-length" in headers:
                body = await reader.readexactly(int(headers["content-length"]))
            else:
                body = await _read_chunks(reader)
        except (OSError, asyncio.IncompleteReadError):
            return Answered(time.perf_counter() - due, 0, "", b"")
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        version = headers.get("x-finetune-version", "")
        return Answered(time.perf_counter() - due, int(head[0].split()[1]), version, body)

    def _take_idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # servers close what has been idle for a while
                return reader, writer
            writer.close()
        return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Close all idle connections."""
        for _, writer in self._idle:
            writer.close()


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(":")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int(await reader.readline(), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(pieces)
