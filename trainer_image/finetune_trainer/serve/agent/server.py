"""The process: settings, two ports, and the end. Port 8000 answers fronts, 8081 the cluster."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from finetune_api.protocol.trainer import Environment
from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.serve.agent.asking import AboutEngine
from finetune_trainer.serve.agent.base import EngineBase, NoBase
from finetune_trainer.serve.agent.engine import Engine
from finetune_trainer.serve.agent.fetching import fetch_version
from finetune_trainer.serve.agent.gate import Gate
from finetune_trainer.serve.agent.keeper import Base, Keeper
from finetune_trainer.serve.agent.report import Reporter
from finetune_trainer.serve.agent.wanted import Finder
from finetune_trainer.serve.desired import Endpoint, source_of
from finetune_trainer.serve.logs import silence_libraries
from finetune_trainer.serve.proxy import ProxyServer, make_session

TOKEN_SECONDS = 1.0
"""Time between two looks at the token's file."""
END_SECONDS = 2.0
"""Left of the grace period for the end itself."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of an agent.

    Attributes:
        environment: Where endpoints come from.
        server: Own name, as the status of endpoints has it.
        about_engine: What the operator tells of the engine.
        token_file: Holds the token of fronts; None lets nobody in.
        grace_seconds: From SIGTERM to SIGKILL.
        scratch_bytes: Room for the files of a version; None if nobody has told.
        unload_seconds: An adapter that nobody serves stays loaded for so long.
    """

    environment: Mapping[str, str]
    namespace: str
    server: str
    about_engine: AboutEngine
    engine_url: str
    token_file: Path | None
    adapters_dir: Path
    credentials_dir: Path | None
    scratch_bytes: int | None
    host: str
    port: int
    report_port: int
    grace_seconds: float = 120.0
    unload_seconds: float = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options. All other settings come from the environment."""
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - the pod's listener
    parser.add_argument("--port", type=int, default=8000, help="for fronts")
    parser.add_argument("--report-port", type=int, default=8081, help="for the cluster")


def read_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        ValueError: A variable is missing or not valid.
    """
    for name in ("FINETUNE_NAMESPACE", "FINETUNE_SERVER", "FINETUNE_ADAPTERS_DIR"):
        if not environment.get(name):
            raise ValueError(f"{name} is not set: the agent needs it")
    credentials = environment.get(Environment.CREDENTIALS_DIR)
    token = environment.get("FINETUNE_TOKEN_FILE")
    return Settings(
        environment=environment,
        namespace=environment["FINETUNE_NAMESPACE"],
        server=environment["FINETUNE_SERVER"],
        about_engine=AboutEngine.from_environment(environment),
        engine_url=environment.get("FINETUNE_ENGINE_URL") or "http://127.0.0.1:8001",
        token_file=Path(token) if token else None,
        adapters_dir=Path(environment["FINETUNE_ADAPTERS_DIR"]),
        credentials_dir=Path(credentials) if credentials else None,
        scratch_bytes=int(environment.get("FINETUNE_SCRATCH_BYTES") or 0) or None,
        host=arguments.host,
        port=arguments.port,
        report_port=arguments.report_port,
        grace_seconds=float(environment.get(Environment.GRACE_SECONDS) or 120.0),
    )


def make_base(settings: Settings) -> Base:
    """Return the base model that the environment describes."""
    given = settings.environment
    folder = given.get(Environment.ENGINE_DIR)
    if not folder:
        return NoBase()
    manifest = given.get("FINETUNE_MANIFEST_URI", "")
    whole = ""
    if manifest:
        *_, job, number, _ = manifest.split("/")
        whole = f"{settings.namespace}.{job}-v{number}"
    return EngineBase(
        uri=given.get("FINETUNE_BASE_MODEL", ""),
        storage=ServedStorage.model_validate(json.loads(given["FINETUNE_STORAGE"]), by_alias=True),
        model_secret=given.get("FINETUNE_MODEL_SECRET", ""),
        credentials_dir=settings.credentials_dir,
        cache_dir=Path(given.get(Environment.CACHE_DIR) or settings.adapters_dir / ".cache"),
        folder=Path(folder),
        engine_name=settings.about_engine.name,
        whole=whole,
        allow_code=bool(given.get("FINETUNE_ALLOW_REMOTE_CODE")),
    )


class Process:
    """An agent process, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._finder = Finder(namespace=settings.namespace, server=settings.server)
        self._token = ""
        self.port = 0
        self.report_port = 0
        self.keeper: Keeper | None = None

    async def run(self, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Serve until ``stop`` is set, then drain. ``ready`` is set once both ports listen."""
        settings = self._settings
        source = source_of(settings.environment)
        async with make_session() as session, aiohttp.ClientSession() as calls:
            engine = Engine(calls, settings.engine_url)
            keeper = self.keeper = Keeper(
                engine,
                fetch=partial(
                    fetch_version,
                    credentials_dir=settings.credentials_dir,
                    scratch_bytes=settings.scratch_bytes,
                ),
                base=make_base(settings),
                folder=settings.adapters_dir,
                about=settings.about_engine,
                grace_seconds=settings.unload_seconds,
            )
            reporter = Reporter(
                boot_id=uuid.uuid4().hex, server=settings.server, engine=engine, keeper=keeper
            )
            looks: set[asyncio.Task[None]] = set()

            def suspect() -> None:
                if not looks:
                    task = asyncio.create_task(keeper.look())
                    looks.add(task)
                    task.add_done_callback(looks.discard)

            gate = Gate(
                session,
                keeper,
                engine_url=settings.engine_url,
                token=lambda: self._token,
                count=reporter.count,
                suspect=suspect,
            )
            public, private = ProxyServer(gate.handle), ProxyServer(reporter.handle)
            self._read_token()
            self.port = await public.start(settings.host, settings.port)
            self.report_port = await private.start(settings.host, settings.report_port)
            log.info("listening on ports %d and %d", self.port, self.report_port)
            followers = [
                asyncio.create_task(source.follow(self._follow)),
                asyncio.create_task(keeper.watch_engine()),
                asyncio.create_task(self._watch_token()),
            ]
            if ready is not None:
                ready.set()
            ended = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, *followers], return_when=asyncio.FIRST_COMPLETED)
            left = max(0.0, settings.grace_seconds - END_SECONDS)
            await public.stop(linger_seconds=0, grace_seconds=left)
            await private.stop(linger_seconds=0, grace_seconds=0)
            for task in (ended, *followers, *looks):
                task.cancel()
            results = await asyncio.gather(ended, *followers, *looks, return_exceptions=True)
            await keeper.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    def _follow(self, endpoints: Mapping[str, Endpoint]) -> None:
        assert self.keeper is not None
        self.keeper.want(self._finder.find(endpoints))

    async def _watch_token(self) -> None:
        while True:
            await asyncio.sleep(TOKEN_SECONDS)
            self._read_token()

    def _read_token(self) -> None:
        """Read the token; a file that cannot be read keeps the last one."""
        if self._settings.token_file is None:
            return
        try:
            self._token = self._settings.token_file.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            log.warning("Cannot read the token: %s", type(error).__name__)


def run(arguments: argparse.Namespace) -> int:
    """Run an agent until SIGTERM; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    silence_libraries()
    try:
        settings = read_settings(arguments, os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 64
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Process(settings).run(stop)
