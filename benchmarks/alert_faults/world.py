"""Where faults are done: one API server with Kueue, and what an alert has to do there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.alert_faults.clock import FastClock
from benchmarks.alert_faults.promtool import Labels
from benchmarks.alert_faults.replica import Replica, running_replica

from devcluster.control_plane.controlplane import ControlPlane
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.resource import PODS
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async

Body = dict[str, Any]

PATIENCE_SECONDS = 300.0
"""For an object to come to a phase; machines that run this are busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What an alert has to do in a scenario.

    Attributes:
        alert: Its name.
        fault: What was done, for the table.
        labels: Labels of the alert, beside its severity.
        replica: Whose samples tell it.
    """

    alert: str
    fault: str
    labels: Labels
    replica: Replica


@dataclass(kw_only=True)
class World:
    """One API server with Kueue, and what is known of it.

    Attributes:
        cluster: The control plane.
        connection: To its API server, as administrator.
        client: A client on it.
        clock: The operators' clock.
        folder: For configurations and logs.
        metrics: Names of the metrics that alerts ask for.
        is_waiting: Set once the jobs in trouble only need time: then others may need the machine.
    """

    cluster: ControlPlane
    connection: Connection
    client: KubeClient
    clock: FastClock
    folder: Path
    metrics: frozenset[str]
    is_waiting: asyncio.Event

    @asynccontextmanager
    async def replica(self, name: str, **options: Any) -> AsyncIterator[Replica]:
        """Run an operator of this world."""
        options = {"kubeconfig": self.cluster.kubeconfig, **options}
        async with running_replica(
            name, folder=self.folder, clock=self.clock, metrics=self.metrics, **options
        ) as found:
            yield found

    def apply(self, *documents: Body) -> None:
        """Apply objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))

    def make_namespaces(self, *names: str) -> None:
        """Create namespaces."""
        self.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in names)
        )

    async def create(self, name: str, namespace: str, **spec: Any) -> None:
        """Create a FineTuneJob."""
        await self.client.create(FINETUNEJOBS, finetunejob(name, namespace, **spec))

    async def reaches(self, name: str, namespace: str, **status: str) -> None:
        """Wait until a FineTuneJob's status has these values."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                job = await self.client.get(FINETUNEJOBS, namespace, name)
                found = job.get("status") or {}
                if all(found.get(key) == value for key, value in status.items()):
                    return
                await asyncio.sleep(0.1)

    async def token(self, namespace: str, job: str, *, audience: str) -> str:
        """Return a token of a job's training pod, as the kubelet projects one."""
        selector = f"finetune.dev/job={job},finetune.dev/stage=train"

        async def list_pods() -> list[Body]:
            return (await self.client.list(PODS, namespace, label_selector=selector)).items

        # Training begins with its Job; the pod comes a moment later.
        found: list[Body] = await eventually_async(list_pods, timeout=60.0)
        (pod,) = found
        bound = {key: pod["metadata"][key] for key in ("name", "uid")}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience],
                "expirationSeconds": 864000,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", **bound},
            },
        }
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
        session = self.connection.open_session(
            max_connections=1, user_agent="alert-faults", attach_credentials=True
        )
        async with session, session.post(self.connection.server + account, json=request) as answer:
            answer.raise_for_status()
            return str((await answer.json())["status"]["token"])


Scenario = Callable[[World], Coroutine[Any, Any, list[Seen]]]
