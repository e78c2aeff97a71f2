"""How many connections the progress endpoint holds, and whose go when they are too many.

A connection that sends nothing costs memory and a file descriptor for as long as it likes, and one
pod can open tens of thousands. At the limit the address with most connections loses its oldest: who
holds few loses none to who holds many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

MAX_CONNECTIONS = 1024
"""A push takes milliseconds: ten thousand pods hold some forty at a time."""
IDLE_SECONDS = 10.0
"""A connection without a request is closed after so long."""

ProtocolFactory = Callable[[], asyncio.Protocol]


class Door:
    """Counts the connections of one port. Event loop only.

    Args:
        limit: How many there may be.
    """

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._by_address: dict[str, dict[Guarded, None]] = {}
        self._num_open = 0

    def enter(self, guarded: Guarded) -> None:
        """Count a new connection; close another if they are too many."""
        self._by_address.setdefault(guarded.address, {})[guarded] = None
        self._num_open += 1
        if self._num_open > self._limit:
            most = max(self._by_address.values(), key=len)
            next(iter(most)).close()

    def leave(self, guarded: Guarded) -> None:
        """Count a connection no more; does nothing for one that has left."""
        others = self._by_address.get(guarded.address, {})
        if guarded not in others:
            return
        del others[guarded]
        self._num_open -= 1
        if not others:
            del self._by_address[guarded.address]


class Guarded(asyncio.Protocol):
    """One connection: tells the door, and hands everything on to the HTTP server's protocol.

    Args:
        door: Where it is counted.
        make: Makes the HTTP server's protocol.
    """

    def __init__(self, door: Door, make: ProtocolFactory) -> None:
        self.address = ""
        self._door = door
        self._inner = make()
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close the connection at once."""
        self._door.leave(self)
        if isinstance(self._transport, asyncio.Transport):
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and give it so long to send something."""
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)
        self._inner.connection_made(transport)
        self._door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._stop_timer()
        self._door.leave(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        self._stop_timer()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on that no more comes."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Hand on that the peer does not read."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that the peer reads again."""
        self._inner.resume_writing()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class GuardedRunner(web.AppRunner):
    """Runs an application behind a door.

    Args:
        app: The application.
        limit: How many connections there may be.
    """

    def __init__(self, app: web.Application, *, limit: int = MAX_CONNECTIONS) -> None:
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=2.0,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._door = Door(limit)

    @property
    def server(self) -> ProtocolFactory | None:  # type: ignore[override]
        """What a site makes a connection's protocol with."""
        make = super().server
        return None if make is None else lambda: Guarded(self._door, make)
