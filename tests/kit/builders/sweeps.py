"""A FineTuneSweep with trials that train by a script, and operators that may die at any call."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.finetunesweep import FineTuneSweepReconciler
from finetune_operator.controllers.memory.caches import FINETUNEJOBS, Caches
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.finetunesweep.trials.trial import value_at
from finetune_operator.kube.api.errors import ObjectNotFound
from finetune_operator.status.conditions import find_condition, timestamp
from kit.builders.jobs import CONFIG, NOW
from kit.cluster.fake_client import FakeClient, FakeCluster
from kit.cluster.simulation import finetunejob
from kit.processes.clock import FakeClock

Object = dict[str, Any]

NAMESPACE, NAME, UID = "team-a", "rates", "uid-of-the-sweep"
KEY = (NAMESPACE, NAME)
RATES = ["1e-5", "1e-4", "1e-3", "1e-2"]
RATE = "hyperparameters.learningRate"
STEPS = (10, 20, 30)
HUNDRED_TRIALS: Object = {
    "search": "Random",
    "trials": 100,
    "parallelism": 100,
    "parameters": [
        {"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}},
        {"path": "hyperparameters.weightDecay", "uniform": {"min": "0", "max": "0.1"}},
        {"path": "hyperparameters.warmupRatio", "uniform": {"min": "0", "max": "0.2"}},
        {"path": "method.adapter.rank", "values": [8, 16, 32, 64]},
        {"path": "method.adapter.dropout", "uniform": {"min": "0", "max": "0.2"}},
    ],
}
"""As many trials as a sweep may have, over five of the eight parameters that it may have."""


def sweep(**spec: Any) -> Object:
    """Return a sweep over four learning rates, of which 1e-3 is the best; nothing is pruned.

    Its template has a goal; trials are compared by the validation loss all the same.
    """
    template = {**finetunejob("x", "x")["spec"], "suspend": False, **spec.pop("template", {})}
    template["hyperparameters"] = {"learningRate": "auto", "seed": 42}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSweep",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 1,
            "creationTimestamp": timestamp(NOW),
        },
        "spec": {
            "template": template,
            "parameters": [{"path": RATE, "values": RATES}],
            "search": "Grid",
            "earlyStopping": {"method": "None"},
            "objective": {"metric": "validationLoss"},
            **spec,
        },
    }


def loss_of(job: Object, step: int) -> float:
    """Return a validation loss that falls with the steps and is lowest at a rate of 1e-3."""
    rate = float(value_at(job["spec"], RATE))
    seed = value_at(job["spec"], "hyperparameters.seed") or 42
    return 1.0 + abs(math.log10(rate) + 3) + 1.0 / step + (seed - 42) / 10_000


class Death(BaseException):
    """The operator's process is gone."""


class MortalClient(FakeClient):
    """Dies at one of its calls, before the server took it or after."""

    def __init__(self, cluster: FakeCluster, *, dies_at: int = 0, after: bool = False) -> None:
        super().__init__(cluster)
        self.num_calls = 0
        self.created: list[str] = []
        self.dies_at, self.after = dies_at, after

    async def _arrive(self) -> None:
        self.num_calls += 1
        if self.num_calls == self.dies_at and not self.after:
            raise Death
        await super()._arrive()

    def _leave(self, obj: Object) -> Object:
        if self.num_calls == self.dies_at and self.after:
            raise Death
        return super()._leave(obj)

    async def create(
        self, resource: Any, obj: Object, *, field_manager: str = "", strict: bool = False
    ) -> Object:
        obj = {**obj, "metadata": {**obj["metadata"], "creationTimestamp": timestamp(NOW)}}
        num_before = len(self.cluster.objects)
        try:
            return await super().create(resource, obj, field_manager=field_manager)
        finally:
            if len(self.cluster.objects) > num_before:
                self.created.append(obj["metadata"]["name"])

    async def delete(self, resource: Any, namespace: str, name: str, *, uid: str = "") -> None:
        await self._arrive()
        self.writes.append(("delete", {"name": name}))
        if self.cluster.objects.pop((resource.plural, namespace, name), None) is None:
            raise ObjectNotFound(f"delete {name}", status=404)
        if self.num_calls == self.dies_at:
            raise Death


class Recorder:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def record(self, resource: Any, obj: Object, kind: str, reason: str, message: str) -> None:
        self.events.append((str(reason), message))


class SweepWorld:
    """One sweep, its jobs, and an operator."""

    def __init__(
        self,
        body: Object | None = None,
        *,
        config: OperatorConfig = CONFIG,
        ends: Callable[[Object], tuple[str, str]] | None = None,
        losses: Callable[[Object, int], float] = loss_of,
        scores: Callable[[Object], Object] | None = None,
    ) -> None:
        self.cluster = FakeCluster()
        self.clock = FakeClock(NOW)
        self.config = config
        self.recorder = Recorder()
        self.created: list[str] = []
        self._ends = ends or (lambda job: ("Complete", "Published"))
        self._losses = losses
        self._scores = scores
        self.put(("finetunesweeps", *KEY), body or sweep())
        self.start()

    # ---- the operator ----------------------------------------------------------------------------

    def start(self, *, dies_at: int = 0, after: bool = False) -> None:
        """Begin with a new process: nothing is known but what lies in the cluster."""
        self.client = MortalClient(self.cluster, dies_at=dies_at, after=after)
        self.caches = Caches(
            self.client,  # type: ignore[arg-type]
            self.config,
            wake=lambda key, priority: None,
            forget=lambda gone: None,
            has_kueue=False,
            rng=random.Random(1),
        )
        self.reconciler = FineTuneSweepReconciler(
            self.client,  # type: ignore[arg-type]
            self.caches.sweeps,
            self.caches.finetunejobs,
            self.config,
            clock=self.clock,
            recorder=self.recorder,  # type: ignore[arg-type]
        )
        self._refresh()

    def _refresh(self) -> None:
        stores = {
            FINETUNEJOBS.plural: self.caches.finetunejobs,
            FINETUNESWEEPS.plural: self.caches.sweeps.informer.store,
        }
        for plural, store in stores.items():
            there = {key[1:] for key in self.cluster.objects if key[0] == plural}
            for key in there:
                store.absorb(copy.deepcopy(self.cluster.objects[plural, *key]))
            for key in set(store) - there:
                store.discard(store.get(*key))  # type: ignore[arg-type]

    async def reconcile(self) -> Any:
        """Look at the sweep once, with caches that are up to date."""
        self._refresh()
        try:
            return await self.reconciler.reconcile(KEY)
        finally:
            self.created += self.client.created
            self.client.created.clear()
            self.client.writes.clear()

    # ---- the cluster -----------------------------------------------------------------------------

    def put(self, key: tuple[str, str, str], obj: Object) -> None:
        """Store an object."""
        self.cluster.store(key, obj)

    @property
    def sweep(self) -> Object:
        """The sweep as it is stored."""
        return self.cluster.objects["finetunesweeps", *KEY]

    @property
    def there_is_a_sweep(self) -> bool:
        """Whether nobody has deleted it."""
        return ("finetunesweeps", *KEY) in self.cluster.objects

    @property
    def status(self) -> Object:
        """Its status."""
        return self.sweep.get("status") or {}

    @property
    def jobs(self) -> dict[str, Object]:
        """The FineTuneJobs by name."""
        return {
            key[2]: obj for key, obj in self.cluster.objects.items() if key[0] == "finetunejobs"
        }

    def condition(self, kind: str) -> Object:
        """Return a condition of the sweep; empty if it is not there."""
        return find_condition(self.status.get("conditions"), kind) or {}

    @property
    def has_ended(self) -> bool:
        """Whether the sweep is at its end."""
        return "True" in (self.condition("Complete").get("status"),
                          self.condition("Failed").get("status"))  # fmt: skip

    def edit(self, **spec: Any) -> None:
        """Change the spec of the sweep as a user does."""
        body = copy.deepcopy(self.sweep)
        body["spec"] |= spec
        body["metadata"]["generation"] += 1
        self.put(("finetunesweeps", *KEY), body)

    def edit_job(self, name: str, **spec: Any) -> None:
        """Change the spec of a job as a user does; None removes a field."""
        body = copy.deepcopy(self.jobs[name])
        body["spec"] = {k: v for k, v in {**body["spec"], **spec}.items() if v is not None}
        self.put(("finetunejobs", NAMESPACE, name), body)

    def work(self) -> None:
        """Let every job come one moment further."""
        self.clock.advance(60)
        for name, job in self.jobs.items():
            status = self._next(copy.deepcopy(job))
            if status != (job.get("status") or {}):
                self.put(("finetunejobs", NAMESPACE, name), {**job, "status": status})

    def _next(self, job: Object) -> Object:
        spec, status = job["spec"], job.get("status") or {}
        if status.get("phase") in ("Pruned", "Failed", "Succeeded"):
            return status
        if spec.get("prune"):
            return self._ended(status, "Pruned", "Pruned", "PruneRequested")
        if spec.get("suspend"):
            return {**status, "phase": "Suspended"}
        curve = (status.get("validation") or {}).get("curve") or []
        if len(curve) < len(STEPS):
            step = STEPS[len(curve)]
            loss = self._losses(job, step)
            curve = [*curve, {"step": step, "loss": f"{loss:.6g}"}]
            training = {"type": "Training", "status": "True", "reason": "Running",
                        "lastTransitionTime": timestamp(NOW)}  # fmt: skip
            return {**status, "phase": "Training", "conditions": [training],
                    "stages": [{"name": "train", "runTime": timestamp(NOW)}],
                    "validation": {"curve": curve},
                    "metrics": [{"name": "num_tokens", "value": str(100 * step)}]}  # fmt: skip
        best = min(curve, key=lambda point: float(point["loss"]))
        status = {
            **status,
            "stages": [{"name": "train", "completionTime": timestamp(self.clock.now())}],
            "selection": {
                "step": best["step"],
                "validationLoss": best["loss"],
                **({"score": self._scores(job)} if self._scores else {}),
            },
            "conditions": [],
            "cost": {"gpuHours": "0.5"},
        }
        if spec.get("holdAfter"):
            return {**status, "phase": "AwaitingSelection"}
        kind, reason = self._ends(job)
        phase = {"Complete": "Succeeded"}.get(kind, kind)
        ended = self._ended(status, phase, kind, reason)
        return {**ended, "artifact": {"version": 1}} if kind == "Complete" else ended

    def _ended(self, status: Object, phase: str, kind: str, reason: str) -> Object:
        condition = {"type": kind, "status": "True", "reason": reason,
                     "message": f"because {reason}",
                     "lastTransitionTime": timestamp(self.clock.now())}  # fmt: skip
        return {**status, "phase": phase, "reason": reason, "conditions": [condition]}

    async def live(self, *, moments: int = 60) -> None:
        """Let time pass until the sweep is at its end."""
        for _ in range(moments):
            await self.reconcile()
            if self.has_ended:
                return
            self.work()
        raise AssertionError(f"not at its end: {self.status}")
