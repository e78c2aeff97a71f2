"""Wires caches, queues, workers, elector and listeners; knows when the process is well.

Both replicas run everything that only reads, and the progress endpoint; only the leader runs the
workers. A standby's caches and queue are warm, so a fail-over takes the lease's time and no list.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Coroutine
from functools import partial
from operator import itemgetter
from typing import Any

from prometheus_client import CollectorRegistry

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.controller import Controller
from finetune_operator.controllers.finetuneendpoint import FineTuneEndpointReconciler
from finetune_operator.controllers.finetunejob import FineTuneJobReconciler
from finetune_operator.controllers.memory.caches import FINETUNEJOBS, Caches
from finetune_operator.controllers.memory.validated import SharedModels
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.integrations.kueue.places import QueuePlaces
from finetune_operator.integrations.kueue.workload import is_installed
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.leader import LeaderElector
from finetune_operator.kube.queue.workqueue import WorkQueue
from finetune_operator.kube.recorder import EventRecorder
from finetune_operator.kube.status import StatusThrottle
from finetune_operator.listeners import Listeners
from finetune_operator.loops import loop_of_schedules, loop_of_sweeps
from finetune_operator.metrics.endpoints import EndpointMetrics
from finetune_operator.metrics.jobs import JobMetrics
from finetune_operator.metrics.schedules import ScheduleMetrics
from finetune_operator.metrics.sweeps import SweepMetrics
from finetune_operator.probes import metrics_application, probes_application
from finetune_operator.progress.certificate import ServingCertificate
from finetune_operator.progress.endpoint import ProgressEndpoint
from finetune_operator.progress.identity import Authenticator
from finetune_operator.progress.writer import FIELD_MANAGER, ProgressWriter, is_wanted

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 60.0
"""Longest pause between tries of a job that fails: what is mended is noticed within a minute."""
STATUS_SECONDS = 2.0
"""How late a status that only tells how far a job is may be written: pods mostly start by then."""
PLACES_QPS, PLACES_BURST = 2.0, 5
"""Budget of looking up places in Kueue's queues."""


class Manager:
    """One replica of the operator. Event loop only; ``start`` once, ``stop`` once.

    Args:
        client: The API client, not fenced.
        config: The administrator's settings.
        identity: Unique name of this process: pod name and a random part.
        clock: Source of time.
        rng: Source of jitter.
    """

    def __init__(
        self,
        client: KubeClient,
        config: OperatorConfig,
        *,
        identity: str,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.config = config
        self.registry: CollectorRegistry = client.metrics.registry
        self._client = client
        self._clock = clock
        self._rng = rng
        self._identity = identity
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners = Listeners(config.bind_address)
        self.ports = self._listeners.ports
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._elector: LeaderElector | None = None
        self._election: asyncio.Task[None] | None = None
        self._controllers: tuple[Controller, ...] = ()
        self._is_started = False
        self._waiting_for = "starting"

    async def serve_probes(self) -> None:
        """Answer probes and scrapes: alive, not ready. Asks nothing of the API server."""
        probes = probes_application(
            is_healthy=lambda: self.is_healthy,
            hindrance=self._hindrance,
            state=lambda: "leading" if self.is_leader else "standing by",
        )
        listen, config = self._listeners.listen, self.config
        await listen("probes", probes, config.probe_port)
        await listen("metrics", metrics_application(self.registry), config.metrics_port)

    def wait_for(self, what: str) -> None:
        """Let ``/readyz`` tell what holds up the start."""
        self._waiting_for = what

    async def start(self) -> None:
        """Serve the endpoints, fill the caches, take part in the election."""
        if "probes" not in self.ports:
            await self.serve_probes()
        has_kueue = await self._has_kueue()
        self.caches = self._make_caches(has_kueue=has_kueue)
        self._recorder = EventRecorder(
            self._client, component="finetune-operator", instance=self._identity, clock=self._clock
        )
        self._spawn(self._recorder.run(), "events")
        self._take_progress()
        places = QueuePlaces(
            # What shows places must not keep a job waiting.
            self._client.budgeted(qps=PLACES_QPS, burst=PLACES_BURST),
            waiting=lambda: self.caches.waiting_queues() if self.is_leader else (),
            on_change=self.caches.wake_workload,
            clock=self._clock,
        )
        if has_kueue:
            self._spawn(places.run(), "queue-places")
        self._start_reconciler(places, has_lease=self.config.leader_election)
        self._count()
        for informer in self.caches.informers:
            self._spawn(informer.run(), f"informer-{informer.resource.plural}")
        await self._serve_progress()
        self._is_started = True

    async def _has_kueue(self) -> bool:
        wanted, namespaces = self.config.kueue, self.config.namespaces
        has_kueue = wanted == "on" or (
            wanted == "auto" and await is_installed(self._client, namespaces)
        )
        logger.info("Kueue is %s", "used" if has_kueue else "not used")
        return has_kueue

    def _make_caches(self, *, has_kueue: bool) -> Caches:
        return Caches(
            self._client,
            self.config,
            wake=lambda key, priority: self._finetunejobs.wake(key, priority),
            forget=self._forget,
            wake_sweep=lambda key, priority: self._sweeps.controller.wake(key, priority),
            forget_sweep=lambda sweep: self._sweeps.forget(sweep),
            wake_endpoint=lambda key, priority: self._finetuneendpoints.wake(key, priority),
            forget_endpoint=self._forget_endpoint,
            wake_schedule=lambda key, priority: self._schedules.controller.wake(key, priority),
            forget_schedule=lambda schedule: self._schedules.forget(schedule),
            has_kueue=has_kueue,
            rng=self._rng,
        )

    def _take_progress(self) -> None:
        """Write what pods report into statuses."""
        config = self.config
        # What pods cause takes no tokens from reconciling: a half as much again.
        self._pushing = self._client.budgeted(
            qps=config.requests_per_second / 2, burst=max(1, config.request_burst // 2)
        )
        throttle = StatusThrottle(
            self._pushing,
            FINETUNEJOBS,
            field_manager=FIELD_MANAGER,
            interval_seconds=config.progress_interval_seconds,
            rng=self._rng,
            absorb=self.caches.finetunejobs.absorb,
            on_refused=lambda job, error: self._reconciler.guard.tell_refused(job, error),
            is_wanted=partial(is_wanted, self.caches),
        )
        self._writer = ProgressWriter(
            self.caches,
            throttle,
            clock=self._clock,
            announce=lambda job, events: self._reconciler.guard.announce(job, events),
        )
        self.caches.finetunejobs.add_handler(self._writer.follow)
        self._spawn(throttle.run(), "progress")

    def _count(self) -> None:
        """Have scrapes count jobs, sweeps, endpoints and schedules."""
        JobMetrics(
            self.caches,
            self.registry,
            clock=self._clock,
            is_leader=lambda: self.is_leader,
            expects_progress=bool(self.config.progress_url),
        )
        SweepMetrics(self.caches.sweeps, self.registry)
        EndpointMetrics(self.caches.endpoints.store, self.registry, clock=self._clock)
        schedules, jobs = self.caches.schedules.store, self.caches.finetunejobs
        ScheduleMetrics(schedules, jobs, self.registry, clock=self._clock)

    def observe(self, kind: str | None, body: Object) -> None:
        """Take in one of kopf's events of a FineTuneJob."""
        self.caches.observe(kind, body)

    async def wait_fatal(self) -> None:
        """Wait until this process cannot go on; raises why."""
        await asyncio.shield(self._fatal)

    async def stop(self) -> None:
        """Stop working, give the lease back, send the last Events, close the endpoints."""
        if self._election is not None:
            self._election.cancel()
            await asyncio.gather(self._election, return_exceptions=True)
        if self._is_started:
            for controller in self._controllers:
                controller.queue.shut_down()
            await self._recorder.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listeners.close()
        if not self._fatal.done():
            self._fatal.cancel()
        elif not self._fatal.cancelled():
            self._fatal.exception()  # told already; asyncio need not complain that nobody asked

    @property
    def is_leader(self) -> bool:
        """Whether this replica reconciles now."""
        return self._elector.is_leader if self._elector is not None else self._is_started

    @property
    def is_ready(self) -> bool:
        """Whether the caches are complete: a standby is ready too, or it could not take over."""
        return self._is_started and self.caches.is_synced

    @property
    def is_healthy(self) -> bool:
        """Whether every background task still runs."""
        return not self._fatal.done() and all(not task.done() for task in self._tasks)

    def _start_reconciler(self, places: QueuePlaces, *, has_lease: bool) -> None:
        config, client = self.config, self._client
        if has_lease:
            self._elector = LeaderElector(
                # The Lease waits for nobody: a budget that it cannot use up.
                client.budgeted(qps=10.0, burst=20),
                namespace=config.leader_election_namespace or "default",
                name=config.leader_election_name,
                identity=self._identity,
                clock=self._clock,
                lease_duration_seconds=config.lease_duration_seconds,
                renew_deadline_seconds=config.renew_deadline_seconds,
                retry_period_seconds=config.retry_period_seconds,
                rng=self._rng,
            )
            client = client.fenced(self._elector.fence)
        queue = self._new_queue("finetunejob", self.caches.finetunejobs)
        self._models = SharedModels()
        self._reconciler = FineTuneJobReconciler(
            client,
            self.caches,
            config,
            clock=self._clock,
            recorder=self._recorder,
            queue=queue,
            places=places,
            models=self._models,
            status_seconds=STATUS_SECONDS,
        )
        self._finetunejobs = Controller(
            self.caches.feed,
            owns=self.caches.owned,
            reads=[self.caches.approvals.informer],
            queue=queue,
            reconcile=self._reconciler.reconcile,
        )
        shared: dict[str, Any] = {
            "clock": self._clock,
            "recorder": self._recorder,
            "new_queue": self._new_queue,
        }
        models = self._models
        self._sweeps = loop_of_sweeps(client, self.caches, config, models=models, **shared)
        self._schedules = loop_of_schedules(client, self.caches, config, **shared)
        self._start_endpoints(client)
        self._controllers = (
            self._finetunejobs,
            self._sweeps.controller,
            self._finetuneendpoints,
            self._schedules.controller,
        )
        self._election = asyncio.create_task(self._elect(), name="election")
        self._election.add_done_callback(self._on_end)

    def _start_endpoints(self, client: KubeClient) -> None:
        endpoints = self.caches.endpoints
        self._reports = endpoints.new_reports(clock=self._clock, rng=self._rng)
        self._endpoint_reconciler = FineTuneEndpointReconciler(
            client,
            endpoints,
            self._reports,
            self.caches.finetunejobs,
            self.config,
            clock=self._clock,
            recorder=self._recorder,
        )
        self._finetuneendpoints = Controller(
            endpoints.informer,
            owns=[],
            reads=[self.caches.feed, *endpoints.informers[1:]],
            queue=self._new_queue("finetuneendpoint", endpoints.store),
            reconcile=self._endpoint_reconciler.reconcile,
        )

    def _new_queue(self, name: str, objects: Store) -> WorkQueue[ObjectKey]:
        return WorkQueue(
            name,
            rng=self._rng,
            tenant_of=itemgetter(0),  # the namespace
            is_heavy=partial(_has_excerpt, objects),
            metrics=self._client.metrics,
            max_delay_seconds=MAX_BACKOFF_SECONDS,
        )

    async def _elect(self) -> None:
        if self._elector is None:
            await self._lead()
        else:
            await self._elector.run(self._lead)

    async def _lead(self) -> None:
        """Reconcile all kinds for as long as this replica leads."""
        async with asyncio.TaskGroup() as loops:
            for each in self._controllers:
                work = each.run(num_workers=self.config.num_workers, metrics=self._client.metrics)
                loops.create_task(work, name=f"controller-{each.kind.plural}")
            loops.create_task(self._reports.run(), name="serving-reports")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A task of ours must not end by itself: exit, and let the standby take over."""
        if task.cancelled() or self._fatal.done():
            return
        error = task.exception() or RuntimeError(f"task {task.get_name()} ended")
        logger.error("%s ended: %s", task.get_name(), error)
        self._fatal.set_exception(error)

    def _forget(self, job: Object) -> None:
        self._finetunejobs.queue.forget(key_of(job))
        self._reconciler.forget(job)
        self._writer.forget(job)

    def _forget_endpoint(self, endpoint: Object) -> None:
        self._finetuneendpoints.queue.forget(key_of(endpoint))
        self._endpoint_reconciler.forget(endpoint)

    async def _serve_progress(self) -> None:
        config = self.config
        endpoint = ProgressEndpoint(
            self.caches,
            Authenticator(self._pushing, clock=self._clock),
            self._writer,
            clock=self._clock,
            registry=self.registry,
        )
        tls: ssl.SSLContext | None = None
        if config.progress_tls_certificate:
            certificate = ServingCertificate(
                config.progress_tls_certificate, config.progress_tls_key, registry=self.registry
            )
            self._spawn(certificate.run(), "certificate")
            tls = certificate.context
        await self._listeners.listen_to_anybody(
            "progress", endpoint.application(), config.progress_port, tls
        )

    def _hindrance(self) -> str:
        """Return why this replica is not ready; empty if it is."""
        if not self._is_started:
            return self._waiting_for
        informers = self.caches.informers
        unsynced = [each.resource.plural for each in informers if not each.synced.is_set()]
        told = f"waiting for the first complete list of {', '.join(unsynced)}"
        return told if unsynced else ""


def _has_excerpt(store: Store, key: ObjectKey) -> bool:
    """Whether the spec of an object is too large to be kept whole."""
    obj = store.get(*key)
    return obj is not None and not is_whole(obj)
