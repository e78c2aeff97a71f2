"""The process: settings, the two ports, and the end. Port 8080 answers users, 8081 the cluster."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from finetune_trainer.serve.desired import source_of
from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.front.answering import Front
from finetune_trainer.serve.front.keys import Keys
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.shadow import Shadow
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.logs import silence_libraries
from finetune_trainer.serve.proxy import ProxyServer, log_defect, make_session

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks at the files of keys and token."""
END_SECONDS = 2.0
"""Left of the grace period for the end itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a front process.

    Attributes:
        server_url: URL of a server, with ``{server}`` for its name.
        token_file: Holds the token that the servers ask for.
        keys_dir: Holds a folder of keys for each Secret.
        linger_seconds: After SIGTERM, requests are still accepted for so long.
        grace_seconds: From SIGTERM to SIGKILL.
        num_fronts: Processes that share the traffic.
    """

    environment: Mapping[str, str]
    host: str
    port: int
    report_port: int
    server_url: str
    token_file: Path | None
    keys_dir: Path
    linger_seconds: float
    grace_seconds: float
    num_fronts: int


def read_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        ValueError: A variable has no valid value.
    """
    server_url = environment.get("FINETUNE_SERVER_URL") or "http://{server}:8000"
    if not server_url.startswith(("http://", "https://")):
        raise ValueError(f"FINETUNE_SERVER_URL is {server_url!r}: give a URL with {{server}} in it")
    token = environment.get("FINETUNE_TOKEN_FILE")
    return Settings(
        environment=environment,
        host=arguments.host,
        port=arguments.port,
        report_port=arguments.report_port,
        server_url=server_url,
        token_file=Path(token) if token else None,
        keys_dir=Path(environment.get("FINETUNE_KEYS_DIR") or "/var/run/finetune/keys"),
        linger_seconds=_seconds(environment, "FINETUNE_LINGER_SECONDS", 5.0),
        grace_seconds=_seconds(environment, "FINETUNE_GRACE_SECONDS", 60.0),
        num_fronts=_fronts(environment.get("FINETUNE_FRONTS") or "1"),
    )


def _fronts(given: str) -> int:
    if not given.isdecimal() or not int(given):
        raise ValueError(f"FINETUNE_FRONTS is {given!r}: give the number of front processes")
    return int(given)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    given = environment.get(name)
    try:
        return float(given) if given else default
    except ValueError:
        raise ValueError(f"{name} is {given!r}: give seconds, such as {default:g}") from None


class Process:
    """A front process, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics(CollectorRegistry())
        self.state = State(self._metrics, server_url=settings.server_url)
        self._keys = Keys(settings.keys_dir)
        self._token = ""
        self._public: ProxyServer | None = None
        self.port = 0
        self.report_port = 0

    async def run(self, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Serve until ``stop`` is set, then drain. ``ready`` is set once both ports listen."""
        settings = self._settings
        source = source_of(settings.environment)
        async with make_session() as session, make_session() as copies:
            shadow = Shadow(copies, self._metrics)
            front = Front(
                session=session,
                state=self.state,
                keys=self._keys,
                metrics=self._metrics,
                shadow=shadow,
                token=lambda: self._token,
                num_fronts=settings.num_fronts,
            )
            self._public = ProxyServer(front.handle)
            private = ProxyServer(self._answer_cluster)
            await self.look()
            self.port = await self._public.start(settings.host, settings.port)
            self.report_port = await private.start(settings.host, settings.report_port)
            logger.info("listening on ports %d and %d", self.port, self.report_port)
            followers = [
                asyncio.create_task(source.follow(self.state.follow)),
                asyncio.create_task(self._keep_looking()),
            ]
            if ready is not None:
                ready.set()
            ended = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, *followers], return_when=asyncio.FIRST_COMPLETED)
            left = settings.grace_seconds - settings.linger_seconds - END_SECONDS
            await self._public.stop(
                linger_seconds=settings.linger_seconds, grace_seconds=max(0.0, left)
            )
            await shadow.close()
            await private.stop(linger_seconds=0, grace_seconds=0)
            for task in (ended, *followers):
                task.cancel()
            for result in await asyncio.gather(ended, *followers, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception as error:  # the next look may work
                log_defect(error)

    async def look(self) -> None:
        """Read keys and token again if they have changed."""
        secrets = {route.secret for route in self.state.routes.values() if route.secret}
        await asyncio.to_thread(self._keys.refresh, secrets)
        if self._settings.token_file is not None:
            with contextlib.suppress(OSError):
                self._token = self._settings.token_file.read_text("utf-8").strip()

    async def _answer_cluster(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/report":
            return json_response(self.state.report())
        if path == "/metrics":
            body = await asyncio.to_thread(generate_latest, self._metrics.registry)
            return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})
        if path == "/healthz":
            return json_response({"status": "ok"})
        if path == "/readyz":
            is_draining = self._public is not None and self._public.is_draining
            is_ready = self.state.is_known and not is_draining
            return json_response({"ready": is_ready}, status=200 if is_ready else 503)
        raise Refused(404, "unknown_url", "No such URL.")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104
    parser.add_argument("--port", type=int, default=8080, help="for users (0: any free one)")
    parser.add_argument("--report-port", type=int, default=8081, help="for the cluster")


def run(arguments: argparse.Namespace) -> int:
    """Run a front until SIGTERM; return the exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    silence_libraries()
    try:
        settings = read_settings(arguments, os.environ)
        asyncio.run(_run(settings))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 64
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Modules live as long as the process: a collection need not look at them.
    gc.collect()
    gc.freeze()
    await Process(settings).run(stop)
