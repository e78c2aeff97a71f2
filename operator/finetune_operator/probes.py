"""``/healthz``, ``/readyz`` and ``/metrics`` of one replica."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def probes_application(
    *, is_healthy: Callable[[], bool], hindrance: Callable[[], str], state: Callable[[], str]
) -> web.Application:
    """Return what answers the kubelet's probes.

    Args:
        is_healthy: Whether every background task still runs.
        hindrance: Why the replica is not ready; empty if it is.
        state: What a ready replica does.
    """

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok") if is_healthy() else _unwell("a task has ended")

    async def readyz(request: web.Request) -> web.Response:
        why = hindrance()
        return _unwell(why) if why else web.Response(text=state())

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


def metrics_application(registry: CollectorRegistry) -> web.Application:
    """Return what answers scrapes."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": METRICS_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    return app


def _unwell(why: str) -> web.Response:
    return web.Response(status=503, text=why)
