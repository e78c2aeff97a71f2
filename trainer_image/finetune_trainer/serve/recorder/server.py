"""The process of a recorder. A Unix socket answers the front beside it, port 8082 the cluster."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry, generate_latest

from finetune_api.protocol.trainer import Environment
from finetune_trainer.serve.desired import Endpoint
from finetune_trainer.serve.handover import SOCKET
from finetune_trainer.serve.listening import ProxyServer
from finetune_trainer.serve.process import ProcessSettings, ServingProcess, run_process
from finetune_trainer.serve.recorder.metrics import Metrics
from finetune_trainer.serve.recorder.people import Keyring
from finetune_trainer.serve.recorder.places import read_places
from finetune_trainer.serve.recorder.retention import Keeper
from finetune_trainer.serve.recorder.routes import Recorder
from finetune_trainer.serve.recorder.spool import Spool

logger = logging.getLogger(__name__)

LAST_SECONDS = 20.0
"""At the end, what is not in object storage yet is tried for so long."""
NICENESS = 10
"""Nobody waits for the recorder, and the front may run on the same cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a recorder.

    Attributes:
        socket: Where the front finds it.
        spool_dir: Holds rows that are not in object storage yet; outlives the process.
    """

    process: ProcessSettings
    socket: Path
    spool_dir: Path
    credentials_dir: Path | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104
    parser.add_argument("--report-port", type=int, default=8082, help="for the cluster")
    parser.set_defaults(port=0)


def read_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        ValueError: A variable is missing or not valid.
    """
    socket, spool = environment.get(SOCKET), environment.get("FINETUNE_SPOOL_DIR")
    if not socket or not spool:
        missing = "FINETUNE_SPOOL_DIR" if socket else SOCKET
        raise ValueError(f"{missing} is not set: the recorder needs it")
    credentials = environment.get(Environment.CREDENTIALS_DIR)
    return Settings(
        process=ProcessSettings.read(
            arguments, environment, linger_seconds=0.0, grace_seconds=60.0
        ),
        socket=Path(socket),
        spool_dir=Path(spool),
        credentials_dir=Path(credentials) if credentials else None,
    )


class Process(ServingProcess):
    """A recorder process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.process)
        self._settings = settings
        self._metrics = Metrics(CollectorRegistry())
        self.keeper = Keeper(
            Spool(settings.spool_dir),
            Keyring(settings.spool_dir, lambda: self.token),
            self._metrics,
            settings.credentials_dir,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then store what is here."""
        self.keeper.spool.load()
        self.keeper.people.load()
        recorder = Recorder(self.keeper, self._metrics)
        try:
            await self.serve(
                recorder.handle,
                self,
                self.follow,
                stop,
                self.keeper.keep_storing,
                self.keeper.keep_sweeping,
                self.keeper.keep_counting,
            )
        finally:
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self.keeper.store_all()
            except TimeoutError:
                logger.warning("%d bytes are not stored yet", self.keeper.spool.num_bytes)

    async def listen(self, public: ProxyServer) -> None:
        """Listen for the front."""
        await public.start_unix(self._settings.socket)

    def follow(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Take over the endpoints as they are now."""
        self.keeper.follow(read_places(endpoints))

    is_engine_hung = False

    @property
    def is_ready(self) -> bool:
        """Whether the endpoints are known."""
        return self.keeper.is_known

    def report(self) -> bytes:
        """Return what waits for object storage."""
        return orjson.dumps({"kind": "Recorder", "spoolBytes": self.keeper.spool.num_bytes})

    async def read_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return await asyncio.to_thread(generate_latest, self._metrics.registry)


def run(arguments: argparse.Namespace) -> int:
    """Run a recorder until SIGTERM; return the exit code."""
    os.nice(NICENESS)
    return run_process(lambda: Process(read_settings(arguments, os.environ)).run)
