"""The few API calls the tool itself makes, over the standard library."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devcluster.errors import CommandError, StartError
from devcluster.process import ProcessRecord, is_alive, log_tail


class ApiClient:
    """HTTPS with a client certificate to one API server; one connection per call."""

    def __init__(self, url: str, *, authority: Path, certificate: Path, key: Path) -> None:
        parsed = urllib.parse.urlsplit(url)
        self._host, self._port = parsed.hostname or "127.0.0.1", parsed.port or 443
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(certificate, key)

    def send(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send one request; returns status and raw body, whatever the status is.

        Raises:
            OSError: the server cannot be reached.
        """
        connection = http.client.HTTPSConnection(
            self._host, self._port, context=self._context, timeout=30
        )
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Any:
        """Send one request and decode its JSON.

        Raises:
            CommandError: the server answered with an error.
        """
        status, raw = self.send(method, path, body, content_type=content_type)
        if status >= 400:
            message = raw.decode(errors="replace")[:500]
            raise CommandError(f"{method} {path}: the API server answered {status}: {message}")
        return json.loads(raw)

    def ready(self) -> bool:
        """Whether ``/readyz`` says ok."""
        try:
            return self.send("GET", "/readyz")[0] == 200
        except OSError:
            return False


def wait_until(
    what: str,
    predicate: Callable[[], bool],
    *,
    process: ProcessRecord | None = None,
    timeout_seconds: float = 300.0,
    poll_seconds: float = 0.05,
) -> None:
    """Poll `predicate` until it holds; an OSError of its own, such as no answer, is not yet.

    Raises:
        StartError: the time is up, or `process` ended meanwhile; with the end of its log.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        why = ""
        try:
            if predicate():
                return
        except OSError as error:
            why = f" ({error})"
        tail = "" if process is None else f". Last lines of {process.log}:\n{log_tail(process.log)}"
        if process is not None and not is_alive(process):
            raise StartError(f"{process.name} ended while waiting for {what}{tail}")
        if time.monotonic() > deadline:
            raise StartError(f"{what}: not after {timeout_seconds:.0f}s{why}{tail}")
        time.sleep(poll_seconds)
