"""The cache of FineTuneSchedules, and the changes that need a reconcile.

During an upgrade the type, or the right to read it, may be missing. Then no schedule continues, and
all jobs run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from finetune_api.meta import GROUP, SCHEDULE_KIND, SCHEDULE_PLURAL, VERSION
from finetune_operator.controllers.controller import Owned
from finetune_operator.controllers.memory.approvals import Wake
from finetune_operator.controllers.memory.reading import age_of, is_edited, warn_unreadable
from finetune_operator.finetunejob.state.observed import trim_finetunejob
from finetune_operator.finetuneschedule.observed import schedule_of
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Object, Resource, key_of
from finetune_operator.kube.cache.feed import Feed
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.store import EventType, Store
from finetune_operator.kube.queue.workqueue import PRIORITY_CHILD, PRIORITY_USER

FINETUNESCHEDULES = Resource(
    group=GROUP, version=VERSION, plural=SCHEDULE_PLURAL, kind=SCHEDULE_KIND
)
BY_ENDPOINT = "endpoint"
"""Index of schedules by the endpoint that they refer to."""
BY_NAMESPACE = "namespace"
"""Index of schedules by their namespace."""
BY_NAMESPACE_OF_SCHEDULE = "schedule"
"""Index of the FineTuneJobs of schedules by their namespace."""
_OF_JOB = ("conditions", "artifact", "dataset")
_OF_ENDPOINT = ("conditions", "active", "candidate", "rejected", "capture")


def _by_endpoint(schedule: Object) -> Iterable[str]:
    name = ((schedule.get("spec") or {}).get("endpointRef") or {}).get("name")
    return (f"{schedule['metadata']['namespace']}/{name}",) if name else ()


def _by_namespace(schedule: Object) -> Iterable[str]:
    return (schedule["metadata"]["namespace"],)


def index_by_schedule(job: Object) -> Iterable[str]:
    """Return the namespace of a FineTuneJob that a schedule has created."""
    key = schedule_of(job)
    return () if key is None else (key[0],)


class Schedules:
    """FineTuneSchedules, their jobs, and the endpoints that they refer to. Event loop only.

    Args:
        client: The API client; only reads.
        jobs: The cache of FineTuneJobs.
        endpoints: The cache of FineTuneEndpoints.
        wake: Called with the FineTuneSchedule to reconcile.
        forget: Called with FineTuneSchedules that are gone.
        namespaces: Watched namespaces; empty for all.

    Attributes:
        informer: Watches the schedules; has to run.
    """

    def __init__(
        self,
        client: KubeClient,
        jobs: Feed,
        endpoints: Store,
        *,
        wake: Wake,
        forget: Callable[[Object], None],
        namespaces: Sequence[str],
        rng: random.Random,
    ) -> None:
        self._jobs = jobs
        self.endpoints = endpoints
        self._wake = wake
        self._forget = forget
        self.informer = Informer(
            client,
            FINETUNESCHEDULES,
            namespaces=namespaces,
            transform=trim_finetunejob,
            indexers={BY_ENDPOINT: _by_endpoint, BY_NAMESPACE: _by_namespace},
            on_served=partial(warn_unreadable, "FineTuneSchedules", SCHEDULE_KIND),
            may_be_forbidden=True,
            rng=rng,
        )
        self.store = self.informer.store
        self.store.add_handler(self._on_schedule)
        endpoints.add_handler(self._on_endpoint)

    @property
    def owned(self) -> Owned:
        """The FineTuneJobs of schedules, whose ends wake them."""
        return Owned(cache=self._jobs, owner_of=schedule_of, is_news=_is_news_of_job)

    def num_older(self, schedule: Object) -> int:
        """Return how many older schedules of the namespace are not suspended."""
        others = self.store.by_index(BY_NAMESPACE, schedule["metadata"]["namespace"])
        own = age_of(schedule)
        return sum(not each["spec"].get("suspend") and age_of(each) < own for each in others)

    def _on_schedule(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._forget(old)
        elif old is None or is_edited(old, new):
            self._wake(key_of(new), PRIORITY_USER)

    def _on_endpoint(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and not _differ(old, new, _OF_ENDPOINT):
            return
        endpoint = old if new is None else new
        assert endpoint is not None
        for schedule in self.store.by_index(BY_ENDPOINT, "/".join(key_of(endpoint))):
            self._wake(key_of(schedule), PRIORITY_CHILD)


def _is_news_of_job(old: Object | None, new: Object | None) -> bool:
    return old is None or new is None or _differ(old, new, _OF_JOB)


def _differ(old: Object, new: Object, fields: Iterable[str]) -> bool:
    before, after = old.get("status") or {}, new.get("status") or {}
    is_edit = is_edited(old, new)
    return is_edit or any(before.get(field) != after.get(field) for field in fields)
