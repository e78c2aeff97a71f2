"""A TCP forwarder on loopback that a test opens and shuts, like a network that goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class TcpGate:
    """Forwards to ``upstream`` while open."""

    upstream: tuple[str, int]
    port: int = 0
    is_open: bool = True
    _connections: set[asyncio.Task] = field(default_factory=set)

    def shut(self) -> None:
        """Cut all connections and refuse new ones."""
        self.is_open = False
        for connection in self._connections:
            connection.cancel()

    def open(self) -> None:
        """Let connections through again."""
        self.is_open = True

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side or the gate ends it."""
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            if self.is_open:
                with contextlib.suppress(OSError):
                    upstream = await asyncio.open_connection(*self.upstream)
                    try:
                        async with asyncio.TaskGroup() as group:
                            group.create_task(_pump(reader, upstream[1]))
                            group.create_task(_pump(upstream[0], writer))
                    finally:
                        upstream[1].transport.abort()
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def tcp_gate(host: str, port: int) -> AsyncIterator[TcpGate]:
    """Run an open gate in front of ``host:port``."""
    gate = TcpGate((host, port))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await gate.forward(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        gate.shut()
        await server.wait_closed()
