"""The caches of both replicas, and the keys that a change wakes.

kopf feeds the FineTuneJobs; informers watch their children, because pods are many and need correct
deletes and indexes. The caches only read, so a standby keeps them warm.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from typing import Any, cast

from finetune_api.meta import GROUP, KIND, PLURAL, VERSION
from finetune_api.names import JOB_LABEL
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.controller import Owned
from finetune_operator.controllers.memory.approvals import Approvals, Wake
from finetune_operator.controllers.memory.endpoints import (
    BY_PUBLISHED_NAME,
    Endpoints,
    index_by_published_name,
)
from finetune_operator.controllers.memory.quiet import WakeupSuppression
from finetune_operator.controllers.memory.schedules import (
    BY_NAMESPACE_OF_SCHEDULE,
    Schedules,
    index_by_schedule,
)
from finetune_operator.controllers.memory.sweeps import BY_SWEEP, Sweeps, index_by_sweep
from finetune_operator.finetunejob.state.excerpts import excerpt_of, is_large
from finetune_operator.finetunejob.state.observed import trim_finetunejob
from finetune_operator.finetunejob.state.trimmed import TrimmedChild, TrimmedJob, TrimmedPod
from finetune_operator.finetunejob.state.trimming import is_changed, trim_job, trim_pod
from finetune_operator.integrations.kueue.trimmed import TrimmedWorkload
from finetune_operator.integrations.kueue.workload import (
    BY_JOB_UID,
    JOB_UID_LABEL,
    MINIMUM_KUEUE,
    WORKLOADS,
    index_by_job_uid,
    is_waiting,
    trim_workload,
)
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import JOBS, PODS, Object, ObjectKey, Resource, key_of
from finetune_operator.kube.cache.feed import Feed
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.scopes import name_scope
from finetune_operator.kube.cache.sharing import SharedParts, share_texts
from finetune_operator.kube.cache.store import EventType
from finetune_operator.kube.queue.workqueue import PRIORITY_RESYNC, PRIORITY_USER

logger = logging.getLogger(__name__)

FINETUNEJOBS = Resource(group=GROUP, version=VERSION, plural=PLURAL, kind=KIND)
BY_FINETUNEJOB = "finetunejob"
REST_SECONDS = 0.05
"""How late changes of children may be seen: they are gathered anyway before a reconcile."""
KUEUE_PATIENCE_SECONDS = 15.0
"""Jobs without a queue wait so long for a first list of Workloads that fails."""


def key_of_owner(child: TrimmedChild) -> ObjectKey | None:
    """Return the key of the FineTuneJob that a labelled child belongs to."""
    metadata = child["metadata"]
    name = metadata["labels"].get(JOB_LABEL)
    return (metadata["namespace"], name) if name else None


def _index_by_finetunejob(child: TrimmedChild) -> Iterable[str]:
    key = key_of_owner(child)
    return () if key is None else ("/".join(key),)


def _wake_none(key: ObjectKey, priority: int) -> None:
    """Leave the objects of a kind to somebody else."""


def _forget_none(obj: Object) -> None:
    """Remember nothing of a kind."""


def _watch_children(
    client: KubeClient, resource: Resource, trim: Callable[[Object], Any], **scope: Any
) -> Informer:
    return Informer(
        client,
        resource,
        transform=lambda child: share_texts(trim(child)),
        label_selector=JOB_LABEL,
        indexers={BY_FINETUNEJOB: _index_by_finetunejob},
        rest_seconds=REST_SECONDS,
        **scope,
    )


class Caches:
    """All kinds that are watched: FineTuneJobs and what decides on them. Event loop only.

    Args:
        client: The API client; only reads.
        wake: Called with a FineTuneJob to reconcile for another cause than its children.
        forget: Called with FineTuneJobs that are gone.
        wake_sweep: Called with a FineTuneSweep to reconcile for another cause than its trials.
        forget_sweep: Called with FineTuneSweeps that are gone.
        wake_endpoint: Called with a FineTuneEndpoint to reconcile, for whatever cause.
        forget_endpoint: Called with FineTuneEndpoints that are gone.
        wake_schedule: Called with a FineTuneSchedule to reconcile for another cause than its jobs.
        forget_schedule: Called with FineTuneSchedules that are gone.
        has_kueue: Whether to watch Workloads, if the cluster has them.
    """

    def __init__(
        self,
        client: KubeClient,
        config: OperatorConfig,
        *,
        wake: Wake,
        forget: Callable[[Object], None],
        wake_sweep: Wake = _wake_none,
        forget_sweep: Callable[[Object], None] = _forget_none,
        wake_endpoint: Wake = _wake_none,
        forget_endpoint: Callable[[Object], None] = _forget_none,
        wake_schedule: Wake = _wake_none,
        forget_schedule: Callable[[Object], None] = _forget_none,
        has_kueue: bool,
        rng: random.Random,
    ) -> None:
        scope: dict[str, Any] = {"namespaces": config.namespaces, "rng": rng}
        self._wake = wake
        self._forget = forget
        self.quiet = WakeupSuppression()
        self._is_listing = False
        self._shared = SharedParts()
        self.feed = Feed(
            client,
            FINETUNEJOBS,
            transform=self._keep_finetunejob,
            indexers={
                BY_SWEEP: index_by_sweep,
                BY_PUBLISHED_NAME: index_by_published_name,
                BY_NAMESPACE_OF_SCHEDULE: index_by_schedule,
            },
            repair_seconds=config.resync_seconds,
            **scope,
        )
        self.jobs_informer = _watch_children(client, JOBS, trim_job, **scope)
        self.pods_informer = _watch_children(client, PODS, trim_pod, **scope)
        self.approvals = Approvals(
            client, self.feed.store, wake=wake, namespaces=config.namespaces, rng=rng
        )
        self.sweeps = Sweeps(
            client, self.feed, wake=wake_sweep, forget=forget_sweep, shared=self._shared, **scope
        )
        self.endpoints = Endpoints(
            client, self.feed.store, wake=wake_endpoint, forget=forget_endpoint, **scope
        )
        self.schedules = Schedules(
            client,
            self.feed,
            self.endpoints.store,
            wake=wake_schedule,
            forget=forget_schedule,
            **scope,
        )
        self.finetunejobs = self.feed.store
        self.jobs = self.jobs_informer.store
        self.pods = self.pods_informer.store
        self.finetunejobs.add_handler(self._on_finetunejob)
        self._workloads_informer = self._watch_workloads(client, **scope) if has_kueue else None

    def _watch_workloads(self, client: KubeClient, **scope: Any) -> Informer:
        return Informer(
            client,
            WORKLOADS,
            label_selector=JOB_UID_LABEL,
            transform=lambda workload: share_texts(trim_workload(workload)),
            indexers={BY_JOB_UID: index_by_job_uid},
            on_served=self._on_kueue,
            patience_seconds=KUEUE_PATIENCE_SECONDS,
            rest_seconds=REST_SECONDS,
            **scope,
        )

    @property
    def informers(self) -> list[Feed | Informer]:
        """Everything that has to run."""
        found: list[Feed | Informer] = [
            self.feed,
            self.jobs_informer,
            self.pods_informer,
            self.approvals.informer,
            self.sweeps.informer,
            *self.endpoints.informers,
            self.schedules.informer,
        ]
        if self._workloads_informer is not None:
            found.append(self._workloads_informer)
        return found

    @property
    def owned(self) -> list[Owned]:
        """What belongs to FineTuneJobs, and which of its changes matter to them."""
        child: dict[str, Any] = {"owner_of": key_of_owner, "is_news": self._is_news_of_child}
        found = [Owned(cache=each, **child) for each in (self.jobs_informer, self.pods_informer)]
        if self._workloads_informer is not None:
            workloads = Owned(
                cache=self._workloads_informer,
                owner_of=self._key_of_workload,
                is_news=self._is_news_of_workload,
                is_needed=False,
            )
            found.append(workloads)
        return found

    @property
    def workloads_informer(self) -> Informer | None:
        """What watches Workloads; None without Kueue, also while the cluster lacks it."""
        informer = self._workloads_informer
        return informer if informer is not None and informer.is_served else None

    def has_kueue_in(self, namespace: str) -> bool:
        """Return whether Kueue is used and its Workloads in a namespace can be read."""
        informer = self._workloads_informer
        return informer is not None and informer.scopes.serves(namespace)

    def hides_workloads(self, namespace: str) -> bool:
        """Return whether there may be Workloads in a namespace that have never been read."""
        informer = self._workloads_informer
        return informer is not None and informer.scopes.is_unread(namespace)

    @property
    def is_synced(self) -> bool:
        """Whether every cache has been complete once."""
        return all(informer.synced.is_set() for informer in self.informers)

    def observe(self, kind: str | None, body: Object) -> None:
        """Take in one of kopf's events of a FineTuneJob."""
        self._is_listing = kind is None
        try:
            self.feed.observe(kind, body)
        finally:
            self._is_listing = False

    def _keep_finetunejob(self, obj: Object) -> Object:
        """Trim a FineTuneJob and share the fields of its spec with other jobs.

        The cache keeps an excerpt of a large spec. The reconciler reads the whole one.
        """
        job = trim_finetunejob(obj)
        if (spec := job.get("spec")) and is_large(spec):
            job["spec"] = excerpt_of(spec)
        self._shared.share(job)
        return job

    def job(self, namespace: str, name: str) -> TrimmedJob | None:
        """Return a trimmed Job."""
        return cast("TrimmedJob | None", self.jobs.get(namespace, name))

    def pod(self, namespace: str, name: str) -> TrimmedPod | None:
        """Return a trimmed pod."""
        return cast("TrimmedPod | None", self.pods.get(namespace, name))

    def jobs_of(self, key: ObjectKey) -> list[TrimmedJob]:
        """Return the trimmed Jobs labelled with a FineTuneJob."""
        return cast("list[TrimmedJob]", self.jobs.by_index(BY_FINETUNEJOB, "/".join(key)))

    def pods_of(self, key: ObjectKey) -> list[TrimmedPod]:
        """Return the trimmed pods labelled with a FineTuneJob."""
        return cast("list[TrimmedPod]", self.pods.by_index(BY_FINETUNEJOB, "/".join(key)))

    def workload_of(self, job_uid: str) -> TrimmedWorkload | None:
        """Return the trimmed Workload of a Job, or None."""
        if self.workloads_informer is None:
            return None
        found = self.workloads_informer.store.by_index(BY_JOB_UID, job_uid)
        return _as_workload(found[0]) if found else None

    def waiting_queues(self) -> set[ObjectKey]:
        """Return namespace and LocalQueue of every Workload of ours that waits for quota."""
        if self.workloads_informer is None:
            return set()
        return {
            (workload["metadata"]["namespace"], workload["spec"]["queueName"])
            for workload in map(_as_workload, self.workloads_informer.store.objects())
            if is_waiting(workload) and self._key_of_workload(workload) is not None
        }

    def wake_workload(self, key: ObjectKey) -> None:
        """Look at the FineTuneJob of a Workload: its place in the line has changed."""
        informer = self.workloads_informer
        workload = None if informer is None else informer.store.get(*key)
        owner = None if workload is None else self._key_of_workload(_as_workload(workload))
        if owner is not None:
            self._wake(owner, PRIORITY_RESYNC)

    def _key_of_workload(self, workload: TrimmedWorkload) -> ObjectKey | None:
        job = self.job(workload["metadata"]["namespace"], workload["metadata"]["job"])
        return None if job is None else key_of_owner(job)

    def _on_finetunejob(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._forget(old)
            return
        if self.quiet.is_on or (old is not None and not _is_news(old, new)):
            return
        metadata = new["metadata"]
        priority = PRIORITY_RESYNC if self._is_listing else PRIORITY_USER
        self._wake((metadata["namespace"], metadata["name"]), priority)

    def _is_news_of_child(self, old: TrimmedChild | None, new: TrimmedChild | None) -> bool:
        return not self.quiet.is_on and (new is None or is_changed(old, new))

    def _is_news_of_workload(
        self, old: TrimmedWorkload | None, new: TrimmedWorkload | None
    ) -> bool:
        if self.quiet.is_on:
            return False
        return (
            old is None
            or new is None
            or old["status"] != new["status"]
            or old["spec"] != new["spec"]
        )

    def _on_kueue(self, scope: str, problem: str) -> None:
        """Reconcile the jobs with a queue again, because Kueue appeared or vanished."""
        where = f" in {name_scope(scope)}" if scope else ""
        if problem:
            logger.warning(
                "Kueue is switched on, and %s %s cannot be listed%s: is Kueue %s or newer there,"
                " and does it run? Jobs with a queueName wait for it, all others run: %s",
                WORKLOADS.plural,
                WORKLOADS.api_version,
                where,
                MINIMUM_KUEUE,
                problem,
            )
        else:
            logger.info("Kueue is there%s: jobs with a queueName go on", where)
        for job in self.finetunejobs.objects(scope):
            if (job.get("spec") or {}).get("queueName"):
                self._wake(key_of(job), PRIORITY_RESYNC)


def _as_workload(cached: Object) -> TrimmedWorkload:
    return cast("TrimmedWorkload", cached)


_RESULTS = ("dataset", "selection", "artifact", "evaluation", "conditions")


def _is_news(old: Object, new: Object) -> bool:
    """Return whether a FineTuneJob changed in anything but pushed progress."""
    before, after = old["metadata"], new["metadata"]
    if before.get("generation") != after.get("generation"):
        return True
    if before.get("deletionTimestamp") != after.get("deletionTimestamp"):
        return True
    old_status, new_status = old.get("status") or {}, new.get("status") or {}
    return any(old_status.get(key) != new_status.get(key) for key in _RESULTS)
