"""The loops of the kinds that create FineTuneJobs: sweeps and schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.controller import Controller
from finetune_operator.controllers.finetuneschedule import FineTuneScheduleReconciler
from finetune_operator.controllers.finetunesweep import FineTuneSweepReconciler
from finetune_operator.controllers.memory.caches import Caches
from finetune_operator.controllers.memory.validated import SharedModels
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workqueue import WorkQueue
from finetune_operator.kube.recorder import EventRecorder

NewQueue = Callable[[str, Store], WorkQueue[ObjectKey]]
_Reconciler = TypeVar("_Reconciler", FineTuneSweepReconciler, FineTuneScheduleReconciler)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop(Generic[_Reconciler]):
    """The controller of a kind with its reconciler, which remembers objects."""

    controller: Controller
    reconciler: _Reconciler

    def forget(self, obj: Object) -> None:
        """Drop the key and the memory of an object that is gone."""
        self.controller.queue.forget(key_of(obj))
        self.reconciler.forget(obj)


def loop_of_sweeps(
    client: KubeClient,
    caches: Caches,
    config: OperatorConfig,
    *,
    clock: Clock,
    recorder: EventRecorder,
    models: SharedModels,
    new_queue: NewQueue,
) -> Loop[FineTuneSweepReconciler]:
    """Return the loop of FineTuneSweeps, for a client that is fenced by the leader election."""
    sweeps = caches.sweeps
    jobs = caches.finetunejobs
    reconciler = FineTuneSweepReconciler(
        client, sweeps, jobs, config, clock=clock, recorder=recorder, models=models
    )
    controller = Controller(
        sweeps.informer,
        owns=[sweeps.owned],
        queue=new_queue("finetunesweep", sweeps.informer.store),
        reconcile=reconciler.reconcile,
    )
    return Loop(controller=controller, reconciler=reconciler)


def loop_of_schedules(
    client: KubeClient,
    caches: Caches,
    config: OperatorConfig,
    *,
    clock: Clock,
    recorder: EventRecorder,
    new_queue: NewQueue,
) -> Loop[FineTuneScheduleReconciler]:
    """Return the loop of FineTuneSchedules, for a client that is fenced by the leader election."""
    schedules = caches.schedules
    reconciler = FineTuneScheduleReconciler(
        client, schedules, caches.finetunejobs, config, clock=clock, recorder=recorder
    )
    controller = Controller(
        schedules.informer,
        owns=[schedules.owned],
        reads=[caches.endpoints.informer],
        queue=new_queue("finetuneschedule", schedules.store),
        reconcile=reconciler.reconcile,
    )
    return Loop(controller=controller, reconciler=reconciler)
