"""The process of an agent: its settings and parts. Port 8000 answers fronts, 8081 the cluster."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api.protocol.serving import OUTLIVES_SECONDS
from finetune_api.protocol.trainer import Environment
from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.serve.agent.asking import AboutEngine
from finetune_trainer.serve.agent.base import Base, EngineBase, NoBase
from finetune_trainer.serve.agent.decisions import Decisions, open_storage
from finetune_trainer.serve.agent.engine import Engine
from finetune_trainer.serve.agent.fetching import fetch_version
from finetune_trainer.serve.agent.gate import Gate
from finetune_trainer.serve.agent.keeper import Keeper
from finetune_trainer.serve.agent.report import Reporter
from finetune_trainer.serve.agent.wanted import Finder
from finetune_trainer.serve.process import ProcessSettings, ServingProcess, add_options, run_process
from finetune_trainer.serve.proxy import make_session


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of an agent.

    Attributes:
        server: Own name, as the status of endpoints has it.
        about_engine: The operator's description of the engine.
        scratch_bytes: Room for the files of a version; None if nobody has told.
        unload_seconds: An adapter that nobody serves stays loaded for so long.
    """

    process: ProcessSettings
    namespace: str
    server: str
    about_engine: AboutEngine
    engine_url: str
    adapters_dir: Path
    credentials_dir: Path | None
    scratch_bytes: int | None
    unload_seconds: float = OUTLIVES_SECONDS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_options(parser, port=8000, purpose="for fronts")


def read_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        ValueError: A variable is missing or not valid.
    """
    for name in ("FINETUNE_NAMESPACE", "FINETUNE_SERVER", "FINETUNE_ADAPTERS_DIR"):
        if not environment.get(name):
            raise ValueError(f"{name} is not set: the agent needs it")
    credentials = environment.get(Environment.CREDENTIALS_DIR)
    return Settings(
        process=ProcessSettings.read(
            arguments, environment, linger_seconds=5.0, grace_seconds=120.0
        ),
        namespace=environment["FINETUNE_NAMESPACE"],
        server=environment["FINETUNE_SERVER"],
        about_engine=AboutEngine.from_environment(environment),
        engine_url=environment.get("FINETUNE_ENGINE_URL") or "http://127.0.0.1:8001",
        adapters_dir=Path(environment["FINETUNE_ADAPTERS_DIR"]),
        credentials_dir=Path(credentials) if credentials else None,
        scratch_bytes=int(environment.get(Environment.SCRATCH_BYTES) or 0) or None,
    )


def make_base(settings: Settings) -> Base:
    """Return the base model that the environment describes."""
    given = settings.process.environment
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


class Process(ServingProcess):
    """An agent process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.process)
        self._settings = settings
        self.keeper: Keeper | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain."""
        settings = self._settings
        finder = Finder(namespace=settings.namespace, server=settings.server)
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
            decisions = Decisions(
                namespace=settings.namespace,
                server=settings.server,
                opens=open_storage(settings.credentials_dir),
            )
            reporter = Reporter(
                boot_id=uuid.uuid4().hex,
                server=settings.server,
                engine=engine,
                keeper=keeper,
                decisions=decisions,
            )

            def follow(endpoints: Mapping[str, Mapping[str, Any]]) -> None:
                keeper.want(finder.find(endpoints))
                decisions.follow(endpoints)

            gate = Gate(
                session,
                keeper,
                engine_url=settings.engine_url,
                tokens=lambda: self.tokens,
                count=reporter.count,
            )
            try:
                await self.serve(gate.handle, reporter, follow, stop, keeper.watch_engine)
            finally:
                await gate.close()
                await decisions.close()
                await keeper.close()


def run(arguments: argparse.Namespace) -> int:
    """Run an agent until SIGTERM; return the exit code."""
    return run_process(lambda: Process(read_settings(arguments, os.environ)).run)
