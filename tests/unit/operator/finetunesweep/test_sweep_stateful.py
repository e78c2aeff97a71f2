"""Any interleaving of what can happen to a sweep: it comes to an end, and never contradicts itself.

Trials go on at any pace, fail, stop late; people edit, suspend, delete and choose; the operator
dies between any two calls, and looks with caches that are behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import math
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.v1alpha1.status.sweep import FineTuneSweepStatus
from finetune_operator.kube.api.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    ObjectNotFound,
    TooManyRequests,
)
from kit.builders.sweeps import KEY, NAME, NAMESPACE, UID, Death, SweepWorld, loss_of, sweep

pytestmark = pytest.mark.slow

NAMES = st.integers(1, 8).map(lambda number: f"rates-t{number}")
ENDED = ("Pruned", "Failed", "Succeeded")
MAX_CALLS = 60
"""Requests of one look at a sweep of a handful of trials; a loop makes hundreds."""
FAULTS = (
    Conflict("patch", status=409),
    NotFound("no such type", status=404, message="404 page not found"),
    ObjectNotFound("no such namespace", status=404, reason="NotFound"),
    Invalid("status.x: Too long", status=400),
    Forbidden("no", status=403),
    TooManyRequests("wait", status=429),
)


class World(RuleBasedStateMachine):
    """One sweep, its trials, their users, and operators."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.end = None
        self.promoted = set()
        self.lost = set()
        self.stolen = set()
        self.foreign = {}
        self.is_new = False
        self.spent = (Decimal(0), 0)
        self.deleted = set()

    @initialize(
        method=st.sampled_from(["None", "ASHA", "Median", "Halving"]),
        min_steps=st.sampled_from([5, 10, 20, 50]),
        parallelism=st.integers(1, 4),
        trials=st.integers(1, 4),
        num_gpus=st.integers(0, 1),
        replicates=st.integers(0, 2),
    )
    def begin(self, method, min_steps, parallelism, trials, num_gpus, replicates):
        rule = {"method": method, "minSteps": min_steps, "reduction": 2}
        spec = {"parallelism": parallelism, "trials": trials, "replicates": replicates}
        spec["template"] = {"resources": {"gpusPerNode": num_gpus}}

        def losses(job, step):
            return float("nan") if job["metadata"]["name"] in self.lost else loss_of(job, step)

        async def make():
            return SweepWorld(sweep(earlyStopping=rule, **spec), losses=losses)

        self.world = self.loop.run_until_complete(make())
        self.is_halving = method == "Halving"
        self.look()

    # ---- the operator ----------------------------------------------------------------------------

    @rule()
    def look(self):
        world, before = self.world, self.active()
        was_suspended = world.condition("Suspended").get("status") == "True"
        self.reconcile()
        begun = self.active() - before
        if begun and not (was_suspended and not self.is_halving):
            assert len(self.active()) <= world.sweep["spec"]["parallelism"], (before, begun)
        if world.client.faults or self.is_refused():
            return
        events, writes = len(world.recorder.events), world.cluster.version
        self.reconcile()
        assert world.cluster.version == writes, "what was written is written again"
        assert world.recorder.events[events:] == [], "what was told is told again"

    def is_refused(self):
        return self.world.condition("Progressing").get("status") == "False"

    @rule(dies_at=st.integers(1, 6), after=st.booleans())
    def die(self, dies_at, after):
        self.world.start(dies_at=dies_at, after=after)
        with contextlib.suppress(Death):
            self.reconcile()
        self.world.start()
        self.is_new = True

    @rule(which=st.sampled_from(["finetunejobs", "finetunesweeps"]))
    def look_with_a_cache_that_is_behind(self, which):
        world = self.world
        refresh = world._refresh
        store = {
            "finetunejobs": world.caches.finetunejobs,
            "finetunesweeps": world.caches.sweeps.informer.store,
        }[which]
        old = [copy.deepcopy(obj) for obj in store.objects()]

        def behind():
            refresh()
            for obj in list(store.objects()):
                store.discard(obj)
            for obj in old:
                store.absorb(obj)

        world._refresh = behind
        try:
            self.reconcile()
        finally:
            world._refresh = refresh

    @rule(fault=st.sampled_from(FAULTS), at=st.integers(0, 2))
    def request_fails(self, fault, at):
        self.world.client.faults.extend([None] * at)
        self.world.client.faults.append(fault)
        self.reconcile()
        self.world.client.faults.clear()

    def reconcile(self):
        self.is_new = False
        calls = self.world.client.num_calls
        self.loop.run_until_complete(self.world.reconcile())
        assert self.world.client.num_calls - calls <= MAX_CALLS, "it goes round in circles"

    # ---- the trials ------------------------------------------------------------------------------

    @rule()
    def all_go_on(self):
        self.world.work()

    @rule(name=NAMES, is_late=st.booleans())
    def one_goes_on(self, name, is_late):
        job = self.world.jobs.get(name)
        if job is None:
            return
        seen = copy.deepcopy(job)
        if is_late and (job.get("status") or {}).get("phase") == "Training":
            for field in ("suspend", "prune"):
                seen["spec"].pop(field, None)
        status = self.world._next(seen)
        self.world.put(("finetunejobs", NAMESPACE, name), {**job, "status": status})

    @rule(name=NAMES)
    def one_fails(self, name):
        job = self.world.jobs.get(name)
        if job is None or (job.get("status") or {}).get("phase") in ENDED:
            return
        status = self.world._ended(job.get("status") or {}, "Failed", "Failed", "OutOfMemory")
        self.world.put(("finetunejobs", NAMESPACE, name), {**job, "status": status})

    @rule(name=NAMES)
    def one_waits_in_the_queue_again(self, name):
        job = self.world.jobs.get(name)
        if job is not None and (job.get("status") or {}).get("phase") == "Training":
            status = {**job["status"], "phase": "Queued", "conditions": []}
            self.world.put(("finetunejobs", NAMESPACE, name), {**job, "status": status})

    @rule(name=NAMES)
    def one_diverges(self, name):
        self.lost.add(name)

    # ---- people ----------------------------------------------------------------------------------

    @rule(suspend=st.booleans())
    def suspend_or_resume(self, suspend):
        self.world.edit(suspend=suspend)

    @rule(parallelism=st.integers(1, 4))
    def edit_parallelism(self, parallelism):
        self.world.edit(parallelism=parallelism)

    @rule(budget=st.sampled_from([{"trials": 2}, {"trials": 4}, {"durationSeconds": 600}, None]))
    def edit_budget(self, budget):
        self.world.edit(budget=budget)

    @rule(name=NAMES, suspend=st.booleans())
    def suspend_one(self, name, suspend):
        if name in self.world.jobs and name not in self.foreign:
            self.world.edit_job(name, suspend=suspend)

    @rule(name=NAMES)
    def prune_one(self, name):
        if name in self.world.jobs and name not in self.foreign:
            self.world.edit_job(name, prune=True)

    @precondition(lambda self: len(self.world.jobs) > 2)
    @rule(name=NAMES)
    def promote_one(self, name):
        if name in self.world.jobs and name not in self.foreign:
            self.promoted.add(name)
            self.world.edit_job(name, holdAfter=None)

    def is_known(self, name):
        """Whether an operator knows of a trial: a dead one has told nobody of its last ones."""
        told = (self.world.status.get("counts") or {}).get("created") or 0
        return not self.is_new or int(name.removeprefix("rates-t")) <= told

    @rule(name=NAMES)
    def delete_one(self, name):
        if not self.is_known(name):
            return
        self.world.cluster.objects.pop(("finetunejobs", NAMESPACE, name), None)
        self.foreign.pop(name, None)

    @rule(name=NAMES)
    def steal_one(self, name):
        """Take a trial from its sweep: nobody owns it any more."""
        job = self.world.jobs.get(name)
        if job is not None and name not in self.foreign and self.is_known(name):
            metadata = {**job["metadata"], "ownerReferences": []}
            self.world.put(("finetunejobs", NAMESPACE, name), {**job, "metadata": metadata})
            self.stolen.add(name)

    @precondition(lambda self: len(self.world.created) > 0)
    @rule(name=NAMES)
    def forge_one(self, name):
        """Put a job of other data where a trial may come."""
        world = self.world
        if name in world.jobs or name in world.created:
            return
        body = sweep()["spec"]["template"]
        body["hyperparameters"]["learningRate"] = "1e-4"
        spec = {**body, "dataset": {"sources": [{"uri": "s3://team-b/secret.jsonl"}]}}
        owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSweep", "name": NAME,
                 "uid": UID, "controller": True}  # fmt: skip
        metadata = {"name": name, "namespace": NAMESPACE, "uid": f"foreign-{name}",
                    "labels": {}, "ownerReferences": [owner]}  # fmt: skip
        self.world.put(("finetunejobs", NAMESPACE, name), {"metadata": metadata, "spec": spec})
        self.foreign[name] = copy.deepcopy(spec)

    @rule(name=NAMES, number=st.sampled_from([None, "3", "99"]))
    def relabel_one(self, name, number):
        job = self.world.jobs.get(name)
        if job is not None:
            labels = {**job["metadata"]["labels"], "finetune.dev/trial": number}
            kept = {label: value for label, value in labels.items() if value is not None}
            metadata = {**job["metadata"], "labels": kept}
            self.world.put(("finetunejobs", NAMESPACE, name), {**job, "metadata": metadata})

    # ---- what always holds -----------------------------------------------------------------------

    def active(self):
        """Names of trials that hold a place: they train, would, or have not stopped yet."""
        return {
            name
            for name, job in self.world.jobs.items()
            if not job["spec"].get("prune")
            and not job["spec"].get("suspend")
            and "holdAfter" in job["spec"]
            and (job.get("status") or {}).get("phase") not in (*ENDED, "AwaitingSelection")
            and name not in self.stolen
            and name not in self.foreign
        }

    @invariant()
    def no_trial_is_made_twice(self):
        created = self.world.created if hasattr(self, "world") else []
        assert len(created) == len(set(created))

    @invariant()
    def no_more_are_made_than_asked_for(self):
        if hasattr(self, "world"):
            spec = self.world.sweep["spec"]
            assert len(self.world.created) <= spec["trials"] + spec["replicates"]

    @invariant()
    def what_was_spent_is_never_given_back(self):
        if not hasattr(self, "world"):
            return
        status = self.world.status
        told = status.get("spent") or {}
        spent = (Decimal(told.get("gpuHours") or 0), told.get("tokens") or 0)
        deleted = set((status.get("deleted") or {}).get("numbers") or ())
        assert spent[0] >= self.spent[0], (self.spent, spent)
        assert spent[1] >= self.spent[1], (self.spent, spent)
        assert deleted >= self.deleted
        self.spent, self.deleted = spent, deleted

    @invariant()
    def what_is_foreign_is_never_changed(self):
        for name, spec in self.foreign.items():
            if (job := self.world.jobs.get(name)) is not None:
                assert job["spec"] == spec

    @invariant()
    def the_status_is_one_that_its_schema_takes_and_small(self):
        if not hasattr(self, "world"):
            return
        status = self.world.status
        FineTuneSweepStatus.model_validate(status, by_alias=True, by_name=False)
        assert len(json.dumps(status)) < 20_000

    @invariant()
    def terminal_is_terminal(self):
        if not hasattr(self, "world"):
            return
        world = self.world
        if self.end is not None:
            assert world.status == self.end
        elif world.has_ended:
            self.end = copy.deepcopy(world.status)
            self.check_end()

    def check_end(self):
        world = self.world
        complete, failed = world.condition("Complete"), world.condition("Failed")
        assert (complete.get("status") == "True") != (failed.get("status") == "True")
        assert world.condition("Progressing").get("status", "False") == "False"
        assert world.status["phase"] in ("Succeeded", "Failed")
        if complete:
            best = world.status["best"]["name"]
            assert world.status["best"]["chosen"]
            told = world.jobs[best]["status"]
            assert [stage["name"] for stage in told["stages"]] == ["train"]
            is_number = math.isfinite(float(told["selection"]["validationLoss"]))
            assert is_number or best in self.promoted

    def teardown(self):
        try:
            if hasattr(self, "world"):
                self.come_to_an_end()
        finally:
            self.loop.close()

    def come_to_an_end(self):
        """Nobody touches it any more, and what people hold they let go."""
        world = self.world
        world.client.faults.clear()
        world.edit(suspend=False)
        for name in self.foreign:
            world.cluster.objects.pop(("finetunejobs", NAMESPACE, name), None)
        self.foreign.clear()
        for name in world.jobs:
            world.edit_job(name, suspend=False)
        for _ in range(80):
            self.reconcile()
            self.terminal_is_terminal()
            if world.has_ended:
                break
            world.work()
        else:
            raise AssertionError(f"not at its end: {world.status}")
        for _ in range(3):
            self.reconcile()
        assert not self.active()
        assert world.sweep["metadata"]["name"] == KEY[1]


World.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, print_blob=True
)
TestAnyInterleaving = World.TestCase
