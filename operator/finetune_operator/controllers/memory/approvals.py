"""The cache of FineTuneApprovals, and the FineTuneJobs that they wake.

During an upgrade the type, or the right to read it, may be missing. Then jobs that need an approval
wait and report it; all others run. The cache is bounded per person and job, and per namespace. One
person's approvals displace no other person's decision, and no approval displaces a rejection.
"""

from __future__ import annotations

import logging
import random
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from finetune_api.meta import APPROVAL_KIND, APPROVAL_PLURAL, GROUP, VERSION
from finetune_operator.finetunejob.state.decisions import POLICY, trim_approval
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource, key_of
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.scopes import name_scope
from finetune_operator.kube.cache.store import EventType, Store
from finetune_operator.kube.queue.workqueue import PRIORITY_RESYNC, PRIORITY_USER

logger = logging.getLogger(__name__)

FINETUNEAPPROVALS = Resource(
    group=GROUP, version=VERSION, plural=APPROVAL_PLURAL, kind=APPROVAL_KIND
)
_BY_JOB = "job"
MAX_OF_A_PERSON = 32
"""Approvals of one person on one job that are kept, and as many rejections."""
MAX_OF_A_NAMESPACE = 1000
"""Decisions of a namespace that are kept."""

Wake = Callable[[ObjectKey, int], None]
"""Called with the key of a FineTuneJob to look at, and a priority."""


class Approvals:
    """FineTuneApprovals by the job they name. Event loop only.

    Args:
        client: The API client; only reads.
        wake: Called with the FineTuneJob to reconcile.
        namespaces: Watched namespaces; empty for all.

    Attributes:
        informer: Watches them; has to run.
    """

    def __init__(
        self,
        client: KubeClient,
        jobs: Store,
        *,
        wake: Wake,
        namespaces: Sequence[str],
        rng: random.Random,
    ) -> None:
        self._jobs = jobs
        self._wake = wake
        self._kept = _Kept()
        self._leaving: Object | None = None
        self._incomplete: set[str] = set()
        self._warned: set[str] = set()
        self.informer = Informer(
            client,
            FINETUNEAPPROVALS,
            namespaces=namespaces,
            transform=trim_approval,
            indexers={_BY_JOB: _index_by_job},
            on_served=self._on_served,
            may_be_forbidden=True,
            rng=rng,
        )
        self.informer.store.add_handler(self._on_approval)

    def of(self, key: ObjectKey) -> list[Object] | None:
        """Return the trimmed FineTuneApprovals that name a FineTuneJob; None if unreadable.

        Of a person's decisions on it only ``MAX_OF_A_PERSON`` are kept.
        """
        if not self.informer.scopes.serves(key[0]):
            return None
        return self.informer.store.by_index(_BY_JOB, "/".join(key))

    def _on_approval(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if old is not None:
            self._kept.remove(old)
            if old is self._leaving:
                return
        obj = new if new is not None else old
        assert obj is not None
        key = _key_of_job(obj)
        if new is None:
            self._fill_up(key[0])
        elif (surplus := self._kept.add(new)) is not None:
            self._drop(surplus)
            if surplus == key_of(new):
                return
        if key in self._jobs:
            self._wake(key, PRIORITY_USER)

    def _drop(self, surplus: ObjectKey) -> None:
        namespace = surplus[0]
        self._incomplete.add(namespace)
        if namespace not in self._warned:
            self._warned.add(namespace)
            logger.warning(
                "there are too many FineTuneApprovals in namespace %s: of one person on one job %d"
                " approvals and as many rejections count, of the namespace %d decisions. The older"
                " ones of whoever has most do not count. Delete them, and bound their number with"
                " a ResourceQuota (count/finetuneapprovals.finetune.dev)",
                namespace,
                MAX_OF_A_PERSON,
                MAX_OF_A_NAMESPACE,
            )
        self._leaving = self.informer.store.get(*surplus)
        assert self._leaving is not None
        try:
            self.informer.store.discard(self._leaving)
        finally:
            self._leaving = None

    def _fill_up(self, namespace: str) -> None:
        """Read dropped approvals again, because there is room."""
        if namespace in self._incomplete:
            self._incomplete.discard(namespace)
            self.informer.list_again(namespace)

    def _on_served(self, scope: str, problem: str) -> None:
        """Reconcile the jobs that need an approval again."""
        if problem:
            logger.warning(
                "FineTuneApprovals of %s cannot be read: their CustomResourceDefinition is not"
                " installed, or the operator's role lacks list and watch on them. Jobs with"
                " dataset.approval: Required, or of a namespace with requireApproval, wait there,"
                " all others run: %s",
                name_scope(scope),
                problem,
            )
        for job in self._jobs.objects(scope):
            is_asked = ((job.get("spec") or {}).get("dataset") or {}).get("approval") == "Required"
            if is_asked or (job.get("status") or {}).get(POLICY):
                self._wake(key_of(job), PRIORITY_RESYNC)


class _Age(NamedTuple):
    """When a decision was made; those of the same second by name."""

    time: str
    name: str


class _Holder(NamedTuple):
    """User and decision that count together: an approval must not displace a rejection."""

    by: str
    is_approval: bool


class _Kept:
    """The kept decisions, and the next one to drop."""

    def __init__(self) -> None:
        self._of_person: dict[tuple[ObjectKey, _Holder], dict[ObjectKey, Object]] = {}
        self._of_namespace: dict[str, dict[_Holder, list[_Age]]] = {}
        self._nums: Counter[str] = Counter()

    def add(self, approval: Object) -> ObjectKey | None:
        """Count a decision; return which is to be dropped, maybe the same; or None."""
        key, job, holder = key_of(approval), _key_of_job(approval), _holder_of(approval)
        of_person = self._of_person.setdefault((job, holder), {})
        of_namespace = self._of_namespace.setdefault(key[0], {})
        of_person[key] = approval
        insort(of_namespace.setdefault(holder, []), _age_of(approval))
        self._nums[key[0]] += 1
        if len(of_person) > MAX_OF_A_PERSON:
            return key_of(_least_of(of_person.values()))
        if self._nums[key[0]] > MAX_OF_A_NAMESPACE:
            most = max(of_namespace, key=lambda each: (len(of_namespace[each]), each.is_approval))
            return key[0], of_namespace[most][0].name
        return None

    def remove(self, approval: Object) -> None:
        """Count a decision no more."""
        key, job, holder = key_of(approval), _key_of_job(approval), _holder_of(approval)
        of_namespace = self._of_namespace[key[0]]
        ages = of_namespace[holder]
        del ages[bisect_left(ages, _age_of(approval))]
        del self._of_person[job, holder][key]
        self._nums[key[0]] -= 1
        if not self._of_person[job, holder]:
            del self._of_person[job, holder]
        if not ages:
            del of_namespace[holder]
        if not of_namespace:
            del self._of_namespace[key[0]], self._nums[key[0]]


def _least_of(approvals: Collection[Object]) -> Object:
    """Return the least important decision of one person on one job.

    The first on a digest is the one in the job's status, and the last may be a second try. So it is
    one in between, else the oldest of all.
    """
    between: list[Object] = []
    by_age = sorted(approvals, key=_age_of)
    of_digest: defaultdict[tuple[str, ...], list[Object]] = defaultdict(list)
    for each in by_age:
        asked = ("subject", "digest", "panel")
        of_digest[tuple(each["spec"].get(field, "") for field in asked)].append(each)
    for same in of_digest.values():
        between += same[1:-1]
    return min(between or by_age, key=_age_of)


def _age_of(approval: Object) -> _Age:
    metadata = approval["metadata"]
    return _Age(metadata.get("creationTimestamp", ""), metadata["name"])


def _holder_of(approval: Object) -> _Holder:
    spec = approval["spec"]
    return _Holder(spec.get("by", ""), spec.get("decision") != "Rejected")


def _key_of_job(approval: Object) -> ObjectKey:
    return approval["metadata"]["namespace"], approval["spec"].get("job", "")


def _index_by_job(approval: Object) -> Iterable[str]:
    return ("/".join(_key_of_job(approval)),)
