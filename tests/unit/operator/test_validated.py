"""Validated specs: kept while they are looked at, and once where they say the same."""

from __future__ import annotations

import gc
import json

import pytest

from finetune_api.names import Owner
from finetune_api.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.controllers import validated
from finetune_operator.controllers.validated import SharedModels, ValidatedJobs
from finetune_operator.finetunesweep.rendering import render_trial
from support.spec_cases import CASES
from unit.operator.builders import UID, job, live, stages_done, trained
from unit.operator.sweep_world import KEY as SWEEP_KEY
from unit.operator.sweep_world import RATE, SweepWorld, sweep
from unit.operator.test_reconcile import KEY, world_of

GOOD = [case for case in CASES if case.expected is None]


def named(name, **spec):
    """Return a FineTuneJob that shares nothing with another, as from the API server."""
    body = json.loads(json.dumps(job(**spec)))
    body["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    return body


def trials(*rates):
    owner = Owner(namespace="team-a", name="rates", uid="uid-of-the-sweep", kind="FineTuneSweep")
    template = FineTuneJob.from_wire(job()).to_wire()["spec"]
    rendered = [
        json.loads(json.dumps(render_trial(owner, template, number, {RATE: rate})))
        for number, rate in enumerate(rates, 1)
    ]
    for body in rendered:
        body["metadata"]["uid"] = f"uid-{body['metadata']['name']}"
    return rendered


def test_no_more_are_kept_than_are_looked_at(monkeypatch):
    monkeypatch.setattr(validated, "MAX_VALIDATED", 2)
    known = ValidatedJobs(SharedModels())
    for name in ("one", "two", "three"):
        known.of(named(name))
    known.of(named("two"))
    known.of(named("four"))
    assert [name for name in ("one", "two", "three", "four") if f"uid-{name}" in known] == [
        "two",
        "four",
    ]
    assert known.of(named("one"))[0].metadata.name == "one"


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_what_is_shared_is_what_was_written(case):
    known = ValidatedJobs(SharedModels())
    known.of(named("first"))
    for uid in ("second", "third"):
        body = json.loads(json.dumps(case.body))
        body["metadata"]["uid"] = uid
        alone = FineTuneJob.from_stored(body)
        shared, problem = known.of(body)
        assert (shared, problem) == (alone, "")
        assert shared.spec.model_fields_set == alone.spec.model_fields_set


def test_trials_have_all_in_common_but_what_is_varied():
    known = ValidatedJobs(SharedModels())
    one, other = (known.of(body)[0].spec for body in trials("1e-4", "1e-3"))
    differing = {
        name for name in ("model", "dataset", "method", "hyperparameters", "evaluation", "output")
        if getattr(one, name) is not getattr(other, name)
    }  # fmt: skip
    assert differing == {"hyperparameters"}
    assert other.hyperparameters.learning_rate == "1e-3"


@pytest.mark.slow
def test_parts_that_nobody_uses_are_forgotten():
    models = SharedModels()
    known = ValidatedJobs(models)
    kept, gone = trials("1e-4", "1e-3")
    known.of(kept)
    num_parts = len(models)
    known.of(gone)
    assert len(models) == num_parts + 1
    known.forget(gone["metadata"]["uid"])
    gc.collect()
    assert len(models) == num_parts


def held():
    """Return a job that was created with ``holdAfter`` and has trained."""
    return live([stages_done(Stage.PREPARE, Stage.TRAIN)], trained(job(holdAfter="Train")))[1]


@pytest.mark.parametrize(
    ("body", "phase", "is_kept"),
    [
        (job(), "Preparing", True),
        (job(suspend=True), "Suspended", False),
        (held(), "AwaitingSelection", False),
        ({**held(), "spec": {**held()["spec"], "prune": True}}, "Pruned", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_job_that_rests_or_has_ended_keeps_no_validated_spec(body, phase, is_kept):
    world = world_of(body)
    await world.reconciler.reconcile(KEY)
    assert world.caches.finetunejobs.get(*KEY)["status"]["phase"] == phase
    assert (UID in world.reconciler._validated) == is_kept


async def test_a_job_that_was_held_goes_on_when_it_is_chosen():
    world = world_of(held())
    await world.reconciler.reconcile(KEY)
    stored = world.client.cluster.objects["finetunejobs", *KEY]
    chosen = {**stored, "spec": {**stored["spec"], "holdAfter": None}}
    world.caches.observe("MODIFIED", world.client.cluster.store(("finetunejobs", *KEY), chosen))
    await world.reconciler.reconcile(KEY)
    created = [sent["metadata"]["name"] for verb, sent in world.client.writes if verb == "create"]
    assert created[-1] == "headlines-evaluate"
    assert UID in world.reconciler._validated


async def test_a_sweep_and_its_trials_have_their_template_in_common():
    world = SweepWorld(sweep(parallelism=2))
    await world.reconcile()
    cached = world.caches.sweeps.informer.store.get(*SWEEP_KEY)
    one, other = (world.caches.finetunejobs.get(*key) for key in world.caches.finetunejobs)
    shared = set(cached["spec"]["template"]) - {"hyperparameters", "suspend"}
    assert "dataset" in shared
    for name in shared:
        assert one["spec"][name] is other["spec"][name] is cached["spec"]["template"][name]
    assert one["spec"]["hyperparameters"] != other["spec"]["hyperparameters"]
    owners = [each["metadata"]["ownerReferences"] for each in (one, other)]
    assert owners[0] is owners[1]


async def test_a_sweep_that_has_ended_keeps_no_validated_spec():
    world = SweepWorld()
    await world.live()
    assert world.reconciler._memories == {}
