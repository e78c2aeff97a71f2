"""Stands in for the operator's progress endpoint: keeps what trainers push."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Push = tuple[str, dict[str, Any]]
"""The Authorization header and the body."""


@contextmanager
def receiving() -> Iterator[tuple[str, list[Push]]]:
    """Serve; yield the URL to push to, and the list that what arrives is added to."""
    received: list[Push] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers.get("Authorization", ""), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/progress", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
