"""FineTuneEndpoints that are reconciled: an API server, caches that follow it, and one process."""

from __future__ import annotations

import copy
import random
from typing import Any

from finetune_api.names import FRONT
from finetune_api.protocol.serving import (
    AdapterReport,
    EngineReport,
    ServerReport,
    Verification,
)
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.finetuneendpoint import FineTuneEndpointReconciler
from finetune_operator.controllers.memory.endpoints import (
    BY_PUBLISHED_NAME,
    Endpoints,
    index_by_published_name,
)
from finetune_operator.kube.cache.store import Store
from finetune_operator.status.conditions import find_condition
from kit.builders.endpoints import NAME, NAMESPACE, digest_of
from kit.builders.jobs import NOW
from kit.cluster.fake_client import FakeClient
from kit.processes.clock import FakeClock

KEY = (NAMESPACE, NAME)
CONFIG = OperatorConfig(vllm_image="vllm:1")
Object = dict[str, Any]


class Recorder:
    """Keeps Events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def record(self, resource: Any, obj: Object, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))


class Reports:
    """What pods have reported, by name."""

    def __init__(self) -> None:
        self.by_pod: dict[str, Any] = {}

    def of(self, pod: Object) -> Any:
        return self.by_pod.get(pod["metadata"]["name"])


class World:
    """One namespace: an API server, caches that follow it at once, and one process."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.client = FakeClient()
        self.clock = FakeClock(NOW)
        self.recorder = Recorder()
        self.reports = Reports()
        self.jobs = Store(indexers={BY_PUBLISHED_NAME: index_by_published_name})
        self.woken: list[tuple[str, str]] = []
        self.restart()

    def restart(self) -> None:
        """Begin a process that has only the caches."""
        self.endpoints = Endpoints(
            self.client,  # type: ignore[arg-type]
            self.jobs,
            wake=lambda key, priority: self.woken.append(key),
            forget=lambda found: self.reconciler.forget(found),
            namespaces=(),
            rng=random.Random(1),
        )
        self.reconciler = FineTuneEndpointReconciler(
            self.client,  # type: ignore[arg-type]
            self.endpoints,
            self.reports,  # type: ignore[arg-type]
            self.jobs,
            self.config,
            clock=self.clock,
            recorder=self.recorder,  # type: ignore[arg-type]
        )
        for (plural, _, _), obj in self.client.cluster.objects.items():
            self._cache(plural, obj)

    def _cache(self, plural: str, obj: Object) -> None:
        stores = {"finetuneendpoints": self.endpoints.store, "pods": self.endpoints.pods,
                  "deployments": self.endpoints.deployments, "finetunejobs": self.jobs}  # fmt: skip
        if plural in stores:
            stores[plural].observe(None, copy.deepcopy(obj))

    def put(self, plural: str, obj: Object) -> None:
        """Write an object as another client would."""
        metadata = obj["metadata"]
        key = (plural, metadata["namespace"], metadata["name"])
        self._cache(plural, self.client.cluster.store(key, obj))

    def edit(self, **spec: Any) -> None:
        """Change the spec of the endpoint."""
        live = copy.deepcopy(self.client.cluster.objects["finetuneendpoints", *KEY])
        live["spec"] |= spec
        live["metadata"]["generation"] += 1
        self.put("finetuneendpoints", live)

    def serve(self, state: str = "Verified", reason: str | None = None) -> None:
        """Let every server of the status have a ready pod, which reports on all versions."""
        for name in self.servers():
            deployment = self.client.cluster.objects["deployments", NAMESPACE, name]
            self.put("deployments", {**deployment, "status": {"readyReplicas": 1}})
            controller = {"kind": "ReplicaSet", "name": f"{name}-1", "controller": True}
            labels = {"finetune.dev/serving": "server", "finetune.dev/server": name}
            if name == FRONT:
                labels = {"finetune.dev/serving": "front"}
            pod = {
                "metadata": {"name": f"{name}-1-x", "namespace": NAMESPACE, "labels": labels,
                             "ownerReferences": [controller]},
                "status": {"phase": "Running", "podIP": "10.0.0.1",
                           "conditions": [{"type": "Ready", "status": "True"}]},
            }  # fmt: skip
            self.put("pods", pod)
            if name != FRONT:
                self.reports.by_pod[f"{name}-1-x"] = self._report(name, state, reason)

    def _report(self, name: str, state: str, reason: str | None) -> ServerReport:
        versions = [self.status.get(each) for each in ("active", "candidate", "previous")]
        return ServerReport(
            id="boot",
            server=name,
            engine=EngineReport(name="VLLM", is_ready=True),
            adapters=[
                AdapterReport(
                    name=each["adapter"],
                    version=each["version"],
                    sha256=digest_of(each["version"]),
                    state="Failed" if reason and each is versions[1] else state,
                    reason=reason if each is versions[1] else None,
                    verification=Verification(num_asked=50, num_equal=50),
                )
                for each in versions
                if each and each["server"] == name
            ],
        )

    def servers(self) -> set[str]:
        return {name for plural, _, name in self.client.cluster.objects if plural == "deployments"}

    @property
    def status(self) -> Object:
        found: Object = self.client.cluster.objects["finetuneendpoints", *KEY].get("status") or {}
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        found = find_condition(self.status["conditions"], kind)
        assert found is not None
        return found["status"], found["reason"]

    async def look(self) -> Any:
        """Reconcile once; the clock moves on by ten seconds first."""
        self.clock.advance(10.0)
        self.client.writes.clear()
        return await self.reconciler.reconcile(KEY)

    def written(self) -> list[str]:
        return [f"{verb} {body['kind']}" for verb, body in self.client.writes]


async def live(world: World) -> None:
    """Let the first version answer."""
    await world.look()
    world.serve()
    await world.look()
    assert world.status["active"]["version"] == 1
