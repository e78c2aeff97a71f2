"""An HTTP proxy in front of an S3 server that fails as servers and networks do."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
TIME_TOO_SKEWED = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time"
    b" and the server's time is too large.</Message></Error>"
)
MAX_SKEW_SECONDS = 900.0
"""What S3 allows (Amazon S3 API reference, "Error responses": RequestTimeTooSkewed)."""
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(kw_only=True)
class FaultyS3:
    """What goes wrong; change it while requests are on their way.

    Attributes:
        upstream: The server's ``host:port``; it may move.
        is_open: False: every connection is cut.
        share_of_503: Of all requests so many are answered by 503 SlowDown.
        damage: Changes the body that a read of this path brings.
        bytes_per_second: How fast bodies of requests pass; None for as fast as they come.
        on_request: Called with method and path of each request.
        num_refused: Requests answered by 503.
        num_damaged: Bodies changed.
        num_skewed: Requests refused because they are signed with a time that is too far off.
    """

    upstream: str
    port: int = 0
    is_open: bool = True
    share_of_503: float = 0.0
    damage: Callable[[str, bytes], bytes] = lambda _, body: body
    bytes_per_second: float | None = None
    on_request: Callable[[str, str], None] = lambda *_: None
    num_refused: int = 0
    num_damaged: int = 0
    num_skewed: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(1))
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def shut(self) -> None:
        """Cut every connection, and each new one."""
        self.is_open = False
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let connections through again."""
        self.is_open = True

    def damage_reads(self, part: str, times: int) -> None:
        """Flip a bit in the next so many bodies of objects whose path holds ``part``."""

        def flip(path: str, body: bytes) -> bytes:
            if part not in path or not body or self.num_damaged >= times:
                return body
            self.num_damaged += 1
            return body[:-1] + bytes([body[-1] ^ 1])

        self.damage = flip

    def damage_each(self, part: str, times: int) -> None:
        """Flip a bit in the first so many bodies of each object whose path holds ``part``.

        Manifests stay as they are: the next writer there reads back its own.
        """
        seen: Counter[str] = Counter()

        def flip(path: str, body: bytes) -> bytes:
            seen[path] += 1
            if part not in path or path.endswith("/manifest.json") or seen[path] > times:
                return body
            self.num_damaged += 1
            return body[:-1] + bytes([body[-1] ^ 1])

        self.damage = flip

    def seed(self, text: str) -> None:
        """Let chance begin anew."""
        self._random = random.Random(text)


def _handler_of(link: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            link._open.add(self.connection)

        def finish(self) -> None:
            link._open.discard(self.connection)
            with suppress(OSError):
                super().finish()

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self) -> None:
            if not link.is_open:
                self.close_connection = True
                return
            try:
                body = self._read_body()
                link.on_request(self.command, self.path)
                if link._random.random() < link.share_of_503:
                    link.num_refused += 1
                    self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
                elif self._is_skewed():
                    link.num_skewed += 1
                    self._answer(403, [("Content-Type", "application/xml")], TIME_TOO_SKEWED)
                else:
                    self._answer(*self._forward(body))
            except OSError:
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

        def _is_skewed(self) -> bool:
            """Return whether S3 would refuse the time of the signature."""
            text = self.headers.get("X-Amz-Date")
            if text is None:
                return False
            signed = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return abs((signed - datetime.now(UTC)).total_seconds()) > MAX_SKEW_SECONDS

        def _read_body(self) -> bytes:
            left, pieces = int(self.headers.get("Content-Length") or 0), []
            while left:
                piece = self.rfile.read(min(left, 16 * 1024))
                if not piece:
                    raise OSError("the client went away")
                pieces.append(piece)
                left -= len(piece)
                if link.bytes_per_second:
                    time.sleep(len(piece) / link.bytes_per_second)
            return b"".join(pieces)

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            server = http.client.HTTPConnection(link.upstream, timeout=60)
            try:
                server.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        server.putheader(name, value)
                server.endheaders(body)
                answer = server.getresponse()
                headers = [h for h in answer.getheaders() if h[0].lower() not in _HOP_BY_HOP]
                if self.command == "HEAD":
                    headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
                data = answer.read()
            except http.client.HTTPException as error:
                raise OSError(str(error)) from error
            finally:
                server.close()
            is_object = self.command == "GET" and "list-type" not in self.path
            if is_object and answer.status in (200, 206):
                data = link.damage(urlsplit(self.path).path, data)
            return answer.status, headers, data

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            if not link.is_open:
                self.close_connection = True
                return
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


@contextmanager
def faulty_s3(endpoint: str) -> Iterator[FaultyS3]:
    """Run a proxy in front of ``http://host:port`` that lets everything pass at first."""
    link = FaultyS3(upstream=endpoint.removeprefix("http://"))
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(link)) as server:
        server.daemon_threads = True
        link.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield link
        finally:
            link.shut()
            server.shutdown()
