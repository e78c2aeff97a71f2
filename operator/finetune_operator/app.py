"""The kopf host: the only file that imports kopf.

kopf watches FineTuneJobs and tells of every event; it reconciles nothing. Handlers of the create,
update and delete kind, daemons, timers and indexes are not used: they write to the user's object,
are edge-triggered, and cost more than linearly. Two replicas run; a Lease decides who works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from finetune_api.meta import GROUP, PLURAL, VERSION
from finetune_operator.config import ConfigError, OperatorConfig
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection, load_connection
from finetune_operator.kube.api.errors import KubeError, NotFound
from finetune_operator.kube.api.transport import RequestRecorder, Transport
from finetune_operator.kube.cache.scopes import require_readable
from finetune_operator.kube.clock import ServerClock, SystemClock
from finetune_operator.manager import Manager

logger = logging.getLogger(__name__)

USER_AGENT = "finetune-operator"
CRD_RETRY_SECONDS = 2.0


class EndlessBackoff:
    """Seconds between retries of kopf's own list and watch, for ever.

    A list would have an end, after which kopf gives up and ends the process; kopf iterates this
    anew for every request.
    """

    def __iter__(self) -> Iterator[float]:
        """Yield 1, 2, 5, 10 and then 30 for ever."""
        yield from (1.0, 2.0, 5.0, 10.0)
        while True:
            yield 30.0


class NoEssence(kopf.DiffBaseStorage):  # type: ignore[misc, unused-ignore]
    """Keeps no copy of the object's spec.

    kopf copies and compares every object deeply at every event, for handlers of a kind that is not
    registered here. Measured with jobs of 4 KiB: more than half of the operator's processor time.
    """

    def build(self, **_: Any) -> Any:
        """Return nothing to compare."""
        return {}

    def fetch(self, **_: Any) -> None:
        """Find nothing stored."""

    def store(self, **_: Any) -> None:
        """Store nothing."""


class NoProgress(kopf.ProgressStorage):  # type: ignore[misc, unused-ignore]
    """Keeps no progress of handlers: there are none that could be interrupted."""

    def fetch(self, **_: Any) -> None:
        """Find nothing stored."""

    def store(self, **_: Any) -> None:
        """Store nothing."""

    def purge(self, **_: Any) -> None:
        """Find nothing to remove."""

    def touch(self, **_: Any) -> None:
        """Write nothing."""

    def clear(self, *, essence: Any) -> Any:
        """Return the essence as it is; it is not copied."""
        return essence


def configure_kopf(settings: kopf.OperatorSettings) -> None:
    """Set kopf up as a host that neither writes nor gives up."""
    settings.peering.standalone = True  # a Lease of our own instead
    settings.scanning.disabled = True  # no rights on CRDs and namespaces needed
    settings.posting.enabled = False  # an aggregating recorder of our own instead
    settings.queueing.worker_limit = None  # it would cap the throughput, not the concurrency
    settings.queueing.idle_timeout = 0.5  # frees the task of each object early
    settings.queueing.exit_timeout = 1.0
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.watching.reconnect_backoff = 1.0
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = EndlessBackoff()
    settings.networking.enforce_retry_after = True
    settings.persistence.diffbase_storage = NoEssence()
    settings.persistence.progress_storage = NoProgress()
    settings.process.ultimate_exiting_timeout = 30


def build_registry(
    connection: Connection, observe: Callable[[str | None, dict[str, Any]], None]
) -> kopf.OperatorRegistry:
    """Register the two handlers there are: how to log in, and whom to tell."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator, unused-ignore]
    async def login(**_: Any) -> kopf.AiohttpSession:
        # kopf closes the session it was given, so it gets one of its own.
        session = connection.open_session(
            max_connections=0, user_agent=USER_AGENT, attach_credentials=True
        )
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=session)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)  # type: ignore[untyped-decorator, unused-ignore]
    async def on_event(event: Any, **_: Any) -> None:
        observe(event["type"], event["object"])

    return registry


async def serve(
    config: OperatorConfig,
    *,
    connection: Connection | None = None,
    stop: asyncio.Event | None = None,
    on_request: RequestRecorder | None = None,
    on_start: Callable[[Manager], None] | None = None,
    seed: int | None = None,
) -> None:
    """Run one replica until it is asked to stop.

    Args:
        config: The administrator's settings.
        connection: The API server; found as kubectl finds it by default.
        stop: Ends the replica gracefully; signals do too.
        on_request: Told of every API request, for the test of the RBAC rules.
        on_start: Given the manager once its endpoints listen.
        seed: Seed of all jitter.

    Raises:
        Exception: The replica cannot go on: a lost lease, an ended task, kopf's own end. The
            process should exit and be restarted; the standby takes over.
    """
    stop = stop or asyncio.Event()
    _handle_signals(stop)
    connection = connection or load_connection()
    clock = ServerClock(SystemClock())
    rng = random.Random(seed)  # noqa: S311 - jitter, not a secret
    transport = Transport(
        connection,
        user_agent=USER_AGENT,
        qps=config.requests_per_second,
        burst=config.request_burst,
        on_request=on_request,
        clock=clock,
        server_clock=clock,
        rng=rng,
    )
    if config.leader_election and not config.leader_election_namespace:
        namespace = os.environ.get("POD_NAMESPACE") or connection.namespace
        config = config.model_copy(update={"leader_election_namespace": namespace})
    async with KubeClient(transport) as client:
        manager = Manager(client, config, identity=_identity(), clock=clock, rng=rng)
        try:
            # First of all: whatever is missing below, the pod lives, is not ready and tells why.
            await manager.serve_probes()
            if not await _wait_for_crd(client, manager, stop):
                return
            await manager.start()
            if on_start is not None:
                on_start(manager)
            await _host(config, connection, manager, stop)
        finally:
            await manager.stop()


async def _wait_for_crd(client: KubeClient, manager: Manager, stop: asyncio.Event) -> bool:
    """Wait until the API server serves FineTuneJobs: kopf looks only once, at its start.

    One namespace that may be listed is enough: others may be deleted, with the rights in them.
    """
    while not stop.is_set():
        try:
            await require_readable(client, FINETUNEJOBS, manager.config.namespaces)
        except NotFound:
            problem = "the CustomResourceDefinition of FineTuneJob is not installed; waiting"
        except KubeError as error:
            problem = f"cannot list FineTuneJobs, will retry: {error}"
        else:
            return True
        logger.warning("%s", problem)
        manager.wait_for(problem)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CRD_RETRY_SECONDS):
                await stop.wait()
    return False


async def _host(
    config: OperatorConfig, connection: Connection, manager: Manager, stop: asyncio.Event
) -> None:
    """Run kopf beside the manager until the first of them, or the caller, ends."""
    settings = kopf.OperatorSettings()
    configure_kopf(settings)
    kopf_stop = asyncio.Event()
    ours = asyncio.all_tasks()
    # What kopf.operator() does, with a step in between: kopf takes the signals for itself, and
    # would end before the workers have; ours end the workers first.
    tasks = await kopf.spawn_tasks(
        registry=build_registry(connection, manager.observe),
        settings=settings,
        standalone=True,
        clusterwide=not config.namespaces,
        namespaces=config.namespaces,
        stop_flag=kopf_stop,
    )
    _handle_signals(stop)
    host = asyncio.create_task(kopf.run_tasks(tasks, ignored=ours), name="kopf")
    asked = asyncio.create_task(stop.wait(), name="stop")
    fatal = asyncio.create_task(manager.wait_fatal(), name="fatal")
    try:
        await asyncio.wait({host, asked, fatal}, return_when=asyncio.FIRST_COMPLETED)
        if fatal.done():
            fatal.result()
        if host.done():
            host.result()
            raise RuntimeError("kopf has ended although nobody asked it to")
        logger.info("stopping")
    finally:
        await manager.stop()
        kopf_stop.set()
        for task in (asked, fatal):
            task.cancel()
        await asyncio.gather(host, asked, fatal, return_exceptions=True)


def _handle_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)


def _identity() -> str:
    name = os.environ.get("POD_NAME") or socket.gethostname()
    return f"{name}_{uuid.uuid4().hex[:8]}"


__all__ = ["ConfigError", "EndlessBackoff", "build_registry", "configure_kopf", "serve"]
