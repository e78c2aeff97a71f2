"""The process of a front: its settings and parts. Port 8080 answers users, 8081 the cluster."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry, generate_latest

from finetune_trainer.serve.desired import Endpoint
from finetune_trainer.serve.front.answering import Front
from finetune_trainer.serve.front.capturing import Capturing
from finetune_trainer.serve.front.keys import Keys
from finetune_trainer.serve.front.ledger import Ledger
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.handover import SOCKET
from finetune_trainer.serve.process import (
    ProcessSettings,
    ServingProcess,
    add_options,
    run_process,
)
from finetune_trainer.serve.proxy import make_session

ACCESS_LOG = "FINETUNE_ACCESS_LOG"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a front process.

    Attributes:
        server_url: URL of a server, with ``{server}`` for its name.
        keys_dir: Holds a folder of keys for each Secret.
        recorder: Unix socket of the recorder; None captures nothing.
        logs_access: Whether each request gets a line in the log.
    """

    process: ProcessSettings
    server_url: str
    keys_dir: Path
    recorder: str | None = None
    logs_access: bool = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_options(parser, port=8080, purpose="for users")


def read_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        ValueError: A variable has no valid value.
    """
    server_url = environment.get("FINETUNE_SERVER_URL") or "http://{server}:8000"
    if not server_url.startswith(("http://", "https://")):
        raise ValueError(f"FINETUNE_SERVER_URL is {server_url!r}: give a URL with {{server}} in it")
    access_log = environment.get(ACCESS_LOG) or "on"
    if access_log not in ("on", "off"):
        raise ValueError(f"{ACCESS_LOG} is {access_log!r}: set it to on or off")
    return Settings(
        process=ProcessSettings.read(
            arguments, environment, linger_seconds=5.0, grace_seconds=60.0
        ),
        server_url=server_url,
        keys_dir=Path(environment.get("FINETUNE_KEYS_DIR") or "/var/run/finetune/keys"),
        recorder=environment.get(SOCKET) or None,
        logs_access=access_log == "on",
    )


class Process(ServingProcess):
    """A front process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.process)
        self._settings = settings
        self._metrics = Metrics(CollectorRegistry())
        self._keys = Keys(settings.keys_dir, self._metrics.show_unread)
        self.state = State(
            self._metrics, server_url=settings.server_url, count_keys=self._keys.count_of
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain."""
        async with make_session() as session:
            capturing = Capturing(self._settings.recorder, self._metrics)
            front = Front(
                session=session,
                state=self.state,
                keys=self._keys,
                metrics=self._metrics,
                capturing=capturing,
                ledger=Ledger(self._metrics, logs=self._settings.logs_access),
                token=lambda: self.token,
            )
            try:
                await self.serve(
                    front.handle,
                    self,
                    self.follow,
                    stop,
                    capturing.keep_sending,
                    partial(capturing.keep_counting, self._show_counts),
                )
            finally:
                await capturing.close()

    def _show_counts(self, counts: dict[str, object]) -> None:
        self.state.captured = counts

    def follow(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Take over the endpoints as they are now, and the keys of Secrets that are new."""
        self.state.follow(endpoints)
        # At once: a request with a key that is not read yet would be refused.
        if not self._keys.has_read(self._secrets()):
            self._keys.refresh(self._secrets)

    def _secrets(self) -> set[str]:
        routes = self.state.routes.values()
        editors = (route.capture.editors for route in routes if route.capture is not None)
        return {secret for secret in (*editors, *(each.secret for each in routes)) if secret}

    async def look(self) -> None:
        """Read keys and token again if they have changed."""
        await asyncio.to_thread(self._keys.refresh, self._secrets)
        await super().look()

    is_engine_hung = False

    @property
    def is_ready(self) -> bool:
        """Whether the endpoints are known."""
        return self.state.is_known

    def report(self) -> bytes:
        """Return the JSON that the operator polls."""
        return orjson.dumps(self.state.report())

    async def read_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return await asyncio.to_thread(generate_latest, self._metrics.registry)


def run(arguments: argparse.Namespace) -> int:
    """Run a front until SIGTERM; return the exit code."""
    return run_process(lambda: Process(read_settings(arguments, os.environ)).run)
