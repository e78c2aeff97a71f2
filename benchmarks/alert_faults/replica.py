"""One replica of the operator as a process on the fast clock, and what its ``/metrics`` say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from benchmarks.alert_faults.clock import FastClock
from benchmarks.alert_faults.samples import Samples

from kit.servers.ports import free_port

INTERVAL_SECONDS = 30.0
"""Between two scrapes, by the operator's clock: the default of the chart's ServiceMonitor."""
START_SECONDS = 300.0
TARGET_NAMESPACE, TARGET_SERVICE = "finetune-system", "finetune-operator-metrics"
LEASE_SECONDS = {"leaseDurationSeconds": 60.0, "renewDeadlineSeconds": 40.0}
"""In seconds of ours: these operators share a machine."""
RETRY_PERIOD_SECONDS = 1.0


@dataclass(kw_only=True)
class Replica:
    """A running operator, or another process that is scraped.

    Attributes:
        name: Its name, and that of its pod as Prometheus would know it.
        clock: The time it reads.
        ports: Port of ``metrics``, ``probe`` and ``progress``.
        process: The process.
        samples: What it told so far.
        began: By alert, the minute of its clock at which the fault began.
    """

    name: str
    clock: FastClock
    ports: dict[str, int]
    process: subprocess.Popen[bytes]
    samples: Samples
    began: dict[str, int] = field(default_factory=dict)

    @property
    def minute(self) -> int:
        """The whole minute of its clock since the first scrape."""
        return int((self.clock.timestamp() - self.samples.start) // 60)

    def note(self, *alerts: str) -> None:
        """Note that the faults of these alerts begin now."""
        for alert in alerts:
            self.began[alert] = self.minute

    def kill(self) -> None:
        """End it as a lost node would."""
        self.process.kill()
        self.process.wait()

    async def reach(self, minute: int) -> None:
        """Wait until its clock has come to a minute."""
        left = self.samples.start + 60 * minute - self.clock.timestamp()
        await asyncio.sleep(max(0.0, left / self.clock.speed))


@asynccontextmanager
async def running_replica(
    name: str,
    *,
    folder: Path,
    kubeconfig: Path,
    clock: FastClock,
    metrics: Iterable[str],
    environment: dict[str, str] | None = None,
    readiness: str = "leading",
    **settings: Any,
) -> AsyncIterator[Replica]:
    """Start the operator, wait until it is ready and leads, and scrape it until the end.

    Args:
        name: Names pod, lease and log.
        folder: For its configuration and its log.
        kubeconfig: Of whoever the operator is to the API server.
        clock: The time it reads.
        metrics: What is kept of its answers.
        environment: What its process is told beside.
        readiness: What ``/readyz`` says when the scenario begins, if it is not to be ready.
        settings: Of the operator, by their names in its configuration.
    """
    ports = {kind: free_port() for kind in ("metrics", "probe", "progress")}
    config = {
        **{f"{kind}Port": port for kind, port in ports.items()},
        "bindAddress": "127.0.0.1",
        "kueue": "off",
        "leaderElectionNamespace": "default",
        "leaderElectionName": name,
        "retryPeriodSeconds": RETRY_PERIOD_SECONDS,
        **{key: seconds * clock.speed for key, seconds in LEASE_SECONDS.items()},
        **settings,
    }
    told = {"KUBECONFIG": str(kubeconfig), **clock.to_environment(), **(environment or {})}
    process = _spawn(folder, name, config, told)
    try:
        await _wait_until(readiness, ports["probe"], process, folder / f"{name}.log")
        target = {"namespace": TARGET_NAMESPACE, "service": TARGET_SERVICE, "pod": name}
        samples = Samples(
            target=target,
            metrics=frozenset(metrics),
            start=clock.timestamp(),
            interval_seconds=INTERVAL_SECONDS,
        )
        replica = Replica(name=name, clock=clock, ports=ports, process=process, samples=samples)
        async with scraped(replica):
            yield replica
    finally:
        end(process)


@asynccontextmanager
async def scraped(replica: Replica) -> AsyncIterator[None]:
    """Scrape a process meanwhile."""
    scraping = asyncio.create_task(_scrape(replica))
    try:
        yield
    finally:
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)


def _spawn(
    folder: Path, name: str, config: dict[str, Any], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.alert_faults.operator", "--config", str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            stdout=log,
            stderr=log,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force if it takes its time."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _wait_until(
    readiness: str, port: int, process: subprocess.Popen[bytes], log: Path
) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_SECONDS):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the operator has ended, see {log}")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if await answer.text() == readiness:
                        return
            await asyncio.sleep(0.1)


async def _scrape(replica: Replica) -> None:
    """Scrape for ever, once per interval of the grid."""
    samples, clock = replica.samples, replica.clock
    url = f"http://127.0.0.1:{replica.ports['metrics']}/metrics"
    index = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        while True:
            due = samples.start + index * samples.interval_seconds
            await asyncio.sleep(max(0.0, (due - clock.timestamp()) / clock.speed))
            asked = clock.timestamp()
            text: str | None = None
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as answer:
                    text = await answer.text() if answer.status == 200 else None
            samples.take(text, asked)
            index = max(index, samples.index_at(asked)) + 1
