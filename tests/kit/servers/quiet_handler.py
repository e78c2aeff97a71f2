"""What the servers of tests have in common in how they are asked."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """Reads bodies, and prints nothing of what it is asked."""

    def read_body(self) -> bytes:
        """Return what was sent along."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send_body(self, status: int, body: bytes, **headers: str) -> None:
        """Answer.

        Args:
            status: HTTP status.
            body: What is sent back.
            **headers: Others than its length; ``_`` stands for ``-``.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
