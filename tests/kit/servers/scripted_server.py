"""A loopback HTTP server whose answers a test writes line by line.

It is for what a real API server does only when it is ill: cut streams, 429, 5xx, silence. It keeps
no state and knows no Kubernetes; a test that wants behaviour uses a real API server.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedServer:
    """Answers from per-kind scripts; the last answer of a script is repeated."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    lists: deque[Answer] = field(default_factory=deque)
    watches: deque[Answer] = field(default_factory=deque)
    others: deque[Answer] = field(default_factory=deque)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request from its script."""
        raw = await request.read()
        self.seen.append(
            Seen(
                method=request.method,
                path=request.path,
                query=dict(request.query),
                headers=dict(request.headers),
                body=json.loads(raw) if raw else None,
            )
        )
        script = self.others
        if request.method == "GET" and "watch" in request.query:
            script = self.watches
        elif request.method == "GET" and "limit" in request.query:
            script = self.lists
        assert script, f"nothing scripted for {request.method} {request.path_qs}"
        answer = script.popleft() if len(script) > 1 else script[0]
        return await answer(request)

    def requests(self, method: str, **query: str) -> list[Seen]:
        """Return the requests with this method and these query parameters."""
        return [
            seen
            for seen in self.seen
            if seen.method == method and all(seen.query.get(k) == v for k, v in query.items())
        ]


@asynccontextmanager
async def scripted_server(ssl_context: ssl.SSLContext | None = None):
    """Run a scripted server on a free loopback port, with TLS if so asked."""
    server = ScriptedServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def reply(body: Any, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON."""

    async def answer(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return answer


def reply_status(code: int, reason: str, message: str = "told so", **headers: str) -> Answer:
    """Answer with a ``metav1.Status``."""
    return reply(status(code, reason, message), code, **headers)


def forbidden_in(*namespaces: str, otherwise: Answer) -> Answer:
    """Answer lists of these namespaces with 403."""
    forbidden = reply_status(403, "Forbidden")

    async def answer(request: web.Request) -> web.StreamResponse:
        is_forbidden = request.path.split("/")[4] in namespaces
        return await (forbidden if is_forbidden else otherwise)(request)

    return answer


def status(code: int, reason: str, message: str = "told so") -> dict[str, Any]:
    """Build a ``metav1.Status``."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def reply_list(*items: dict[str, Any], version: str, token: str = "") -> Answer:
    """Answer with a list, or a page of one."""
    metadata = {"resourceVersion": version} | ({"continue": token} if token else {})
    return reply({"kind": "List", "metadata": metadata, "items": list(items)})


def stream(*events: tuple[str, dict[str, Any]], then: str = "end") -> Answer:
    """Answer a watch with events; then ``end``, ``hold`` (silence) or ``cut`` the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for kind, obj in events:
            await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        if then == "hold":
            await asyncio.Event().wait()  # until the client goes away
        elif then == "cut":
            # Half an event and a reset: what a dying load balancer leaves behind.
            await response.write(b'{"type": "ADDED", "obj')
            request.transport.abort()
        return response

    return answer


def hang_up() -> Answer:
    """Close the connection without an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    return answer
