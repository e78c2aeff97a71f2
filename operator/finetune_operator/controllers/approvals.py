"""The cache of FineTuneApprovals, and which FineTuneJobs they wake.

A cluster may lack their type, or the operator the right to read it: an upgrade brings its parts one
after the other. Then jobs that need an approval wait and say so, and all others run.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence

from finetune_api.meta import APPROVAL_KIND, APPROVAL_PLURAL, GROUP, VERSION
from finetune_operator.finetunejob.decisions import POLICY, trim_approval
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.informer import Informer
from finetune_operator.kube.resource import Object, ObjectKey, Resource, key_of
from finetune_operator.kube.scopes import name_scope
from finetune_operator.kube.store import EventType, Store
from finetune_operator.kube.workqueue import PRIORITY_RESYNC, PRIORITY_USER

logger = logging.getLogger(__name__)

FINETUNEAPPROVALS = Resource(
    group=GROUP, version=VERSION, plural=APPROVAL_PLURAL, kind=APPROVAL_KIND
)
_BY_JOB = "job"

Wake = Callable[[ObjectKey, int], None]
"""Called with the key of a FineTuneJob to look at, and a priority."""


class Approvals:
    """FineTuneApprovals by the job they name. Event loop only.

    Args:
        client: The API client; only reads.
        jobs: The cache of FineTuneJobs.
        wake: Told which FineTuneJob to look at.
        namespaces: Where to watch; empty for all namespaces.
        rng: Source of jitter.

    Attributes:
        informer: What watches them; has to run.
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
        """Return the trimmed FineTuneApprovals that name a FineTuneJob; None if unreadable."""
        if not self.informer.scopes.serves(key[0]):
            return None
        return self.informer.store.by_index(_BY_JOB, "/".join(key))

    def _on_approval(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        obj = new if new is not None else old
        assert obj is not None
        key = _key_of_job(obj)
        if key in self._jobs:
            self._wake(key, PRIORITY_USER)

    def _on_served(self, scope: str, problem: str) -> None:
        """Look at the jobs again that need an approval: they wait for it, or need to be told."""
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


def _key_of_job(approval: Object) -> ObjectKey:
    return approval["metadata"]["namespace"], approval["spec"].get("job", "")


def _index_by_job(approval: Object) -> Iterable[str]:
    return ("/".join(_key_of_job(approval)),)
