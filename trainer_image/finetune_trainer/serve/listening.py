"""Listens for requests: connections with limits for slow and for many clients, and their end.

Texts of users never reach a log: not even in an exception.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.logs import log_defect

HEAD_SECONDS = 10.0
"""Time for a request's headers to arrive, from their first byte or from the connection's start."""
IDLE_SECONDS = 75.0
"""A connection is closed so long after its last answer."""
STALLED_SECONDS = 60.0
MIN_TAKEN_BYTES = 16 * 1024
"""A client that takes less than this in ``STALLED_SECONDS``, while more waits, is disconnected."""
SEND_BUFFER_BYTES = 128 * 1024
"""Of the kernel, for each connection. Unsent bytes of slow clients count as memory of the pod."""
BUFFER_BYTES = 64 * 1024
"""What is read of a connection before somebody takes it; of servers too."""
MAX_CONNECTIONS = 4096
"""Beyond, the connection ends that has been idle for the longest time: first one that has sent no
valid key."""
MAX_PER_ADDRESS = 256
"""Connections of one address that have sent no valid key. Beyond, its longest idle one ends."""
YOUNG_SECONDS = 1.0
"""A new connection has this time to send its key before it can be the one that ends."""
SERVER = "finetune"
"""Name of the server in answers. It tells no version."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """aiohttp's HTTP protocol with limits for slow clients and without users' texts in logs.

    Attributes:
        address: IP address of the client; empty on a Unix socket.
        is_busy: Whether a request is under way.
        idle_since: Time of the loop at which it came, or its last request ended.
    """

    __slots__ = (
        *("_proxy", "_stall", "_timer", "_unsent", "_wire"),
        *("address", "idle_since", "is_busy"),
    )

    def __init__(self, proxy: ProxyServer, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=2.0,
            read_bufsize=BUFFER_BYTES,
            auto_decompress=False,
        )
        self._proxy = proxy
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None
        self._unsent = 0
        self.address = ""
        self.idle_since = self._loop.time()
        self.is_busy = False

    @property
    def is_draining(self) -> bool:
        """Whether the process ends, so that each answer is the last one of its connection."""
        return self._proxy.is_draining

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time for the first request's headers."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        # Writing pauses whenever the client has not taken all: this begins its time.
        transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._timer = self._loop.call_later(HEAD_SECONDS, self._give_up)
        self._proxy.crowd.enter(self)

    def data_received(self, data: bytes) -> None:
        """Start the time for the headers with their first byte."""
        if self._timer is None and not self.is_busy:
            self._timer = self._loop.call_later(HEAD_SECONDS, self._give_up)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop all times."""
        self._stop(self._timer)
        self._stop(self._stall)
        self._proxy.crowd.leave(self)
        super().connection_lost(exc)

    def begin(self) -> None:
        """Note that the headers of a request are there."""
        self._stop(self._timer)
        self._timer = None
        self.is_busy = True
        self._proxy.crowd.begin(self)

    def end(self) -> None:
        """Note that a request is answered."""
        self.is_busy = False
        self.idle_since = self._loop.time()
        self._proxy.crowd.end(self)

    def trust(self) -> None:
        """Note that the client has sent a valid key."""
        self._proxy.crowd.trust(self)

    def pause_writing(self) -> None:
        """Start the time for the client to take what waits."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Stop it: the client has taken all."""
        self._stop(self._stall)
        super().resume_writing()

    def _watch(self) -> None:
        assert self._wire is not None
        self._unsent = self._wire.get_write_buffer_size()
        self._stall = self._loop.call_later(STALLED_SECONDS, self._look_whether_it_stalls)

    def _look_whether_it_stalls(self) -> None:
        # A transport that is closed also waits until the client has taken all.
        assert self._wire is not None
        if self._unsent - self._wire.get_write_buffer_size() < MIN_TAKEN_BYTES:
            self._wire.abort()
        else:
            self._watch()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

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
            refused = Refused(400, "bad_request", "The request is not well-formed HTTP.")
            return _signed(refused.response())
        if isinstance(exc, ConnectionError):
            raise exc
        log_defect(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        answer = Refused(status, "internal_error", "The proxy failed. Ask again.").response()
        answer.force_close()
        return _signed(answer)


def _signed(answer: web.StreamResponse) -> web.StreamResponse:
    answer.headers["Server"] = SERVER
    return answer


class _Request(web.BaseRequest):
    """A request whose connection ends with its answer if the process ends."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection is used again; read when the headers of the answer are made."""
        protocol = self.protocol
        is_draining = isinstance(protocol, Connection) and protocol.is_draining
        return not is_draining and super().keep_alive


def trust(request: web.BaseRequest) -> None:
    """Note that a request brought a valid key: its connection does not count for its address."""
    if isinstance(request.protocol, Connection):
        request.protocol.trust()


class Crowd:
    """The open connections of a process, and which of them end where there are too many."""

    def __init__(self) -> None:
        # Both in the order in which the connections fell idle.
        self._idle: dict[Connection, None] = {}
        self._strangers: dict[str, dict[Connection, None]] = {}
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def enter(self, newest: Connection) -> None:
        """Add a connection, which is idle; end another one if there are too many."""
        self._open.add(newest)
        self._idle[newest] = None
        mine = self._strangers.setdefault(newest.address, {})
        mine[newest] = None
        while newest.address and newest in mine and len(mine) > MAX_PER_ADDRESS:
            longest = next(each for each in mine if not each.is_busy)
            is_young = newest.idle_since - longest.idle_since < YOUNG_SECONDS
            if is_young and longest is not newest:
                break
            self._close(longest)
        if len(self._open) > MAX_CONNECTIONS:
            strangers = (each for each in self._idle if self._is_idle_stranger(each, newest))
            self._close(next(strangers, next(iter(self._idle))))

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self.trust(connection)

    def begin(self, connection: Connection) -> None:
        """Note that a request has begun."""
        self._idle.pop(connection, None)

    def end(self, connection: Connection) -> None:
        """Note that a request has ended."""
        if connection in self._open:
            self._idle[connection] = None
            mine = self._strangers.get(connection.address, {})
            if connection in mine:
                del mine[connection]
                mine[connection] = None

    def trust(self, connection: Connection) -> None:
        """Count a connection for its address no more."""
        mine = self._strangers.get(connection.address, {})
        mine.pop(connection, None)
        if not mine:
            self._strangers.pop(connection.address, None)

    def _is_idle_stranger(self, connection: Connection, newest: Connection) -> bool:
        is_young = newest.idle_since - connection.idle_since < YOUNG_SECONDS
        return not is_young and connection in self._strangers.get(connection.address, {})

    def _close(self, connection: Connection) -> None:
        self.leave(connection)
        connection.force_close()


class ProxyServer:
    """Listens on one address.

    Args:
        handler: Answers each request. It may raise Refused.

    Attributes:
        num_open: Requests under way.
        crowd: The open connections.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.num_open = 0
        self.crowd = Crowd()
        self.is_draining = False
        self._web = web.Server(
            self._handle, request_factory=_make_request, handler_cancellation=True
        )
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self, self._web), host, port, backlog=1024
        )
        for each in self._listener.sockets:
            # Connections inherit it.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        port = self._listener.sockets[0].getsockname()[1]
        return port

    async def start_unix(self, path: Path) -> None:
        """Listen on a Unix socket; one that an earlier process has left is replaced."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            lambda: Connection(self, self._web), path, backlog=1024
        )

    async def stop(self, *, linger_seconds: float, grace_seconds: float) -> None:
        """Drain: each connection ends with its next answer, when it has been idle, or in the end.

        A connection that is closed while it is idle may lose a request that is on its way. So an
        idle one has the time that it always has, of the client or of the server.

        Args:
            linger_seconds: New connections come for so long: Kubernetes tells all nodes that this
                pod ends. 0: idle connections are closed at once.
            grace_seconds: Time for open connections after that.
        """
        self.is_draining = True
        await asyncio.sleep(linger_seconds)
        if self._listener is not None:
            self._listener.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_seconds
        while (len(self.crowd) if linger_seconds else self.num_open) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await self._web.shutdown(0.1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.num_open += 1
        try:
            try:
                answer = await self._handler(request)
            except Refused as refused:
                answer = refused.response()
            return _signed(answer)
        finally:
            self.num_open -= 1
            if isinstance(request.protocol, Connection):
                request.protocol.end()


def _make_request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    protocol.begin()
    return _Request(message, payload, protocol, writer, task, asyncio.get_running_loop())
