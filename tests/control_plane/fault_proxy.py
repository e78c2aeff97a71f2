"""A proxy in front of the API server that answers some requests itself."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import web

from finetune_operator.kube.api.connection import Connection

Fault = int | Literal["reset", "lost answer"]
"""An HTTP status, a connection that breaks before, or after, the server took the request."""

_HOP_HEADERS = {"Host", "Content-Length", "Transfer-Encoding", "Connection"}
_REASONS = {
    403: "Forbidden",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass
class FaultProxy:
    """Speaks plain HTTP to the operator, and as administrator to the API server."""

    connection: Connection
    decide: Callable[[web.Request], Fault | None] = lambda request: None
    url: str = ""
    faults: Counter = field(default_factory=Counter)
    _watches: set = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self):
        self._session = self.connection.open_session(max_connections=0, user_agent="fault-proxy")
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.cut_watches()
            await runner.cleanup()
            await self._session.close()

    def cut_watches(self) -> None:
        for transport in list(self._watches):
            transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.decide(request)
        if fault is not None:
            self.faults[fault] += 1
        if fault == "reset":
            return self._break(request)
        if isinstance(fault, int) and request.query.get("watch") and fault == 410:
            return await _expired_watch(request)
        if isinstance(fault, int):
            return _refusal(fault)
        headers = {k: v for k, v in request.headers.items() if k not in _HOP_HEADERS}
        async with self._session.request(
            request.method,
            self.connection.server + request.raw_path,
            data=await request.read() or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            if fault == "lost answer":
                await answer.read()
                return self._break(request)
            response = web.StreamResponse(status=answer.status)
            for name in ("Content-Type", "Retry-After"):
                if name in answer.headers:
                    response.headers[name] = answer.headers[name]
            await response.prepare(request)
            is_watch = request.query.get("watch") in ("1", "true")
            if is_watch:
                self._watches.add(request.transport)
            try:
                if is_watch:
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                else:  # of a list the session has read the page already
                    await response.write(await answer.read())
                await response.write_eof()
            except (ConnectionError, aiohttp.ClientError):
                pass
            finally:
                self._watches.discard(request.transport)
            return response

    @staticmethod
    def _break(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)


async def _expired_watch(request: web.Request) -> web.StreamResponse:
    """Answer as the API server does: 200, and the error as the only event of the stream."""
    response = web.StreamResponse()
    response.headers["Content-Type"] = "application/json"
    await response.prepare(request)
    event = {"type": "ERROR", "object": _status(410)}
    await response.write(json.dumps(event).encode() + b"\n")
    await response.write_eof()
    return response


def _refusal(code: int) -> web.Response:
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(_status(code), status=code, headers=headers)


def _status(code: int) -> dict:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": _REASONS.get(code, ""),
        "message": "injected by the test",
        "code": code,
    }
