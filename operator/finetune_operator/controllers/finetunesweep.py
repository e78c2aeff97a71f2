"""``reconcile(key)`` of FineTuneSweeps: caches to snapshot, plan, requests, one status write.

The input is a key, never an event. A stop between any two requests is harmless: names of trials are
fixed, their changes are states, and the status is derived.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from finetune_api.meta import SWEEP_KIND
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunesweep import MAX_TRIALS, FineTuneSweep, FineTuneSweepSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.changes import Change, RefusedChanges
from finetune_operator.controllers.guarding import FIELD_MANAGER, Guard
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweep_memory import SweepMemory
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS, Sweeps
from finetune_operator.controllers.memory.validated import SharedModels, parse_stored
from finetune_operator.controllers.parents import find_live, read_parent
from finetune_operator.controllers.refusals import NameTaken, Refusals, create_owned
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.finetunesweep.actions import (
    Action,
    ConfirmMissing,
    CreateTrial,
    PatchTrial,
    Plan,
)
from finetune_operator.finetunesweep.draft import OWNED_FIELDS, STATUS
from finetune_operator.finetunesweep.plan import plan
from finetune_operator.finetunesweep.trials.observed import Observed, owner_uid
from finetune_operator.finetunesweep.trials.rendering import has_recipe
from finetune_operator.finetunesweep.trials.trial import Trial
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    ObjectNotFound,
)
from finetune_operator.kube.api.resource import Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Result
from finetune_operator.kube.recorder import EventRecorder
from finetune_operator.status.conditions import is_terminal

logger = logging.getLogger(__name__)

MAX_ROUNDS = 2 * MAX_TRIALS + 20
"""Plans per reconcile; each round but the last changed a trial."""
MAX_CONFLICTS = 5
"""So often in one look it is planned anew at once, because a trial has changed meanwhile."""
MAX_ROUNDS_REST_SECONDS = 1.0
"""Rest of a sweep whose trials are still not as they shall be after so many."""


class FineTuneSweepReconciler:
    """Reconciles one FineTuneSweep at a time. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        sweeps: The cache of sweeps and their trials.
        jobs: The cache of FineTuneJobs; takes the answers, so that the next plan sees them.
        models: Parts of validated specs, which a sweep shares with its trials.
    """

    def __init__(
        self,
        client: KubeClient,
        sweeps: Sweeps,
        jobs: Store,
        config: OperatorConfig,
        *,
        clock: Clock,
        recorder: EventRecorder,
        models: SharedModels | None = None,
    ) -> None:
        self._client = client
        self._models = models or SharedModels()
        self._sweeps = sweeps
        self._store = sweeps.informer.store
        self._jobs = jobs
        self._config = config
        self._clock = clock
        self._guard = Guard(
            resource=FINETUNESWEEPS,
            noun="sweep",
            meanwhile="Its trials go on meanwhile.",
            schema=STATUS,
            owned=OWNED_FIELDS,
            client=client,
            clock=clock,
            recorder=recorder,
            logger=logger,
        )
        self._refusals = Refusals(clock)
        self._changes = RefusedChanges(clock)
        self._memories: dict[str, SweepMemory] = {}

    def forget(self, sweep: Object) -> None:
        """Drop the memory of a FineTuneSweep that is gone."""
        self._forget_ended(sweep["metadata"]["uid"])
        self._guard.forget(sweep["metadata"]["uid"])

    def _forget_ended(self, uid: str) -> None:
        self._memories.pop(uid, None)
        self._refusals.forget(uid)
        self._changes.forget(uid)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Look at one FineTuneSweep and do what its plan says."""
        return await self._guard.reconcile(self._store, key, self._reconcile)

    async def _reconcile(self, key: ObjectKey, sweep: Object) -> Result:
        memory = self._memories.setdefault(sweep["metadata"]["uid"], SweepMemory())
        config = self._config.for_namespace(key[0])
        is_large = not is_whole(sweep)
        if is_large:
            sweep = await read_parent(self._client, FINETUNESWEEPS, key, sweep["metadata"]["uid"])
            self._store.absorb(sweep)
        sweep = self._guard.as_planned(sweep)
        step, num_conflicts = Plan(), 0
        for _ in range(MAX_ROUNDS):
            observed = await self._observe(key, sweep, memory)
            step = plan(observed, self._clock.now(), config)
            if not step.first:
                break
            try:
                await self._carry_out_all(observed, step.first, memory)
            except Conflict:
                num_conflicts += 1
                if num_conflicts > MAX_CONFLICTS:
                    raise
        answer = await self._guard.write_status(sweep, step.status)
        if answer is not None:
            self._store.absorb(answer)
        self._guard.announce(sweep, step.events)
        if step.then:
            await self._delete(sweep)
        if is_terminal(step.status or sweep.get("status")) and not step.first:
            # A change of it or of a trial reads it again; a validated spec takes much memory.
            self._forget_ended(sweep["metadata"]["uid"])
        elif is_large:
            memory.generation, memory.parsed = -1, None
        if step.first:
            return RequeueAfter(MAX_ROUNDS_REST_SECONDS)
        if step.requeue_after is not None:
            return RequeueAfter(step.requeue_after)
        return Done()

    async def _observe(self, key: ObjectKey, sweep: Object, memory: SweepMemory) -> Observed:
        generation = int(sweep["metadata"].get("generation") or 0)
        if memory.generation != generation:
            memory.parsed, memory.problem = parse_stored(sweep, self._validate, kind=SWEEP_KIND)
            memory.generation = generation
        if memory.refusal is not None and self._clock.monotonic() >= memory.refused_until:
            memory.refusal = None
        spec = memory.parsed.spec if memory.parsed is not None else None
        trials, unread = memory.own_trials(sweep, self._sweeps.trials_of(key), spec)
        while unread is not None:
            await self._judge(unread, sweep, spec, memory)
            trials, unread = memory.own_trials(sweep, self._sweeps.trials_of(key), spec)
        memory.seen.update({trial.number: trial for trial in trials})
        missing = memory.missing - {trial.number for trial in trials}
        return Observed(
            sweep=sweep,
            parsed=memory.parsed,
            problem=memory.problem,
            trials=trials,
            missing=missing,
            gone=tuple(memory.seen[number] for number in sorted(missing & memory.seen.keys())),
            num_created=memory.num_created,
            refusal=memory.refusal,
        )

    async def _judge(
        self, unread: Trial, sweep: Object, spec: FineTuneSweepSpec | None, memory: SweepMemory
    ) -> None:
        """Read a job that is too large to be cached, and remember whether it is a trial."""
        metadata = sweep["metadata"]
        live = await self._read(metadata["namespace"], unread.name)
        jobs = self._sweeps.trials_of((metadata["namespace"], metadata["name"]))
        uids = {job["metadata"]["uid"] for job in jobs}
        jobs = [job for job in jobs if job["metadata"]["name"] != unread.name]
        own, _ = memory.own_trials(sweep, jobs if live is None else [*jobs, live], spec)
        memory.judged = {uid: known for uid, known in memory.judged.items() if uid in uids}
        memory.judged[unread.uid] = any(trial.uid == unread.uid for trial in own)

    def _validate(self, wire: Object) -> FineTuneSweep:
        sweep = FineTuneSweep.from_stored(wire)
        template = self._models.share(sweep.spec.template, wire["spec"]["template"])
        spec = sweep.spec.model_copy(update={"template": template})
        return sweep.model_copy(update={"spec": spec})

    async def _carry_out_all(
        self, observed: Observed, actions: Iterable[Action], memory: SweepMemory
    ) -> None:
        """Perform the actions; a trial that cannot be changed does not delay the others.

        Raises:
            Conflict: A trial changed since the plan; the cache has the new version.
            KubeError: The first error of a change, after all others were tried.
        """
        refused: list[tuple[PatchTrial, KubeError]] = []
        for each in actions:
            try:
                await self._carry_out(observed, each, memory)
            except KubeError as error:
                if not isinstance(each, PatchTrial) or isinstance(error, Conflict):
                    raise
                refused.append((each, error))
                if not isinstance(error, Forbidden | Invalid):
                    break  # the server has an error, not this change
        if refused:
            action, first = refused[0]
            told = self._changes.note(observed.uid, _change_of(action), first)
            self._guard.announce(observed.sweep, told)
            raise first
        self._changes.forget(observed.uid)

    async def _carry_out(self, observed: Observed, action: Action, memory: SweepMemory) -> None:
        match action:
            case CreateTrial():
                await self._create(observed, action, memory)
            case PatchTrial():
                await self._patch(observed, action)
            case ConfirmMissing(number=number, name=name):
                live = await self._read(observed.namespace, name)
                # A job that has lost its owner counts as gone.
                found = () if live is None else (live,)
                own, _ = memory.own_trials(observed.sweep, found, observed.spec)
                if live is not None and own:
                    self._absorb(live)
                else:
                    memory.missing |= {number}

    async def _create(self, observed: Observed, action: CreateTrial, memory: SweepMemory) -> None:
        """Create a trial, or find that an earlier attempt did."""
        job = action.job

        def is_own(live: Object) -> bool:
            return owner_uid(live) == observed.uid and has_recipe(job["spec"], live["spec"])

        try:
            # A server whose FineTuneJobs lack holdAfter would drop it, and publish every trial.
            answer = await create_owned(
                self._client, FINETUNEJOBS, job, is_own, noun="sweep", strict=True
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
        memory.num_created = max(memory.num_created, action.number)
        self._absorb(answer)

    async def _read(self, namespace: str, name: str) -> Object | None:
        return await find_live(self._client, FINETUNEJOBS, (namespace, name))

    async def _patch(self, observed: Observed, action: PatchTrial) -> None:
        """Change the control fields of a trial; a missing one is found at the next reconcile."""
        precondition = {"uid": action.uid, "resourceVersion": action.version}
        patch: Object = {"metadata": precondition, "spec": action.spec}
        namespace = observed.namespace
        try:
            answer = await self._client.merge_patch(
                FINETUNEJOBS, namespace, action.name, patch, field_manager=FIELD_MANAGER
            )
        except ObjectNotFound:
            if (cached := self._jobs.get(namespace, action.name)) is not None:
                self._jobs.discard(cached)
            return
        except Conflict:
            # Read the version that won now, without waiting for the watch.
            if (live := await self._read(namespace, action.name)) is not None:
                self._absorb(live)
            raise
        self._absorb(answer)

    def _absorb(self, trial: Object) -> None:
        """Take in the server's version of a trial without another reconcile."""
        with self._sweeps.quiet():
            self._jobs.absorb(trial)

    async def _delete(self, sweep: Object) -> None:
        key, uid = key_of(sweep), sweep["metadata"]["uid"]
        try:
            await self._client.delete(FINETUNESWEEPS, *key, uid=uid)
        except NotFound:
            await read_parent(self._client, FINETUNESWEEPS, key, uid)
            raise


def _change_of(action: PatchTrial) -> Change:
    wanted = ", ".join(f"{field}: {json.dumps(value)}" for field, value in action.spec.items())
    failure = (
        f"FineTuneJob {action.name} cannot be given {wanted}, and the sweep waits until it can"
    )
    return Change(failure, "verb patch on finetunejobs", event="TrialNotChanged")
