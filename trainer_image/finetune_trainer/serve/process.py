"""What fronts and agents have in common: settings, two ports, a token, and the end."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from finetune_api.protocol.trainer import Environment, ExitCode
from finetune_trainer.serve.desired import OnChange, source_of
from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.listening import Handler, ProxyServer
from finetune_trainer.serve.logs import log_defect, start_logging

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks at files of secrets."""
END_SECONDS = 2.0
"""Left of the grace period for the end itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSettings:
    """Settings that fronts and agents share.

    Attributes:
        environment: Where endpoints come from.
        token_file: Holds the token that agents ask fronts for; None opens no agent.
        linger_seconds: After SIGTERM, connections are still accepted for so long; 0 where no
            Service sends any.
        grace_seconds: From SIGTERM to SIGKILL.
    """

    environment: Mapping[str, str]
    host: str
    port: int
    report_port: int
    token_file: Path | None
    linger_seconds: float
    grace_seconds: float

    @classmethod
    def read(
        cls,
        arguments: argparse.Namespace,
        environment: Mapping[str, str],
        *,
        linger_seconds: float,
        grace_seconds: float,
    ) -> ProcessSettings:
        """Return the settings. The seconds are for an environment that says nothing.

        Raises:
            ValueError: A variable has no valid value.
        """
        token = environment.get("FINETUNE_TOKEN_FILE")
        return cls(
            environment=environment,
            host=arguments.host,
            port=arguments.port,
            report_port=arguments.report_port,
            token_file=Path(token) if token else None,
            linger_seconds=_seconds(environment, "FINETUNE_LINGER_SECONDS", linger_seconds),
            grace_seconds=_seconds(environment, Environment.GRACE_SECONDS, grace_seconds),
        )


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    given = environment.get(name)
    try:
        return float(given) if given else default
    except ValueError:
        raise ValueError(f"{name} is {given!r}: give seconds, such as {default:g}") from None


def add_options(parser: argparse.ArgumentParser, *, port: int, purpose: str) -> None:
    """Add the options. All other settings come from the environment."""
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104
    parser.add_argument("--port", type=int, default=port, help=f"{purpose} (0: any free one)")
    parser.add_argument("--report-port", type=int, default=8081, help="for the cluster")


class ClusterAnswers(Protocol):
    """What a process answers at its port for the cluster."""

    @property
    def is_ready(self) -> bool:
        """Whether requests may come."""

    @property
    def is_engine_hung(self) -> bool:
        """Whether an engine beside it takes requests and answers none."""

    def report(self) -> bytes:
        """Return the JSON that the operator polls."""

    async def read_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""


class ServingProcess:
    """A process from its start to its end: one port for requests, one for the cluster.

    Attributes:
        listening: Set once both ports listen.
        port: For requests.
        report_port: For the cluster.
        tokens: What agents take from fronts; empty until they were read. More than one while the
            token is replaced.
    """

    def __init__(self, settings: ProcessSettings) -> None:
        self._shared = settings
        self._source = source_of(settings.environment)
        self.tokens: tuple[str, ...] = ()
        self.listening = asyncio.Event()
        self.port = 0
        self.report_port = 0

    @property
    def token(self) -> str:
        """What fronts send: the first; empty without one."""
        return self.tokens[0] if self.tokens else ""

    async def listen(self, public: ProxyServer) -> None:
        """Listen for requests."""
        self.port = await public.start(self._shared.host, self._shared.port)

    async def look(self) -> None:
        """Read the tokens again, one in a line. A file that cannot be read keeps the last one."""
        file = self._shared.token_file
        if file is None:
            return
        try:
            self.tokens = tuple(file.read_text("utf-8").split())
        except (OSError, ValueError) as error:
            logger.warning("Cannot read the token: %s", type(error).__name__)

    async def serve(
        self,
        answer: Handler,
        cluster: ClusterAnswers,
        follow: OnChange,
        stop: asyncio.Event,
        *watchers: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Serve until ``stop`` is set or a watcher fails, then drain; raise what a watcher raised.

        Each change of the endpoints calls ``follow``.
        """
        settings = self._shared
        public = ProxyServer(answer)
        private = ProxyServer(lambda request: _answer_cluster(request, cluster, public))
        await self.look()
        await self.listen(public)
        self.report_port = await private.start(settings.host, settings.report_port)
        logger.info("listening on ports %d and %d", self.port, self.report_port)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._source.follow(follow)),
            *(asyncio.create_task(watch()) for watch in (self._keep_looking, *watchers)),
        ]
        self.listening.set()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        left = settings.grace_seconds - settings.linger_seconds - END_SECONDS
        await public.stop(linger_seconds=settings.linger_seconds, grace_seconds=max(0.0, left))
        await private.stop(linger_seconds=0, grace_seconds=0)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception as error:  # the next look may work
                log_defect(error)


async def _answer_cluster(
    request: web.BaseRequest, cluster: ClusterAnswers, public: ProxyServer
) -> web.StreamResponse:
    match (request.method, request.path):
        case ("GET", "/healthz"):
            return json_response({"status": "ok"})
        case ("GET", "/readyz"):
            is_ready = cluster.is_ready and not public.is_draining
            return json_response({"ready": is_ready}, status=200 if is_ready else 503)
        case ("GET", "/enginez"):
            is_hung = cluster.is_engine_hung
            return json_response({"hung": is_hung}, status=503 if is_hung else 200)
        case ("GET", "/report"):
            return web.Response(body=cluster.report(), content_type="application/json")
        case ("GET", "/metrics"):
            kind = {"Content-Type": "text/plain; version=0.0.4"}
            return web.Response(body=await cluster.read_metrics(), headers=kind)
    raise Refused(404, "unknown_url", "No such URL.")


def run_process(make: Callable[[], Callable[[asyncio.Event], Awaitable[None]]]) -> int:
    """Run a process until SIGTERM or SIGINT; return its exit code.

    ``make`` returns what serves until an event is set, or raises ``ValueError`` for settings that
    are not valid.
    """
    start_logging()
    try:
        serve = make()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    asyncio.run(_run(serve))
    return ExitCode.OK


async def _run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Modules live as long as the process: a collection need not look at them.
    gc.collect()
    gc.freeze()
    await serve(stop)
