"""``reconcile(key)`` of FineTuneSchedules: caches to snapshot, plan, status, jobs.

A cycle is in the status before its FineTuneJob is created. A stop between both is harmless: the
name of the job is in the status, and a second creation finds it taken by the first.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune_api.meta import SCHEDULE_KIND
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetuneschedule import FineTuneSchedule
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.guarding import Guard
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.schedules import (
    BY_NAMESPACE_OF_SCHEDULE,
    FINETUNESCHEDULES,
    Schedules,
)
from finetune_operator.controllers.memory.validated import parse_stored
from finetune_operator.controllers.parents import find_live
from finetune_operator.controllers.refusals import NameTaken, Refusals, create_owned
from finetune_operator.finetunejob.state.gpu_time import HOUR_SECONDS, gpu_time_of_job
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetuneschedule.draft import OWNED_FIELDS, STATUS
from finetune_operator.finetuneschedule.observed import Observed, schedule_owner
from finetune_operator.finetuneschedule.plan import plan
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Conflict, KubeError, NotFound
from finetune_operator.kube.api.resource import Object, ObjectKey
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Result
from finetune_operator.kube.recorder import EventRecorder

logger = logging.getLogger(__name__)

MAX_DELETIONS = 20
"""FineTuneJobs that are deleted in one look."""
MAX_LOOKS = 3
"""Plans per reconcile: a cycle ends, the next one begins, and its job is noted."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of a schedule between two looks; losing it only costs requests.

    Attributes:
        generation: Generation of the spec in ``parsed`` and ``problem``.
        refusal: Cause for which the API server did not take the job.
        refused_until: Monotonic time of the next try.
        gpu_hours: GPU hours of the job of this name, as last seen.
    """

    generation: int = -1
    parsed: FineTuneSchedule | None = None
    problem: str = ""
    refusal: Refusal | None = None
    refused_until: float = 0.0
    gpu_hours: tuple[str, Decimal] = ("", Decimal(0))


class FineTuneScheduleReconciler:
    """Reconciles one FineTuneSchedule at a time. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        schedules: The cache of schedules.
        jobs: The cache of FineTuneJobs; takes the answers, so that the next plan sees them.
        config: The administrator's settings.
    """

    def __init__(
        self,
        client: KubeClient,
        schedules: Schedules,
        jobs: Store,
        config: OperatorConfig,
        *,
        clock: Clock,
        recorder: EventRecorder,
    ) -> None:
        self._client = client
        self._schedules = schedules
        self._store = schedules.store
        self._jobs = jobs
        self._config = config
        self._clock = clock
        self._guard = Guard(
            resource=FINETUNESCHEDULES,
            noun="schedule",
            meanwhile="Jobs that exist go on meanwhile.",
            schema=STATUS,
            owned=OWNED_FIELDS,
            client=client,
            clock=clock,
            recorder=recorder,
            logger=logger,
        )
        self._refusals = Refusals(clock)
        self._memories: dict[str, _Memory] = {}

    def forget(self, schedule: Object) -> None:
        """Drop the memory of a FineTuneSchedule that is gone."""
        uid = schedule["metadata"]["uid"]
        self._memories.pop(uid, None)
        self._refusals.forget(uid)
        self._guard.forget(uid)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Look at one FineTuneSchedule and do what its plan says."""
        return await self._guard.reconcile(self._store, key, self._reconcile)

    async def _reconcile(self, key: ObjectKey, schedule: Object) -> Result:
        memory = self._memories.setdefault(schedule["metadata"]["uid"], _Memory())
        wait: float | None = None
        for _ in range(MAX_LOOKS):
            schedule = self._guard.as_planned(self._store.get(*key) or schedule)
            observed = await self._observe(schedule, memory)
            step = plan(observed, self._clock.now())
            answer = await self._guard.write_status(schedule, step.status, step.conditions)
            if answer is not None:
                self._store.absorb(answer)
            self._guard.announce(schedule, step.events)
            wait = step.requeue_after
            if self._guard.is_written(observed.uid):
                await self._delete(step.delete)
            if step.create is None or not self._guard.is_written(observed.uid):
                break
            if memory.refusal is not None and self._clock.monotonic() < memory.refused_until:
                wait = memory.refused_until - self._clock.monotonic()
                break
            await self._create(observed, step.create, memory)
        return Done() if wait is None else RequeueAfter(max(wait, 0.05))

    async def _delete(self, jobs: Sequence[Object]) -> None:
        """Delete jobs that are no longer kept; a change of the cache brings the next ones."""
        for job in jobs[:MAX_DELETIONS]:
            metadata = job["metadata"]
            key = (metadata["namespace"], metadata["name"])
            with contextlib.suppress(NotFound, Conflict):
                await self._client.delete(FINETUNEJOBS, *key, uid=metadata["uid"])

    async def _create(self, observed: Observed, job: Object, memory: _Memory) -> None:
        """Create the job of a cycle, or find that an earlier attempt did."""
        try:
            # A server whose FineTuneJobs lack publishAs would publish under another name.
            answer = await create_owned(
                *(self._client, FINETUNEJOBS, job),
                lambda live: schedule_owner(live).get("uid") == observed.uid,
                noun="schedule",
                strict=True,
            )
        except (KubeError, NameTaken) as error:
            # The job as its first stage needs it.
            refusal = self._refusals.explain(observed.uid, Stage.PREPARE, error)
            if refusal is None:
                raise
            memory.refusal = refusal
            memory.refused_until = self._clock.monotonic() + refusal.retry_seconds
            return
        self._refusals.forget(observed.uid)
        memory.refusal = None
        self._jobs.absorb(answer)

    async def _observe(self, schedule: Object, memory: _Memory) -> Observed:
        metadata = schedule["metadata"]
        generation = int(metadata.get("generation") or 0)
        if memory.generation != generation:
            parse = FineTuneSchedule.from_stored
            memory.parsed, memory.problem = parse_stored(schedule, parse, kind=SCHEDULE_KIND)
            memory.generation = generation
        active = (schedule.get("status") or {}).get("active") or {}
        job, is_gone = await self._find_job(schedule, active)
        if job is not None:
            hours = Decimal(gpu_time_of_job(job).until(self._clock.now())) / HOUR_SECONDS
            memory.gpu_hours = (active["job"], hours.quantize(Decimal("0.0001")))
        name, hours = memory.gpu_hours
        jobs = self._jobs.by_index(BY_NAMESPACE_OF_SCHEDULE, metadata["namespace"])
        return Observed(
            schedule=schedule,
            parsed=memory.parsed,
            problem=memory.problem,
            endpoint=self._endpoint_of(schedule),
            job=job,
            is_job_gone=is_gone,
            gpu_hours=hours if name == active.get("job") else Decimal(0),
            refusal=memory.refusal if active and job is None else None,
            jobs=tuple(each for each in jobs if schedule_owner(each)["uid"] == metadata["uid"]),
            num_jobs=len(jobs),
            num_older=self._schedules.num_older(schedule),
            settings=self._config.for_namespace(metadata["namespace"]),
        )

    def _endpoint_of(self, schedule: Object) -> Object | None:
        name = ((schedule.get("spec") or {}).get("endpointRef") or {}).get("name")
        namespace = schedule["metadata"]["namespace"]
        found = self._schedules.endpoints.get(namespace, name) if name else None
        return None if found is None or found["metadata"].get("deletionTimestamp") else found

    async def _find_job(self, schedule: Object, active: Object) -> tuple[Object | None, bool]:
        """Return the job of the cycle under way, and whether a live read says that it is gone."""
        if not active:
            return None, False
        uid = schedule["metadata"]["uid"]
        key = (schedule["metadata"]["namespace"], str(active["job"]))
        job = self._jobs.get(*key)
        if job is None and active.get("jobUid"):
            job = await find_live(self._client, FINETUNEJOBS, key)
        if job is None or schedule_owner(job).get("uid") != uid:
            return None, bool(active.get("jobUid"))
        is_other = active.get("jobUid") not in (None, job["metadata"]["uid"])
        return (None, True) if is_other else (job, False)
