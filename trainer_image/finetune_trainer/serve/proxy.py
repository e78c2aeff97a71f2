"""Parts of an HTTP proxy that front and agent share.

Bodies of requests are read up to a limit; answers pass on piece by piece as they arrive. Only
listed headers cross the proxy. Texts of users never reach a log: not even in an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from finetune_trainer.serve.errors import Refused, error_body
from finetune_trainer.serve.listening import BUFFER_BYTES, SERVER

MAX_BODY_BYTES = 1024 * 1024
"""Of a request from outside. Behind the front a body may be longer: it has another model name."""
BODY_SECONDS = 15.0
"""Time for a request's body to arrive."""
POOLED_SECONDS = 10.0
"""A connection to a server is used again within this time, and closed within twice of it. Must be
below the server's idle time. A server that drains waits for it."""
CONNECT_SECONDS = 1.0
SILENCE_SECONDS = 600.0
"""Longest wait for a server's next byte. An answer that is not streamed comes as a whole."""
MAX_ERROR_BYTES = 64 * 1024
"""Of an error, so much is read before it passes on."""
MAX_MESSAGE_CHARACTERS = 1000
_KEPT = ("Content-Type", "Content-Encoding", "Cache-Control", "Retry-After")
"""Headers of answers that pass on to the client."""


class StreamCut(Exception):  # noqa: N818 - what happened to the answer
    """The server broke off after the first byte. The client gets an answer without its end."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer of a server whose first piece has arrived.

    Attributes:
        first: The first piece; empty for an answer without a body.
    """

    response: aiohttp.ClientResponse
    first: bytes

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.response.status

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return self.response.headers.get("Content-Type", "").startswith("text/event-stream")

    def close(self) -> None:
        """Give up an answer that is not passed on. The server notices and stops generating."""
        self.response.close()


def make_session() -> aiohttp.ClientSession:
    """Return a client for servers: no redirects are followed by it, no cookies, no proxies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=POOLED_SECONDS, ttl_dns_cache=10),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        ),
        auto_decompress=False,
        read_bufsize=BUFFER_BYTES,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        trace_configs=[_tracing()],
    )


def _tracing() -> aiohttp.TraceConfig:
    """Return hooks that note in a request's list that it went over a connection used before."""

    async def note(session: aiohttp.ClientSession, context: Any, params: object) -> None:
        context.trace_request_ctx.append(True)

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(note)
    return config


async def open_answer(
    session: aiohttp.ClientSession, url: str, body: bytes | None, headers: Mapping[str, str]
) -> Opened:
    """Send a request (POST with a body, else GET) and wait for the answer's first piece.

    A server may close an idle connection while a request is on its way. Such a request is sent
    once more at once. The session must be of ``make_session``.

    Raises:
        aiohttp.ClientConnectorError: The server cannot be reached: it has seen nothing.
        aiohttp.ConnectionTimeoutError: The same.
        aiohttp.ClientError, TimeoutError: It broke off before the first byte.
    """
    used_before: list[bool] = []
    try:
        return await _open(session, url, body, headers, used_before)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        if not used_before:
            raise
        return await _open(session, url, body, headers, [])


async def _open(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    used_before: list[bool],
) -> Opened:
    response = await session.request(
        "GET" if body is None else "POST",
        url,
        data=body,
        headers=headers,
        allow_redirects=False,
        trace_request_ctx=used_before,
    )
    try:
        return Opened(response, await response.content.readany())
    except BaseException:
        response.close()
        raise


async def read_body(
    request: web.BaseRequest,
    *,
    limit: int = 2 * MAX_BODY_BYTES,
    take: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Return the body of a request of at most ``limit`` bytes.

    ``take`` is called with the size of each piece before the next one is read; it may raise.

    Raises:
        Refused: It is too large, encoded, or comes too slowly.
    """
    headers = request.headers
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, "unsupported_encoding", "Send the body without Content-Encoding.")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    if content.is_eof():
        body = content.read_nowait()
        if len(body) > limit:
            raise _too_large(limit)
        take(len(body))
        return body
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while piece := await content.readany():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                take(len(piece))
                pieces.append(piece)
    except TimeoutError:
        message = f"The body did not arrive within {BODY_SECONDS:g} s."
        raise Refused(408, "body_too_slow", message) from None
    except aiohttp.ClientError:
        raise Refused(400, "broken_body", "The body is not well-formed HTTP.") from None
    return b"".join(pieces)


def _too_large(limit: int) -> Refused:
    return Refused(413, "body_too_large", f"The body is larger than {limit} bytes. Send less.")


async def pass_on(
    request: web.BaseRequest,
    opened: Opened,
    headers: Mapping[str, str],
    watch: Callable[[bytes], None] | None = None,
    has_ended: Callable[[], bool] = lambda: True,
    edit: Callable[[bytes], bytes] | None = None,
) -> web.StreamResponse:
    """Pass an answer on to the client, each piece as soon as it is there.

    ``headers`` are added to it. ``watch`` is called with each piece after it was passed on.
    ``has_ended`` returns whether the pieces of a stream have the end that clients wait for.
    ``edit`` returns what passes on after a further piece of a stream; an empty one is the end.

    Raises:
        StreamCut: The server broke off.
    """
    source, first = opened.response, opened.first
    if source.status >= 400:
        return await _pass_error_on(opened, headers, watch)
    given = {name: source.headers[name] for name in _KEPT if name in source.headers}
    length = source.content_length
    if length is not None and length == len(first) and not opened.is_stream:
        # Headers and body leave in one write.
        answer = web.Response(status=source.status, body=first, headers={**given, **headers})
        source.release()
        if watch is not None:
            watch(first)
        return answer
    stream = web.StreamResponse(
        status=source.status, headers={**given, **headers, "Server": SERVER}
    )
    stream.content_length = length if edit is None else None
    try:
        await stream.prepare(request)
        piece = first
        while piece:
            if passed := piece if edit is None else edit(piece):
                await stream.write(passed)
            if watch is not None:
                watch(piece)
            try:
                piece = await source.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                await _cut(request, stream, opened)
                raise StreamCut(type(error).__name__) from None
        if opened.is_stream and not has_ended():
            await _cut(request, stream, opened)
            raise StreamCut("it has no end")
        if edit is not None and (passed := edit(b"")):
            await stream.write(passed)
        await stream.write_eof()
    except BaseException:
        source.close()
        raise
    return stream


async def _pass_error_on(
    opened: Opened, headers: Mapping[str, str], watch: Callable[[bytes], None] | None
) -> web.Response:
    """Pass an error on in OpenAI's shape, which engines do not always have."""
    source, body = opened.response, opened.first
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while len(body) < MAX_ERROR_BYTES and (piece := await source.content.readany()):
                body += piece
    except (aiohttp.ClientError, TimeoutError, OSError):
        body = b""
    source.close()
    body = _error_of(source.status, source.content_type, body)
    if watch is not None:
        watch(body)
    given = {"Content-Type": "application/json", **headers}
    if "Retry-After" in source.headers:
        given["Retry-After"] = source.headers["Retry-After"]
    return web.Response(status=source.status, body=body, headers=given)


def _error_of(status: int, kind: str, body: bytes) -> bytes:
    """Return an error as it is if it has OpenAI's shape, else with the text that it has."""
    said: object = body.decode("utf-8", "replace") if kind == "text/plain" else None
    try:
        found = orjson.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict):
        if isinstance(found.get("error"), dict):
            return body
        said = found.get("error") or found.get("message") or found.get("detail")
    message = said.strip()[:MAX_MESSAGE_CHARACTERS] if isinstance(said, str) else ""
    return orjson.dumps(error_body(status, message or f"The server answered with {status}."))


async def _cut(request: web.BaseRequest, stream: web.StreamResponse, opened: Opened) -> None:
    """Tell a client that its answer is broken: an error event if it streams, and no proper end."""
    if opened.is_stream:
        refused = Refused(502, "stream_cut", "The server broke off. Ask again.")
        await stream.write(b"\n\ndata: " + orjson.dumps(refused.body()) + b"\n\n")
    if request.transport is not None:
        request.transport.close()
