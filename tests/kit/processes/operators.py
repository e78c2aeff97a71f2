"""Clients of an API server, and operators in this process and as processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection, load_kubeconfig
from finetune_operator.kube.api.resource import EVENTS, JOBS
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.clock import SystemClock
from finetune_operator.manager import Manager
from kit.cluster.devcluster import Cluster

ROOT = Path(__file__).parents[3]
Object = dict[str, Any]


def connection_of(cluster: Cluster, *, server: str | None = None) -> Connection:
    connection = load_kubeconfig([Path(cluster.kubeconfig)])
    return dataclasses.replace(connection, server=server) if server else connection


@contextlib.asynccontextmanager
async def open_client(connection: Connection, **options: Any) -> AsyncIterator[KubeClient]:
    async with KubeClient(Transport(connection, user_agent="finetune-test", **options)) as client:
        yield client


def test_config(namespace: str, **settings: Any) -> OperatorConfig:
    return OperatorConfig(
        **{
            "namespaces": [namespace],
            "kueue": "off",
            "leader_election": False,
            "progress_port": 0,
            "probe_port": 0,
            "metrics_port": 0,
            "bind_address": "127.0.0.1",
            **settings,
        }
    )


test_config.__test__ = False  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def running_manager(client: KubeClient, config: OperatorConfig) -> AsyncIterator[Manager]:
    """Run a replica in this loop, with an informer in the place of kopf.

    kopf allows one operator per loop; these tests run many.
    """
    manager = Manager(
        client,
        config,
        identity=f"test-{uuid.uuid4().hex[:6]}",
        clock=SystemClock(),
        rng=random.Random(7),
    )
    await manager.start()
    host = Informer(client, FINETUNEJOBS, namespaces=config.namespaces, transform=lambda obj: obj)
    host.store.add_handler(
        lambda kind, old, new: manager.observe(str(kind), dict(new if new is not None else old))
    )
    watching = asyncio.create_task(host.run())
    try:
        yield manager
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await manager.stop()


class OperatorProcess:
    """One replica as users run it: ``python -m finetune_operator`` with kopf."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        *,
        kubeconfig: str = "",
        pod_name: str = "",
        code: Path = ROOT / "operator",
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = {
            "progressPort": 0,
            "probePort": 0,
            "metricsPort": 0,
            "bindAddress": "127.0.0.1",
            "kueue": "off",
            "leaderElectionNamespace": "default",
            **settings,
        }
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        self.log = folder / "operator.log"
        self.num_restarts = 0
        self._command = [sys.executable, "-m", "finetune_operator", "--config", str(path)]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(code),
            "KUBECONFIG": kubeconfig or str(cluster.kubeconfig),
            **({"POD_NAME": pod_name} if pod_name else {}),
        }
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def restart_if_ended(self) -> None:
        """What the kubelet does for a Deployment's pod."""
        if self.process.poll() is not None:
            self.num_restarts += 1
            self._start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, number)

    def stop(self) -> int:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return self.process.wait()

    def tail(self) -> str:
        return self.log.read_text()[-4000:]


def condition(job: Object, kind: str) -> Object | None:
    for item in (job.get("status") or {}).get("conditions") or ():
        if item["type"] == kind:
            found: Object = item
            return found
    return None


def holds(job: Object, kind: str) -> bool:
    found = condition(job, kind)
    return found is not None and found["status"] == "True"


async def get_job(client: KubeClient, namespace: str, name: str) -> Object:
    return await client.get(FINETUNEJOBS, namespace, name)


async def child_jobs(client: KubeClient, namespace: str) -> list[Object]:
    return (await client.list(JOBS, namespace)).items


async def event_reasons(client: KubeClient, namespace: str, name: str) -> list[str]:
    found = await client.list(
        EVENTS,
        namespace,
        field_selector=f"involvedObject.kind=FineTuneJob,involvedObject.name={name}",
    )
    return [event["reason"] for event in found.items]
