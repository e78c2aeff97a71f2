"""The HTTP listeners of one replica."""

from __future__ import annotations

import ssl

from aiohttp import web

from finetune_operator.progress.door import LimitedRunner


class Listeners:
    """Listens on one address.

    Attributes:
        ports: By name, of what listens.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._runners: list[web.AppRunner] = []
        self.ports: dict[str, int] = {}

    async def listen(self, name: str, app: web.Application, port: int) -> None:
        """Answer requests of the cluster's own parts."""
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._start(name, runner, port)

    async def listen_to_anybody(
        self, name: str, app: web.Application, port: int, tls: ssl.SSLContext | None
    ) -> None:
        """Answer requests of tenants' pods, with limits."""
        await self._start(name, LimitedRunner(app), port, tls)

    async def close(self) -> None:
        """Stop listening, and end what is answered."""
        for runner in self._runners:
            await runner.cleanup()

    async def _start(
        self, name: str, runner: web.AppRunner, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, self._address, port, ssl_context=tls).start()
        self.ports[name] = runner.addresses[0][1]
