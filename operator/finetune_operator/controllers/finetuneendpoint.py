"""``reconcile(key)`` of FineTuneEndpoints: caches to snapshot, plan, one status write, requests.

The status is the routing table of the fronts and the task of the servers. So it is written first,
and what it needs is created afterwards. A stop between any two requests is harmless: the status is
derived from itself, and everything else has a derived name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import FRONT, SERVER_PREFIX
from finetune_api.protocol.monitoring import LookTask
from finetune_api.protocol.serving import FrontReport, ServerReport
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint, FineTuneEndpointSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.guarding import Guard
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.endpoints import (
    BY_PUBLISHED_NAME,
    FINETUNEENDPOINTS,
    Endpoints,
)
from finetune_operator.controllers.memory.reading import age_of
from finetune_operator.controllers.memory.serving_reports import (
    FORGET_SECONDS,
    ServingReports,
)
from finetune_operator.controllers.memory.validated import parse_stored
from finetune_operator.controllers.parents import find_live
from finetune_operator.controllers.refusals import NameTaken, Refusals, create_owned
from finetune_operator.controllers.serving_objects import (
    OWNERS_SECONDS,
    ServingObjects,
    check_seconds,
)
from finetune_operator.finetuneendpoint.actions import ApplyServing, Plan
from finetune_operator.finetuneendpoint.admission import find_fault, find_source_fault
from finetune_operator.finetuneendpoint.draft import OWNED_FIELDS, STATUS
from finetune_operator.finetuneendpoint.observed import (
    Neighbour,
    Observed,
    ServerPod,
    Workload,
    move_of,
    owner_of,
    read_neighbour,
    servers_of,
)
from finetune_operator.finetuneendpoint.plan import plan
from finetune_operator.finetuneendpoint.render.look import render_look
from finetune_operator.finetuneendpoint.trimming import workload_of
from finetune_operator.finetuneendpoint.versions import choose_job, number_of
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import KubeError
from finetune_operator.kube.api.resource import JOBS, Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Result
from finetune_operator.kube.recorder import EventRecorder
from finetune_operator.status.conditions import MOVE_REASONS, ConditionType, find_condition

logger = logging.getLogger(__name__)

MOVE_SECONDS = 900.0
"""How long a version that moves to another server holds up those of other namespaces."""


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


@dataclass(frozen=True, slots=True)
class _Move:
    """An active version on its way to another server.

    Attributes:
        until: Monotonic time until which it has a turn of the cluster. Afterwards only other
            endpoints of its namespace wait for it, so that no tenant holds up another for long.
        is_refused: Whether the version has failed there. The server is stopped.
        has_failed: Whether a new configuration asked for it, and the version cannot move.
    """

    namespace: str
    server: str
    until: float
    is_refused: bool
    has_failed: bool = False


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
        self._refusals = Refusals(clock)
        self._memories: dict[str, _Memory] = {}
        self._read: dict[str, tuple[str, Neighbour | None]] = {}
        self._moves: dict[str, _Move] | None = None
        self._began = 0.0

    def forget(self, endpoint: Object) -> None:
        """Drop the memory of a FineTuneEndpoint that is gone."""
        uid = endpoint["metadata"]["uid"]
        self._memories.pop(uid, None)
        self._read.pop(uid, None)
        if self._moves is not None:
            self._moves.pop(uid, None)
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
        # Between these two lines no other endpoint may begin to move.
        step = plan(self._with_moves(observed), self._clock.now())
        self._note_move(planned, step.status or planned.get("status"))
        answer = await self._guard.write_status(planned, step.status, step.conditions)
        if answer is not None:
            memory.written_at = self._clock.now()
            self._endpoints.store.absorb(answer)
        self._guard.announce(endpoint, step.events)
        self._endpoints.set_urgent(answer or endpoint, is_urgent=step.report_interval_seconds < 5)
        return step

    def _with_moves(self, observed: Observed) -> Observed:
        """Add the moves of other endpoints; those of before this process are read once."""
        now = self._clock.monotonic()
        if self._moves is None:
            self._moves, self._began = {}, now
            for each in self._endpoints.store.objects():
                self._note_move(each, each.get("status"))
        others = [move for uid, move in self._moves.items() if uid != observed.uid]
        elsewhere = {
            (each.namespace, each.server)
            for each in others
            if each.until > now and each.namespace != observed.namespace
        }
        return replace(
            observed,
            moving=frozenset(
                each.server
                for each in others
                if each.namespace == observed.namespace and not each.is_refused
            ),
            is_crowded=len(elsewhere) >= self._config.server_moves,
            num_failed_moves=len({e.namespace for e in others if e.has_failed}),
            is_young=now - self._began < FORGET_SECONDS,
        )

    def _note_move(self, endpoint: Object, status: Mapping[str, Any] | None) -> None:
        """Note that an endpoint's version moves, or that it no longer does."""
        assert self._moves is not None
        status, metadata = status or {}, endpoint["metadata"]
        move, known = move_of(status), self._moves.get(metadata["uid"])
        if not move.get("server"):
            self._moves.pop(metadata["uid"], None)
            return
        server, is_refused = str(move["server"]), move is status.get("refused")
        # What a user edits takes no turn of others, and is no fault of the configuration.
        is_edit = bool(move.get("isEdit"))
        if known is None or (known.server, known.is_refused) != (server, is_refused):
            takes_turn = not is_edit and not is_refused
            until = self._clock.monotonic() + (MOVE_SECONDS if takes_turn else 0.0)
            known = _Move(metadata["namespace"], server, until, is_refused)
        stalled = find_condition(status.get("conditions"), ConditionType.STALLED) or {}
        has_failed = bool(status.get("refused")) or stalled.get("reason") in MOVE_REASONS
        self._moves[metadata["uid"]] = replace(known, has_failed=has_failed and not is_edit)

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
            is_own = partial(_is_controlled_by, uid)
            answer = await create_owned(self._client, JOBS, manifest, is_own, noun="endpoint")
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

    def _is_refused(self, memory: _Memory) -> bool:
        return memory.refusal is not None and self._clock.monotonic() < memory.refused_until

    async def _apply(
        self, endpoint: Object, serving: ApplyServing, memory: _Memory, config: OperatorConfig
    ) -> float | None:
        """Create what the status needs; remember why it is not allowed or not accepted.

        Returns:
            Seconds until what is left is done, or until what exists is checked again; None after a
                refusal.
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
        return check_seconds(uid) if is_done else OWNERS_SECONDS

    async def _observe(self, endpoint: Object, memory: _Memory, config: OperatorConfig) -> Observed:
        namespace = endpoint["metadata"]["namespace"]
        uid = endpoint["metadata"]["uid"]
        self._validate(endpoint, memory)
        spec = memory.parsed.spec if memory.parsed is not None else None
        pods = self._endpoints.pods_in(namespace)
        reports = {key_of(pod): self._reports.of(pod) for pod in pods}
        deployments = self._endpoints.deployments_in(namespace)
        neighbours, num_older = self._neighbours(namespace, uid, config.max_endpoints)
        return Observed(
            endpoint=endpoint,
            parsed=memory.parsed,
            config=config,
            problem=memory.problem,
            fault=None if spec is None else find_fault(spec, config),
            job=None if spec is None else await self._read_job(namespace, spec),
            neighbours=tuple(neighbours),
            num_older=num_older,
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
                and not pod["metadata"].get("deletionTimestamp")
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
            min_look_interval=config.min_look_interval,
            refusal=memory.refusal,
            written_at=memory.written_at,
        )

    def _validate(self, endpoint: Object, memory: _Memory) -> None:
        generation = int(endpoint["metadata"].get("generation") or 0)
        if memory.generation != generation:
            parse = FineTuneEndpoint.from_stored
            memory.parsed, memory.problem = parse_stored(endpoint, parse, kind=ENDPOINT_KIND)
            memory.generation = generation

    def _neighbours(self, namespace: str, uid: str, most: int) -> tuple[list[Neighbour], int]:
        """Return the other endpoints that may serve or do, and how many of all are older."""
        found, num_older = [], 0
        everyone = self._endpoints.of_namespace(namespace)
        # A finalizer of a tenant keeps a deleted endpoint, and with it its servers.
        living = (
            each
            for each in everyone
            if not each["metadata"].get("deletionTimestamp") or servers_of(each)
        )
        for number, each in enumerate(sorted(living, key=age_of)):
            metadata = each["metadata"]
            if metadata["uid"] == uid:
                num_older = number
                continue
            version, neighbour = self._read.get(metadata["uid"], ("", None))
            if version != metadata["resourceVersion"]:
                neighbour = read_neighbour(each)
                self._read[metadata["uid"]] = (metadata["resourceVersion"], neighbour)
            if neighbour is not None and (number < most or neighbour.servers):
                found.append(neighbour)
        return found, num_older

    async def _read_job(self, namespace: str, spec: FineTuneEndpointSpec) -> Object | None:
        """Return the job with the wanted version, among jobs that publish under the name.

        A large job is read from the server.
        """
        jobs = self._jobs.by_index(BY_PUBLISHED_NAME, f"{namespace}/{spec.job_ref.name}")
        job = choose_job(jobs, spec.version)
        if job is None or is_whole(job) or not number_of(job):
            return job
        return await find_live(self._client, FINETUNEJOBS, key_of(job))


def _is_controlled_by(uid: str, live: Object) -> bool:
    owners = live["metadata"].get("ownerReferences") or ()
    return any(each.get("controller") and each.get("uid") == uid for each in owners)


def _look_key(uid: str) -> str:
    """Return the key of pauses after refused looks, beside those of servers."""
    return f"{uid}/look"


def _server_pod(pod: Object, report: FrontReport | ServerReport | None) -> ServerPod:
    return ServerPod(
        name=pod["metadata"]["name"],
        server=pod["deployment"],
        is_ready=pod["isReady"],
        node=pod["node"],
        report=report if isinstance(report, ServerReport) else None,
    )


def _workloads(deployments: list[Object], pods: list[Object]) -> dict[str, Workload]:
    of: dict[str, list[Object]] = {}
    for pod in pods:
        of.setdefault(pod["deployment"], []).append(pod)
    names = ((each["metadata"]["name"], each) for each in deployments)
    return {name: workload_of(each, of.get(name, ())) for name, each in names}
