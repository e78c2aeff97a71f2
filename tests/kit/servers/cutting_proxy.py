"""A TCP proxy on loopback that cuts connections, to see what survives a bad network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class CuttingProxy:
    """Forwards to ``upstream``; cuts an answer after ``limit_bytes``, ``num_cuts`` times."""

    upstream: tuple[str, int]
    limit_bytes: int
    num_cuts: int
    port: int = 0
    num_cut: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.upstream) as server:
            try:
                self._exchange(client, server)
            finally:
                # Closing alone does not end a connection that another thread is reading from.
                for side in (client, server):
                    with suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)

    def _exchange(self, client: socket.socket, server: socket.socket) -> None:
        threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
        sent = 0
        while data := self._receive(server):
            sent += len(data)
            if sent > self.limit_bytes and self._take_cut():
                # What is sent is short of the announced length; then the line is dead.
                client.sendall(data[: len(data) // 2])
                return
            try:
                client.sendall(data)
            except OSError:
                return

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while data := self._receive(client):
            try:
                server.sendall(data)
            except OSError:
                return

    @staticmethod
    def _receive(source: socket.socket) -> bytes:
        try:
            return source.recv(65536)
        except OSError:
            return b""

    def _take_cut(self) -> bool:
        with self._lock:
            if self.num_cut >= self.num_cuts:
                return False
            self.num_cut += 1
            return True


@contextmanager
def cutting_proxy(endpoint: str, *, limit_bytes: int, num_cuts: int) -> Iterator[CuttingProxy]:
    """Run a proxy in front of ``http://host:port``."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CuttingProxy(
            upstream=(host, int(port)),
            limit_bytes=limit_bytes,
            num_cuts=num_cuts,
            port=listener.getsockname()[1],
        )
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
