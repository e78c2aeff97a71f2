"""The cache of FineTuneSweeps, and the changes that need a reconcile.

During an upgrade the type, or the right to read it, may be missing. Then no sweep continues, and
all jobs run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from finetune_api.meta import GROUP, SWEEP_KIND, SWEEP_PLURAL, VERSION
from finetune_operator.controllers.controller import Owned
from finetune_operator.controllers.memory.approvals import Wake
from finetune_operator.controllers.memory.quiet import WakeupSuppression
from finetune_operator.controllers.memory.reading import is_edited, warn_unreadable
from finetune_operator.finetunejob.state.excerpts import excerpt_of, is_large
from finetune_operator.finetunejob.state.observed import trim_finetunejob
from finetune_operator.finetunesweep.trials.news import is_news
from finetune_operator.finetunesweep.trials.observed import sweep_of
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource, key_of
from finetune_operator.kube.cache.feed import Feed
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.sharing import SharedParts
from finetune_operator.kube.cache.store import EventType
from finetune_operator.kube.queue.workqueue import PRIORITY_USER

FINETUNESWEEPS = Resource(group=GROUP, version=VERSION, plural=SWEEP_PLURAL, kind=SWEEP_KIND)
BY_SWEEP = "sweep"
"""Index of FineTuneJobs by the sweep that they are labelled with."""


def index_by_sweep(job: Object) -> Iterable[str]:
    """Return the key of the sweep of a FineTuneJob, as an index has it."""
    key = sweep_of(job)
    return () if key is None else ("/".join(key),)


class Sweeps:
    """FineTuneSweeps and their trials. Event loop only.

    Args:
        client: The API client; only reads.
        jobs: The cache of FineTuneJobs, indexed by ``BY_SWEEP``.
        wake: Called with the FineTuneSweep to reconcile.
        forget: Called with FineTuneSweeps that are gone.
        shared: Parts of FineTuneJobs: a sweep's template is that of its trials.
        namespaces: Watched namespaces; empty for all.

    Attributes:
        informer: Watches the sweeps; has to run.
    """

    def __init__(
        self,
        client: KubeClient,
        jobs: Feed,
        *,
        wake: Wake,
        forget: Callable[[Object], None],
        shared: SharedParts,
        namespaces: Sequence[str],
        rng: random.Random,
    ) -> None:
        self._jobs = jobs
        self._wake = wake
        self._forget = forget
        self._shared = shared
        self.quiet = WakeupSuppression()
        self.informer = Informer(
            client,
            FINETUNESWEEPS,
            namespaces=namespaces,
            transform=self._keep_sweep,
            on_served=partial(warn_unreadable, "FineTuneSweeps", SWEEP_KIND),
            may_be_forbidden=True,
            rng=rng,
        )
        self.informer.store.add_handler(self._on_sweep)

    @property
    def owned(self) -> Owned:
        """The trials, whose changes wake their sweep."""
        return Owned(cache=self._jobs, owner_of=sweep_of, is_news=self._is_news_of_trial)

    def trials_of(self, key: ObjectKey) -> list[Object]:
        """Return the FineTuneJobs that are labelled with a sweep."""
        return self._jobs.store.by_index(BY_SWEEP, "/".join(key))

    def _keep_sweep(self, obj: Object) -> Object:
        """Trim a FineTuneSweep and share its parts with its trials and other sweeps.

        The cache keeps an excerpt of a large spec. The reconciler reads the whole one.
        """
        sweep = trim_finetunejob(obj)
        if (spec := sweep.get("spec")) and is_large(spec):
            sweep["spec"] = excerpt_of(spec, without=("template",))
        self._shared.share(sweep, apart="template")
        return sweep

    def _is_news_of_trial(self, old: Object | None, new: Object | None) -> bool:
        key = sweep_of(old if new is None else new)  # type: ignore[arg-type]
        sweep = None if key is None or self.quiet.is_on else self.informer.store.get(*key)
        return sweep is not None and is_news(old, new)

    def _on_sweep(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._forget(old)
        elif old is None or is_edited(old, new):
            self._wake(key_of(new), PRIORITY_USER)
