"""Parts of an HTTP proxy that front and agent share.

Bodies of requests are read up to a limit; answers pass on piece by piece as they arrive. Only
listed headers cross the proxy. Texts of users never reach a log: not even in an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.logs import log_defect

MAX_BODY_BYTES = 1024 * 1024
"""Of a request from outside. Behind the front a body may be longer: it has another model name."""
BODY_SECONDS = 15.0
"""Time for a request's body to arrive."""
HEAD_SECONDS = 10.0
"""Time for a request's headers to arrive, from their first byte or from the connection's start."""
IDLE_SECONDS = 75.0
"""A connection is closed so long after its last answer."""
POOLED_SECONDS = 30.0
"""A connection to a server is used again within this time. Must be below its idle time."""
CONNECT_SECONDS = 1.0
SILENCE_SECONDS = 600.0
"""Longest wait for a server's next byte. An answer that is not streamed comes as a whole."""
STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is disconnected."""
MAX_CONNECTIONS = 4096
_KEPT = ("Content-Type", "Content-Encoding", "Cache-Control", "Retry-After")
"""Headers of answers that pass on to the client."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )


async def open_answer(
    session: aiohttp.ClientSession, url: str, body: bytes | None, headers: Mapping[str, str]
) -> Opened:
    """Send a request (POST with a body, else GET) and wait for the answer's first piece.

    Raises:
        aiohttp.ClientConnectorError: The server cannot be reached: it has seen nothing.
        aiohttp.ConnectionTimeoutError: The same.
        aiohttp.ClientError, TimeoutError: It broke off before the first byte.
    """
    response = await session.request(
        "GET" if body is None else "POST", url, data=body, headers=headers, allow_redirects=False
    )
    try:
        return Opened(response, await response.content.readany())
    except BaseException:
        response.close()
        raise


async def read_body(request: web.BaseRequest, *, limit: int = 2 * MAX_BODY_BYTES) -> bytes:
    """Return the body of a request of at most ``limit`` bytes.

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
        return body
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while piece := await content.readany():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
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
) -> web.StreamResponse:
    """Pass an answer on to the client, each piece as soon as it is there.

    ``headers`` are added to it. ``watch`` is called with each piece after it was passed on.

    Raises:
        StreamCut: The server broke off.
    """
    source, first = opened.response, opened.first
    given = {name: source.headers[name] for name in _KEPT if name in source.headers}
    length = source.content_length
    if length is not None and length == len(first):
        # Headers and body leave in one write.
        answer = web.Response(status=source.status, body=first, headers={**given, **headers})
        source.release()
        if watch is not None:
            watch(first)
        return answer
    stream = web.StreamResponse(status=source.status, headers={**given, **headers})
    stream.content_length = length
    try:
        await stream.prepare(request)
        piece = first
        while piece:
            await _write(request, stream, piece)
            if watch is not None:
                watch(piece)
            try:
                piece = await source.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                await _cut(request, stream, opened)
                raise StreamCut(type(error).__name__) from None
        await stream.write_eof()
    except BaseException:
        source.close()
        raise
    return stream


async def _write(request: web.BaseRequest, stream: web.StreamResponse, piece: bytes) -> None:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    if transport.get_write_buffer_size() == 0:
        await stream.write(piece)
        return
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            await stream.write(piece)
    except TimeoutError:
        transport.abort()
        raise ConnectionResetError("the client reads nothing") from None


async def _cut(request: web.BaseRequest, stream: web.StreamResponse, opened: Opened) -> None:
    """Tell a client that its answer is broken: an error event if it streams, and no proper end."""
    if opened.is_stream:
        refused = Refused(502, "stream_cut", "The server broke off. Ask again.")
        await stream.write(b"\n\ndata: " + orjson.dumps(refused.body()) + b"\n\n")
    if request.transport is not None:
        request.transport.close()


class Connection(RequestHandler):
    """aiohttp's HTTP protocol with a time limit for headers and without users' texts in logs."""

    __slots__ = ("_num_open", "_timer", "is_busy")

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            auto_decompress=False,
        )
        self._timer: asyncio.TimerHandle | None = None
        self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time for the first request's headers."""
        super().connection_made(transport)
        manager = self._manager
        if manager is not None and len(manager.connections) > MAX_CONNECTIONS:
            self.force_close()
            return
        self._timer = self._loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Start the time for the headers with their first byte."""
        if self._timer is None and not self.is_busy:
            self._timer = self._loop.call_later(HEAD_SECONDS, self._give_up)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the time."""
        self.stop_timer()
        super().connection_lost(exc)

    def stop_timer(self) -> None:
        """Stop waiting for headers: they are there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.is_busy:
            self.force_close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log nothing here: aiohttp's messages quote what the client sent."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is no HTTP, or that met a defect, without quoting it."""
        if status == 400:
            return Refused(400, "bad_request", "The request is not well-formed HTTP.").response()
        if isinstance(exc, ConnectionError):
            raise exc
        log_defect(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        answer = Refused(status, "internal_error", "The proxy failed. Ask again.").response()
        answer.force_close()
        return answer


class ProxyServer:
    """Listens on one address.

    Args:
        handler: Answers each request. It may raise Refused.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.num_open = 0
        self.is_draining = False
        self._web = web.Server(
            self._handle, request_factory=_make_request, handler_cancellation=True
        )
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self._web, loop), host, port, backlog=1024
        )
        port = self._listener.sockets[0].getsockname()[1]
        return port

    async def start_unix(self, path: Path) -> None:
        """Listen on a Unix socket; one that an earlier process has left is replaced."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            lambda: Connection(self._web, loop), path, backlog=1024
        )

    async def stop(self, *, linger_seconds: float, grace_seconds: float) -> None:
        """Drain: accept for a while, then let requests end, then close.

        Args:
            linger_seconds: Requests still come while Kubernetes tells that this pod is ending.
            grace_seconds: Time for open requests after that.
        """
        self.is_draining = True
        await asyncio.sleep(linger_seconds)
        if self._listener is not None:
            self._listener.close()
        self._web.pre_shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_seconds
        while self.num_open and loop.time() < end:  # noqa: ASYNC110 - one event per request costs
            await asyncio.sleep(0.05)
        await self._web.shutdown(0.1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.num_open += 1
        try:
            try:
                answer = await self._handler(request)
            except Refused as refused:
                answer = refused.response()
            if self.is_draining:
                answer.force_close()
            return answer
        finally:
            self.num_open -= 1
            protocol = request.protocol
            if isinstance(protocol, Connection):
                protocol.is_busy = False


def _make_request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    protocol.stop_timer()
    protocol.is_busy = True
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())
