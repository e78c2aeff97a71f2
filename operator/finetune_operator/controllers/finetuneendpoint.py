"""``reconcile(key)`` of FineTuneEndpoints: caches to snapshot, plan, one status write, requests.

The status is the routing table of the fronts and the task of the servers. So it is written first,
and what it needs is created afterwards. A stop between any two requests is harmless: the status is
derived from itself, and everything else has a derived name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import FRONT, SERVER_PREFIX
from finetune_api.protocol.monitoring import LookTask
from finetune_api.protocol.serving import FrontReport, ServerReport
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint, FineTuneEndpointSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.gateway_objects import GatewayObjects
from finetune_operator.controllers.guarding import FIELD_MANAGER, Guard
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.endpoints import (
    BY_PUBLISHED_NAME,
    FINETUNEENDPOINTS,
    Endpoints,
)
from finetune_operator.controllers.memory.serving_reports import ServingReports
from finetune_operator.controllers.memory.validated import parse_stored
from finetune_operator.controllers.parents import find_live
from finetune_operator.controllers.refusals import NameTaken, Refusals
from finetune_operator.controllers.serving_objects import OWNERS_SECONDS, ServingObjects
from finetune_operator.finetuneendpoint.actions import ApplyServing, Plan
from finetune_operator.finetuneendpoint.admission import find_fault, find_source_fault
from finetune_operator.finetuneendpoint.draft import OWNED_FIELDS, STATUS
from finetune_operator.finetuneendpoint.observed import (
    Neighbour,
    Observed,
    ServerPod,
    Workload,
    owner_of,
    read_neighbour,
)
from finetune_operator.finetuneendpoint.plan import plan
from finetune_operator.finetuneendpoint.render.look import render_look
from finetune_operator.finetuneendpoint.trimming import workload_of
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import AlreadyExists, KubeError
from finetune_operator.kube.api.resource import JOBS, Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Result
from finetune_operator.kube.recorder import EventRecorder

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What is remembered of an endpoint between two looks; losing it only costs requests.

    Attributes:
        generation: Generation of the spec in ``parsed`` and ``problem``.
        refusal: Cause for which the API server did not take what was asked for.
        refused_until: Monotonic time of the next try.
        look_refusal: Cause for which it did not take the Job of a look.
        look_refused_until: Monotonic time of the next try.
        written_at: When its status was last written.
    """

    generation: int = -1
    parsed: FineTuneEndpoint | None = None
    problem: str = ""
    refusal: Refusal | None = None
    refused_until: float = 0.0
    look_refusal: Refusal | None = None
    look_refused_until: float = 0.0
    written_at: datetime | None = None


class FineTuneEndpointReconciler:
    """Reconciles one FineTuneEndpoint at a time. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        endpoints: The caches of endpoints and of what serves them.
        reports: Last reports of serving pods.
        jobs: The cache of FineTuneJobs.
    """

    def __init__(
        self,
        client: KubeClient,
        endpoints: Endpoints,
        reports: ServingReports,
        jobs: Store,
        config: OperatorConfig,
        *,
        clock: Clock,
        recorder: EventRecorder,
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._reports = reports
        self._jobs = jobs
        self._config = config
        self._clock = clock
        self._guard = Guard(
            resource=FINETUNEENDPOINTS,
            noun="endpoint",
            meanwhile="Versions in rotation go on answering meanwhile.",
            schema=STATUS,
            owned=OWNED_FIELDS,
            client=client,
            clock=clock,
            recorder=recorder,
            logger=logger,
        )
        self._objects = ServingObjects(client, endpoints, clock=clock)
        self._gateway_objects = GatewayObjects(client, endpoints)
        self._refusals = Refusals(clock)
        self._memories: dict[str, _Memory] = {}
        self._read: dict[str, tuple[str, Neighbour | None]] = {}

    def forget(self, endpoint: Object) -> None:
        """Drop the memory of a FineTuneEndpoint that is gone."""
        uid = endpoint["metadata"]["uid"]
        self._memories.pop(uid, None)
        self._read.pop(uid, None)
        self._refusals.forget(uid)
        self._refusals.forget(_look_key(uid))
        self._guard.forget(uid)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Look at one FineTuneEndpoint and do what its plan says."""
        return await self._guard.reconcile(self._endpoints.store, key, self._reconcile)

    async def _reconcile(self, key: ObjectKey, endpoint: Object) -> Result:
        memory = self._memories.setdefault(endpoint["metadata"]["uid"], _Memory())
        config = self._config.for_namespace(key[0])
        step, wait = await self._look(endpoint, memory, config), None
        if step.serving is not None and not self._is_refused(memory):
            before = memory.refusal
            wait = await self._apply(endpoint, step.serving, memory, config)
            if memory.refusal != before:
                # The status says why the servers do not come, or no longer says it.
                endpoint = self._endpoints.store.get(*key) or endpoint
                step = await self._look(endpoint, memory, config)
        look_wait = await self._begin_look(endpoint, step.look, memory, config)
        waits = [each for each in (step.requeue_after, wait, look_wait) if each is not None]
        return RequeueAfter(min(waits)) if waits else Done()

    async def _look(self, endpoint: Object, memory: _Memory, config: OperatorConfig) -> Plan:
        """Plan once, and write the status."""
        planned = self._guard.as_planned(endpoint)
        observed = await self._observe(planned, memory, config)
        step = plan(observed, self._clock.now())
        answer = await self._guard.write_status(planned, step.status)
        if answer is not None:
            memory.written_at = self._clock.now()
            self._endpoints.store.absorb(answer)
        self._guard.announce(endpoint, step.events)
        self._endpoints.set_urgent(answer or endpoint, is_urgent=step.report_interval_seconds < 5)
        return step

    async def _begin_look(
        self, endpoint: Object, task: LookTask | None, memory: _Memory, config: OperatorConfig
    ) -> float | None:
        """Create the Job of a look, or find that an earlier attempt did.

        Serving does not wait for it.

        Returns:
            Seconds until the next try; None if it is there.
        """
        uid = endpoint["metadata"]["uid"]
        if task is None or not self._guard.is_written(uid):
            return None
        wait = memory.look_refused_until - self._clock.monotonic()
        if memory.look_refusal is not None and wait > 0:
            return wait
        manifest = render_look(task, owner_of(endpoint), config)
        try:
            answer = await self._create_look(manifest, uid)
        except (KubeError, NameTaken) as error:
            refusal = self._refusals.explain(_look_key(uid), Stage.PREPARE, error)
            if refusal is None:
                raise
            memory.look_refusal = refusal
            memory.look_refused_until = self._clock.monotonic() + refusal.retry_seconds
            return refusal.retry_seconds
        self._refusals.forget(_look_key(uid))
        memory.look_refusal = None
        self._endpoints.looks_informer.store.absorb(answer)
        return None

    async def _create_look(self, manifest: Object, uid: str) -> Object:
        metadata = manifest["metadata"]
        try:
            return await self._client.create(JOBS, manifest, field_manager=FIELD_MANAGER)
        except AlreadyExists as error:
            live = await self._client.get(JOBS, metadata["namespace"], metadata["name"])
            owners = live["metadata"].get("ownerReferences") or ()
            if not any(each.get("controller") and each.get("uid") == uid for each in owners):
                raise NameTaken(
                    f"Job {metadata['name']} exists and is none of this endpoint's; the look waits"
                    " until it is gone"
                ) from error
            return live

    def _is_refused(self, memory: _Memory) -> bool:
        return memory.refusal is not None and self._clock.monotonic() < memory.refused_until

    async def _apply(
        self, endpoint: Object, serving: ApplyServing, memory: _Memory, config: OperatorConfig
    ) -> float | None:
        """Create what the status needs; remember why it is not allowed or not accepted.

        Returns:
            Seconds until what is left is done; None if nothing is.
        """
        metadata = endpoint["metadata"]
        uid = metadata["uid"]
        if not self._guard.is_written(uid):
            return None
        faults = [find_source_fault(each.server, config) for each in serving.servers]
        judged = zip(serving.servers, faults, strict=True)
        allowed = tuple(each for each, fault in judged if fault is None)
        try:
            is_done = await self._objects.apply(replace(serving, servers=allowed), config)
            if serving.split is not None:
                await self._gateway_objects.apply(serving.split, config)
            await self._objects.release(metadata["namespace"], serving.release, uid)
        except (KubeError, NameTaken) as error:
            # The endpoint as its first stage needs it: one pause for all objects.
            refusal = self._refusals.explain(uid, Stage.PREPARE, error)
            if refusal is None:
                raise
            memory.refusal = refusal
            memory.refused_until = self._clock.monotonic() + refusal.retry_seconds
            return None
        self._refusals.forget(uid)
        memory.refusal = next((fault for fault in faults if fault is not None), None)
        return None if is_done else OWNERS_SECONDS

    async def _observe(self, endpoint: Object, memory: _Memory, config: OperatorConfig) -> Observed:
        namespace = endpoint["metadata"]["namespace"]
        uid = endpoint["metadata"]["uid"]
        self._validate(endpoint, memory)
        spec = memory.parsed.spec if memory.parsed is not None else None
        pods = self._endpoints.pods_in(namespace)
        reports = {key_of(pod): self._reports.of(pod) for pod in pods}
        deployments = self._endpoints.deployments_in(namespace)
        splits = self._endpoints.served_splits(namespace)
        return Observed(
            endpoint=endpoint,
            parsed=memory.parsed,
            problem=memory.problem,
            fault=None if spec is None else find_fault(spec, config, splits),
            job=None if spec is None else await self._read_job(namespace, spec),
            neighbours=tuple(self._neighbours(namespace, uid)),
            fronts=tuple(
                report
                for pod in pods
                if pod["deployment"] == FRONT
                and isinstance(report := reports[key_of(pod)], FrontReport)
            ),
            servers=tuple(
                _server_pod(pod, reports[key_of(pod)])
                for pod in pods
                if pod["deployment"] not in ("", FRONT)
            ),
            workloads=_workloads(deployments, pods),
            owned=frozenset(
                str(each["metadata"]["name"])
                for each in deployments
                if each["isLabelled"]
                and each["metadata"]["name"].startswith(SERVER_PREFIX)
                and any(o.get("uid") == uid for o in each["metadata"]["ownerReferences"])
            ),
            looks=self._endpoints.looks_of(key_of(endpoint), uid),
            look_refusal=memory.look_refusal,
            refusal=memory.refusal,
            written_at=memory.written_at,
        )

    def _validate(self, endpoint: Object, memory: _Memory) -> None:
        generation = int(endpoint["metadata"].get("generation") or 0)
        if memory.generation != generation:
            parse = FineTuneEndpoint.from_stored
            memory.parsed, memory.problem = parse_stored(endpoint, parse, kind=ENDPOINT_KIND)
            memory.generation = generation

    def _neighbours(self, namespace: str, uid: str) -> list[Neighbour]:
        found = []
        for each in self._endpoints.of_namespace(namespace):
            metadata = each["metadata"]
            if metadata["uid"] == uid:
                continue
            version, neighbour = self._read.get(metadata["uid"], ("", None))
            if version != metadata["resourceVersion"]:
                neighbour = read_neighbour(each)
                self._read[metadata["uid"]] = (metadata["resourceVersion"], neighbour)
            if neighbour is not None:
                found.append(neighbour)
        return found

    async def _read_job(self, namespace: str, spec: FineTuneEndpointSpec) -> Object | None:
        """Return the job with the wanted version, among jobs that publish under the name.

        That is the version that ``spec.version`` names, else the newest. A large job is read from
        the server.
        """
        jobs = self._jobs.by_index(BY_PUBLISHED_NAME, f"{namespace}/{spec.job_ref.name}")
        pinned = [job for job in jobs if _version_of(job) == spec.version]
        job = max(pinned or jobs, key=_version_of, default=None)
        if job is None or is_whole(job) or not _version_of(job):
            return job
        return await find_live(self._client, FINETUNEJOBS, key_of(job))


def _look_key(uid: str) -> str:
    """Return the key of pauses after refused looks, beside those of servers."""
    return f"{uid}/look"


def _version_of(job: Object) -> int:
    return int(((job.get("status") or {}).get("artifact") or {}).get("version") or 0)


def _server_pod(pod: Object, report: FrontReport | ServerReport | None) -> ServerPod:
    return ServerPod(
        name=pod["metadata"]["name"],
        server=pod["deployment"],
        is_ready=pod["isReady"],
        report=report if isinstance(report, ServerReport) else None,
    )


def _workloads(deployments: list[Object], pods: list[Object]) -> dict[str, Workload]:
    of: dict[str, list[Object]] = {}
    for pod in pods:
        of.setdefault(pod["deployment"], []).append(pod)
    names = ((each["metadata"]["name"], each) for each in deployments)
    return {name: workload_of(each, of.get(name, ())) for name, each in names}
