"""Limits of the progress endpoint: number of connections and read rate per address.

An idle connection costs memory and a file descriptor, and one pod can open tens of thousands. At
the limit the address with most connections loses its oldest. Reading a request costs more than
sending it. So input beyond an address's rate is not read: it waits in the kernel, in the sender's
memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from finetune_operator.kube.clock import Clock, SystemClock
from finetune_operator.progress.identity import MAX_SENDERS, Rates

MAX_CONNECTIONS = 1024
"""A push takes milliseconds: ten thousand pods hold some forty at a time."""
IDLE_SECONDS = 10.0
"""A connection without a request is closed after so long."""
REQUESTS_PER_SECOND = 1000.0
"""Requests and connections read from one address; those of a thousand pods behind one are 600."""
BURST = 1000
PATIENCE_SECONDS = 2.0
"""A connection that would have to wait longer for its turn is closed."""
_MARK = b" HTTP/1."
"""Stands once in the first line of every request."""

ProtocolFactory = Callable[[], asyncio.Protocol]


class ConnectionLimiter:
    """Counts the connections of one port, and their input. Event loop only.

    Args:
        clock: Monotonic time for the rates.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS, *, clock: Clock | None = None) -> None:
        self._limit = limit
        self._rates: Rates[str] = Rates(
            clock or SystemClock(),
            seconds=1.0 / REQUESTS_PER_SECOND,
            burst=BURST,
            limit=MAX_SENDERS,
        )
        self._by_address: dict[str, dict[LimitedConnection, None]] = {}
        self._num_open = 0

    def enter(self, guarded: LimitedConnection) -> None:
        """Count a new connection; close another if they are too many."""
        self._by_address.setdefault(guarded.address, {})[guarded] = None
        self._num_open += 1
        if self._num_open > self._limit:
            most = max(self._by_address.values(), key=len)
            next(iter(most)).close()

    def wait_of(self, guarded: LimitedConnection, count: int) -> float | None:
        """Return how long an address has to wait with so many requests; None if too long."""
        return self._rates.wait_of(guarded.address, count=count, at_most=PATIENCE_SECONDS)

    def leave(self, guarded: LimitedConnection) -> None:
        """Count a connection no more; does nothing for one that has left."""
        others = self._by_address.get(guarded.address, {})
        if guarded not in others:
            return
        del others[guarded]
        self._num_open -= 1
        if not others:
            del self._by_address[guarded.address]


class LimitedConnection(asyncio.Protocol):
    """One connection: counts its input, and passes it on to the HTTP server's protocol.

    Args:
        make: Makes the HTTP server's protocol.
    """

    def __init__(self, door: ConnectionLimiter, make: ProtocolFactory) -> None:
        self.address = ""
        self._door = door
        self._make = make
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close the connection at once."""
        self._door.leave(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and give it so long to send something."""
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._transport = transport
        if not self._may_go_on(1):
            return
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)
        self._inner = self._make()
        self._inner.connection_made(transport)
        self._door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._stop_timer()
        self._stop_rest()
        self._door.leave(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand on what came, and read on when the address has its next turn."""
        self._stop_timer()
        if self._inner is not None and self._may_go_on(max(1, data.count(_MARK))):
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on that no more comes."""
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        """Hand on that the peer does not read."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that the peer reads again."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _may_go_on(self, count: int) -> bool:
        """Count requests; stop reading while they are beyond the address's rate, or close."""
        wait = self._door.wait_of(self, count)
        if wait is None:
            self.close()
            return False
        if wait and self._transport is not None:
            self._transport.pause_reading()
            self._stop_rest()
            self._rest = asyncio.get_running_loop().call_later(wait, self._read_on)
        return True

    def _stop_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _read_on(self) -> None:
        self._rest = None
        if self._transport is not None:
            self._transport.resume_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class LimitedRunner(web.AppRunner):
    """Runs an application with limits on its connections.

    Args:
        clock: Monotonic time for the rates.
    """

    def __init__(
        self, app: web.Application, *, limit: int = MAX_CONNECTIONS, clock: Clock | None = None
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=2.0,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._door = ConnectionLimiter(limit, clock=clock)

    @property
    def server(self) -> ProtocolFactory | None:  # type: ignore[override]
        """What a site makes a connection's protocol with."""
        make = super().server
        return None if make is None else lambda: LimitedConnection(self._door, make)
