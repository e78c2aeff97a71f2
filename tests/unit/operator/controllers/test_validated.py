"""Validated specs: kept while they are looked at, and once where they say the same."""

from __future__ import annotations

import gc
import json

import orjson
import pytest

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.controllers.memory import validated
from finetune_operator.controllers.memory.validated import SharedModels, ValidatedJobs
from finetune_operator.finetunesweep.trials.rendering import render_trial
from kit.builders.jobs import UID, job, live, stages_done, trained
from kit.builders.sweeps import KEY as SWEEP_KEY
from kit.builders.sweeps import RATE, SweepWorld, sweep
from kit.cases.spec_cases import CASES
from unit.operator.controllers.test_reconcile import KEY, world_of

MODEL = {"uri": "hf://a/b"}
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


def in_namespace(namespace, name, **spec):
    body = named(f"{namespace}-{name}", **spec)
    body["metadata"]["namespace"] = namespace
    return body


def cost_of(body):
    return validated.BASE_COST_BYTES + validated.COST_OF_A_BYTE * len(orjson.dumps(body["spec"]))


def test_no_more_are_kept_than_there_is_room_for():
    known = ValidatedJobs(SharedModels(), max_bytes=2 * cost_of(named("one")))
    for name in ("one", "two", "three"):
        known.of(named(name))
    known.of(named("two"))
    known.of(named("four"))
    assert [name for name in ("one", "two", "three", "four") if f"uid-{name}" in known] == [
        "two",
        "four",
    ]
    assert known.of(named("one"))[0].metadata.name == "one"


def test_large_objects_of_one_namespace_push_out_their_own_and_no_others():
    small = [in_namespace(f"team-{n}", "small") for n in range(5)]
    large = [
        in_namespace("greedy", f"large-{n}", model={**MODEL, "chatTemplate": {"text": "x" * 30000}})
        for n in range(50)
    ]
    known = ValidatedJobs(SharedModels(), max_bytes=10 * cost_of(large[0]))
    for body in small:
        known.of(body)
    for body in large:
        known.of(body)
        kept = [each for each in [*small, *large] if each["metadata"]["uid"] in known]
        assert sum(map(cost_of, kept)) <= 10 * cost_of(large[0])
    assert all(known.has(body) for body in small)
    assert known.has(large[-1])
    assert not known.has(large[0])
    for body in [*small, *large]:
        known.forget(body["metadata"]["uid"])
    assert len(known) == 0
    assert (known._total, dict(known._costs), known._known) == (0, {}, {})


def test_one_that_alone_is_larger_than_the_room_is_looked_at_all_the_same():
    known = ValidatedJobs(SharedModels(), max_bytes=1)
    for name in ("one", "two"):
        assert known.of(named(name))[0].metadata.name == name
    assert len(known) == 1


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
