"""Front and server pods that serve nobody: they become ready, and report over real HTTP.

The Deployment controllers of the control plane are real and make the pods. Each gets a loopback
address of its own, at which a small server answers the operator's polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from finetune_api.names import SERVER_LABEL, SERVING_LABEL
from finetune_api.protocol.serving import (
    REPORT_PATH,
    REPORT_PORT,
    AdapterReport,
    EngineReport,
    FrontEndpoint,
    FrontReport,
    ReportedCounts,
    ReportedEvents,
    ReportedStream,
    ServerReport,
    Verification,
)
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import PODS
from finetune_operator.kube.cache.informer import Informer
from kit.builders.events import events_of, requests_of
from kit.cluster.simulation import timestamp

Object = dict[str, Any]
REQUESTS_PER_REPORT = 100
# The port is fixed, so each process has addresses of its own.
_NETWORK = f"127.{64 + os.getpid() % 180}"
_ADDRESSES = (f"{_NETWORK}.{n // 250}.{n % 250 + 1}" for n in itertools.count())
SECTIONS = ("active", "candidate", "previous")


@dataclass
class Behaviour:
    """What the versions of a test are like.

    Attributes:
        faults: By version, the reason for which server pods refuse it.
        errors: By version, how many of 100 requests fail.
        tripped: Versions that fronts have taken out of rotation.
        sound: Versions with a server, or with a pod by name, that do not refuse them.
    """

    faults: dict[int, str] = field(default_factory=dict)
    errors: dict[int, int] = field(default_factory=dict)
    tripped: set[int] = field(default_factory=set)
    sound: set[tuple[int, str]] = field(default_factory=set)
    can_count: Callable[[int], bool] = lambda version: True
    """Whether requests arrive while a version is the candidate."""


class ServingPods:
    """Plays the kubelet, the fronts and the agents of some namespaces. Event loop only."""

    def __init__(
        self, client: KubeClient, behaviour: Behaviour, *, namespaces: tuple[str, ...]
    ) -> None:
        self.behaviour = behaviour
        self.num_reports = 0
        self._client = client
        self._endpoints = Informer(client, FINETUNEENDPOINTS, namespaces=namespaces)
        self._pods = Informer(client, PODS, namespaces=namespaces, label_selector=SERVING_LABEL)
        self._pods.store.add_handler(self._on_pod)
        self._runners: dict[str, web.AppRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ServingPods]:
        watching = [asyncio.create_task(each.run()) for each in (self._endpoints, self._pods)]
        try:
            yield self
        finally:
            for task in (*watching, *self._tasks):
                task.cancel()
            await asyncio.gather(*watching, *self._tasks, return_exceptions=True)
            for runner in self._runners.values():
                await runner.cleanup()

    def _on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._spawn(self._end(old["metadata"]["uid"]))
        elif old is None and not (new.get("status") or {}).get("podIP"):
            self._spawn(self._begin(new))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, pod: Object) -> None:
        metadata = pod["metadata"]
        boot = f"boot-{uuid.uuid4().hex[:8]}"

        async def report(request: web.Request) -> web.Response:
            self.num_reports += 1
            found = self._report(metadata, boot)
            return web.json_response(text=found.model_dump_json(by_alias=True))

        app = web.Application()
        app.router.add_get(REPORT_PATH, report)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners[metadata["uid"]] = runner
        address = next(_ADDRESSES)
        await web.TCPSite(runner, address, REPORT_PORT).start()
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": timestamp()}
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": timestamp(),
            "conditions": [ready, {**ready, "type": "ContainersReady"}],
        }
        with contextlib.suppress(NotFound):
            await self._client.merge_patch(
                PODS,
                metadata["namespace"],
                metadata["name"],
                {"metadata": {"uid": metadata["uid"]}, "status": status},
                subresource="status",
            )

    async def _end(self, uid: str) -> None:
        if (runner := self._runners.pop(uid, None)) is not None:
            await runner.cleanup()

    # ---- reports -----------------------------------------------------------------------------

    def _report(self, pod: Object, boot: str) -> FrontReport | ServerReport:
        endpoints = self._endpoints.store.objects(pod["namespace"])
        if pod["labels"][SERVING_LABEL] == "front":
            return FrontReport(id=boot, endpoints=[self._route(boot, each) for each in endpoints])
        server = pod["labels"][SERVER_LABEL]
        versions = {
            version["adapter"]: version
            for each in endpoints
            for section in SECTIONS
            if (version := (each.get("status") or {}).get(section)) and version["server"] == server
        }
        return ServerReport(
            id=boot,
            server=server,
            engine=EngineReport(name="Transformers", is_ready=True),
            adapters=[self._adapter(pod["name"], version) for version in versions.values()],
        )

    def _adapter(self, pod: str, version: Object) -> AdapterReport:
        number, sound = version["version"], self.behaviour.sound
        is_sound = not sound.isdisjoint({(number, pod), (number, version["server"])})
        fault = None if is_sound else self.behaviour.faults.get(number)
        return AdapterReport(
            name=version["adapter"],
            version=number,
            sha256=f"{number:064x}",
            state="Failed" if fault else "Verified",
            reason=fault,
            message=f"Version {number} is refused." if fault else "",
            verification=Verification(num_asked=50, num_equal=0 if fault else 50),
        )

    def _route(self, boot: str, endpoint: Object) -> FrontEndpoint:
        status, name = endpoint.get("status") or {}, endpoint["metadata"]["name"]
        active, candidate = status.get("active") or {}, status.get("candidate") or {}
        weight = candidate.get("weight") or 0
        rollout = candidate.get("rolloutId")
        if weight and rollout and self.behaviour.can_count(candidate["version"]):
            self._count(boot, rollout, weight, active["version"], candidate["version"])
        told = {
            at: counts
            for (front, of, at), counts in self._counts.items()
            if front == boot and of == rollout
        }
        streams = [
            ReportedStream(
                weight=at,
                active=ReportedCounts(**requests_of({"requests": counts[0]})),
                candidate=ReportedCounts(**requests_of({"requests": counts[2]})),
            )
            for at, counts in told.items()
        ]
        sides = [(at, {"errors": each[1]}, {"errors": each[3]}) for at, each in told.items()]
        is_tripped = candidate.get("version") in self.behaviour.tripped
        return FrontEndpoint(
            name=name,
            active=active.get("adapter"),
            candidate=candidate.get("adapter"),
            rollout_id=rollout,
            streams=streams,
            events=[ReportedEvents.model_validate(each) for each in events_of(boot, sides)],
            tripped=[candidate["adapter"]] if is_tripped else [],
        )

    def _count(self, boot: str, rollout: str, weight: int, active: int, candidate: int) -> None:
        counts = self._counts[boot, rollout, weight]
        for at, version, share in ((0, active, 100 - weight), (2, candidate, weight)):
            num_requests = REQUESTS_PER_REPORT * share // 100
            counts[at] += num_requests
            counts[at + 1] += num_requests * self.behaviour.errors.get(version, 0) // 100
