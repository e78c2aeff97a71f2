"""``reconcile(key)``: caches to snapshot, plan, requests, one status write.

The input is a key, never an event. A stop between any two requests is harmless: names are fixed,
creations can be repeated, and the status is derived.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.spec.dataset import TRAFFIC
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.changes import RefusedChanges, change_of
from finetune_operator.controllers.children import Children
from finetune_operator.controllers.controller import UNREAD_SECONDS
from finetune_operator.controllers.guarding import Guard
from finetune_operator.controllers.memory.caches import FINETUNEJOBS, Caches
from finetune_operator.controllers.memory.validated import SharedModels, ValidatedJobs
from finetune_operator.controllers.parents import read_parent
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import (
    ConfirmMissing,
    CreateStage,
    LookUpWarnings,
    Plan,
    RelabelJob,
    RestoreNeeds,
    Write,
)
from finetune_operator.finetunejob.state.decisions import read_decisions
from finetune_operator.finetunejob.state.draft import OWNED_FIELDS, STATUS, tells_only_how_far
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.trimmed import TrimmedPod, newest_runs, owner_uid
from finetune_operator.finetunejob.state.waiting import is_at_rest
from finetune_operator.integrations.kueue.places import QueuePlaces
from finetune_operator.integrations.kueue.state import QueueState, queue_state
from finetune_operator.integrations.kueue.trimmed import TrimmedWorkload
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Conflict, KubeError
from finetune_operator.kube.api.resource import Object, ObjectKey
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Result
from finetune_operator.kube.queue.workqueue import PRIORITY_CHILD, WorkQueue
from finetune_operator.kube.ratelimit import WriteDelay
from finetune_operator.kube.recorder import EventRecorder
from finetune_operator.status.conditions import is_terminal
from finetune_operator.status.fitting import FittedStatus

logger = logging.getLogger(__name__)

_A = TypeVar("_A")
_B = TypeVar("_B")

BACKLOG = 32
"""With more keys waiting than this, the first status of a new job is written later."""
MAX_ROUNDS = 8
"""Plans per reconcile; each round but the last changed the snapshot."""


class FineTuneJobReconciler:
    """Reconciles one FineTuneJob at a time. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        queue: Queue of keys; takes back keys whose status can wait.
        places: Places in Kueue's queues; None without Kueue.
        models: Parts of validated specs that others keep as well.
        status_seconds: How late a status that only tells how far a job is may be written.
    """

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        config: OperatorConfig,
        *,
        clock: Clock,
        recorder: EventRecorder,
        queue: WorkQueue[ObjectKey],
        places: QueuePlaces | None = None,
        models: SharedModels | None = None,
        status_seconds: float = 0.0,
    ) -> None:
        self._client = client
        self._caches = caches
        self._config = config
        self._clock = clock
        self.guard = Guard(
            resource=FINETUNEJOBS,
            noun="job",
            meanwhile="Running pods go on meanwhile.",
            schema=STATUS,
            owned=OWNED_FIELDS,
            client=client,
            clock=clock,
            recorder=recorder,
            logger=logger,
        )
        self._queue = queue
        self._places = places
        self._children = Children(client, caches, clock=clock)
        self._changes = RefusedChanges(clock)
        self._validated = ValidatedJobs(models or SharedModels())
        self._settings: dict[str, OperatorConfig] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._write_delay = WriteDelay(clock, status_seconds)

    def forget(self, job: Object) -> None:
        """Drop the memory of a FineTuneJob that is gone."""
        self._forget_ended(job["metadata"]["uid"])
        self.guard.forget(job["metadata"]["uid"])

    def _forget_ended(self, uid: str) -> None:
        self._validated.forget(uid)
        self._ledgers.pop(uid, None)
        self._write_delay.forget(uid)
        self._children.forget(uid)
        self._changes.forget(uid)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Look at one FineTuneJob and do what its plan says."""
        return await self.guard.reconcile(self._caches.finetunejobs, key, self._reconcile)

    async def _reconcile(self, key: ObjectKey, job: Object) -> Result:
        observed = self._observe(key, await self._with_spec(key, job))
        if self._caches.hides_workloads(key[0]) and observed.is_in_a_queue:
            # Kueue does not know of Jobs that are stopped or started outside it.
            return RequeueAfter(UNREAD_SECONDS)
        config = self._config_of(key[0])
        step = plan(observed, self._clock.now(), config)
        for _ in range(MAX_ROUNDS):
            if not step.first:
                break
            observed = await self._carry_out(key, observed, step)
            if self._may_wait(observed, step):
                self._queue.add(key, priority=PRIORITY_CHILD)
                return Done()
            step = plan(observed, self._clock.now(), config)
        wait = self._seconds_to_wait(observed, step)
        if wait > 0:
            return RequeueAfter(wait)
        await self._write_status(observed.job, step.status)
        self.guard.announce(observed.job, step.events)
        await self._change_all(observed, step.then)
        status = step.status or observed.job.get("status")
        if is_terminal(status) and not observed.refusals:
            # A publication that was decided on after the end may be refused repeatedly.
            self._forget_ended(observed.uid)
        elif is_at_rest(status):
            # Thousands of trials may wait for the choice, each for longer than it has trained.
            self._validated.forget(observed.uid)
        if step.requeue_after is not None:
            return RequeueAfter(step.requeue_after)
        return Done()

    def _seconds_to_wait(self, observed: Observed, step: Plan) -> float:
        """Return for how long the status waits for what follows it; 0 or less if it is due.

        A status that follows a refused one does not wait: the guard decides when it is written.
        """
        is_written = self.guard.is_written(observed.uid)
        if not (is_written and _may_wait_for_more(observed, step)):
            self._write_delay.forget(observed.uid)
            return 0.0
        left = self._write_delay.seconds_left(observed.uid)
        is_due = step.requeue_after is not None and step.requeue_after < left
        return 0.0 if is_due else left

    def _config_of(self, namespace: str) -> OperatorConfig:
        settings = self._settings.get(namespace)
        if settings is None:
            settings = self._settings[namespace] = self._config.for_namespace(namespace)
        return settings

    def _may_wait(self, observed: Observed, step: Plan) -> bool:
        """Return whether others go first: this job has its first Job, and many have none.

        A thousand new jobs need their Jobs first. Later changes go into the same status write.
        """
        is_first = any(
            isinstance(action, CreateStage) and action.stage is Stage.PREPARE
            for action in step.first
        )
        return is_first and Stage.PREPARE in observed.jobs and len(self._queue) > BACKLOG

    def _observe(self, key: ObjectKey, job: Object) -> Observed:
        """Take a snapshot; children of an earlier object of that name are not ours."""
        job = self.guard.as_planned(job)
        uid = job["metadata"]["uid"]
        parsed, problem = self._validated.of(job)
        jobs = newest_runs(each for each in self._caches.jobs_of(key) if owner_uid(each) == uid)
        stage_of_uid = {child["metadata"]["uid"]: stage for stage, child in jobs.items()}
        pods: dict[Stage, list[TrimmedPod]] = {}
        for pod in self._caches.pods_of(key):
            stage = stage_of_uid.get(owner_uid(pod))
            if stage is not None:
                pods.setdefault(stage, []).append(pod)
        has_kueue = self._caches.has_kueue_in(key[0])
        queue: dict[Stage, QueueState] = {}
        if has_kueue:
            for job_uid, stage in stage_of_uid.items():
                workload = self._caches.workload_of(job_uid)
                if workload is not None:
                    queue[stage] = self._queue_state(workload)
        approvals = self._caches.approvals.of(key)
        return Observed(
            job=job,
            parsed=parsed,
            problem=problem,
            jobs=jobs,
            pods={stage: tuple(found) for stage, found in pods.items()},
            queue=queue,
            ledger=self._count(job, [pod for found in pods.values() for pod in found]),
            decisions=None if approvals is None else read_decisions(approvals),
            endpoints=self._named_endpoints(key[0], parsed),
            has_kueue=has_kueue,
            refused_change=self._changes.told(uid),
        )

    def _named_endpoints(
        self, namespace: str, parsed: FineTuneJob | None
    ) -> dict[str, Object] | None:
        """Return the endpoints of the job's namespace that its sources name."""
        sources = parsed.spec.dataset.sources if parsed is not None else ()
        names = {each.uri.removeprefix(TRAFFIC) for each in sources if each.is_traffic}
        endpoints = self._caches.endpoints
        if names and not endpoints.informer.scopes.serves(namespace):
            return None
        found = {name: endpoints.store.get(namespace, name) for name in names}
        return {name: each for name, each in found.items() if each is not None}

    def _queue_state(self, workload: TrimmedWorkload) -> QueueState:
        state = queue_state(workload)
        if self._places is None:
            return state
        place = self._places.of(workload["metadata"]["namespace"], state.queue, state.workload)
        return replace(state, place=place)

    def _count(self, job: Object, pods: list[TrimmedPod]) -> Ledger:
        uid = job["metadata"]["uid"]
        status = job.get("status") or {}
        ledger = self._ledgers.get(uid)
        if ledger is None:
            ledger = Ledger.resume(status.get("attempts"), pods, status.get("stages"))
        else:
            ledger = ledger.seen(pods)
        ledger = ledger.reached(status.get("progress"))
        self._ledgers[uid] = ledger
        return ledger

    async def _carry_out(self, key: ObjectKey, observed: Observed, step: Plan) -> Observed:
        for action in step.first:
            match action:
                case CreateStage():
                    return await self._create(key, observed, action)
                case ConfirmMissing():
                    observed = await self._children.confirm_missing(observed, action)
                case RestoreNeeds():
                    observed = await self._children.restore_needs(observed, action)
                case LookUpWarnings():
                    observed = await self._children.look_up_warnings(observed, action)
        return observed

    async def _create(self, key: ObjectKey, observed: Observed, action: CreateStage) -> Observed:
        """Create a stage's Job, after a live read of the parent.

        The cached job may be finished, suspended or deleted by now. The children of the Job are
        created meanwhile, which is harmless. The first stage needs no live read: it has no GPUs,
        its name is taken if it ever ran, and without its owner it is collected.
        """
        if action.stage is Stage.PREPARE:
            created = await self._children.create_needs(observed, action)
            return await self._children.create_job(created, action)
        live, created = await _both(
            self._read_parent(key, observed.uid),
            self._children.create_needs(observed, action),
        )
        if live["metadata"]["resourceVersion"] != observed.job["metadata"]["resourceVersion"]:
            with self._caches.quiet():
                self._caches.finetunejobs.absorb(live)
            return replace(self._observe(key, live), refusals=created.refusals)
        return await self._children.create_job(created, action)

    async def _with_spec(self, key: ObjectKey, job: Object) -> Object:
        """Return a FineTuneJob with its spec; a large one is read from the server."""
        if is_whole(job) or self._validated.has(job):
            return job
        live = await self._read_parent(key, job["metadata"]["uid"])
        with self._caches.quiet():
            self._caches.finetunejobs.absorb(live)
        return live

    async def _read_parent(self, key: ObjectKey, uid: str) -> Object:
        return await read_parent(self._client, FINETUNEJOBS, key, uid)

    async def _change_all(self, observed: Observed, actions: Iterable[Write]) -> None:
        """Perform all actions after the status; a refused one does not stop the others.

        Raises:
            KubeError: The error of the first refused action.
        """
        first: KubeError | None = None
        for action in actions:
            try:
                await self._change(observed, action)
            except KubeError as error:
                first = first or error
        if first is not None:
            raise first
        self._changes.forget(observed.uid)

    async def _change(self, observed: Observed, action: Write) -> None:
        """Perform an action after the status, and report its outcome."""
        try:
            is_done = await self._children.perform(observed, action)
        except KubeError as error:
            told = self._changes.note(observed.uid, change_of(action), error)
            self.guard.announce(observed.job, told)
            raise
        if is_done and isinstance(action, RelabelJob):
            self.guard.announce(observed.job, (action.event,))

    async def _write_status(self, job: Object, status: FittedStatus | None) -> None:
        """Write the operator's part of the status over the version that was planned.

        Raises:
            Conflict: The object was changed in between; plan again.
        """
        metadata = job["metadata"]
        try:
            answer = await self.guard.write_status(job, status)
        except Conflict:
            await self._refresh(metadata)
            raise
        if answer is not None:
            self._write_delay.forget(metadata["uid"])
            with self._caches.quiet():
                self._caches.finetunejobs.absorb(answer)

    async def _refresh(self, metadata: Object) -> None:
        """After a conflict, read the new version without waiting for the watch."""
        live = await self._read_parent((metadata["namespace"], metadata["name"]), metadata["uid"])
        self._caches.finetunejobs.absorb(live)


def _may_wait_for_more(observed: Observed, step: Plan) -> bool:
    """Return whether a status may go into one write with what follows it."""
    if step.status is None or step.events or step.then or observed.refusals:
        return False
    return tells_only_how_far(observed.job.get("status") or {}, step.status)


async def _both(first: Coroutine[Any, Any, _A], second: Coroutine[Any, Any, _B]) -> tuple[_A, _B]:
    """Await two requests side by side; both have ended when the first error is raised."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    for outcome in (one, two):
        if isinstance(outcome, BaseException):
            raise outcome
    return one, two
