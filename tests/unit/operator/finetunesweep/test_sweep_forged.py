"""Jobs that others name as the next trial of a sweep, and trials that no status has counted yet."""

from __future__ import annotations

import copy

import pytest

from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.finetunesweep.trials.trial import value_at
from kit.builders.sweeps import KEY, NAMESPACE, RATE, Death, SweepWorld, sweep
from unit.operator.finetunesweep.test_sweep_deleted import put, states

LARGE = {"model": {"uri": "hf://a/b", "chatTemplate": {"text": "x" * 20_000}}}
DRAWN = {"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-2"}}
METRIC = {"uri": "s3://team-b/steal.py"}
SECRET = {"sources": [{"uri": "s3://team-b/secret.jsonl"}]}
POD = {"env": [{"name": "AWS_PROFILE", "value": "theirs"}]}


async def waits_with_one_trial(**spec) -> tuple[SweepWorld, dict]:
    """Return a sweep that waits for its first trial, and its second trial as it would create it."""
    world = SweepWorld(sweep(parallelism=1, **spec))
    await world.reconcile()
    twin = SweepWorld(sweep(parallelism=2, **spec))
    await twin.reconcile()
    return world, copy.deepcopy(twin.jobs["rates-t2"])


async def dies_before_the_status(**spec) -> SweepWorld:
    """Return a sweep whose operator died when it had created three trials, and told of none."""
    world = SweepWorld(sweep(parallelism=3, **spec))
    # A large sweep is read first.
    is_large = is_whole(world.caches.sweeps.informer.store.get(*KEY)) is False
    world.start(dies_at=3 + is_large, after=True)
    with pytest.raises(Death):
        await world.reconcile()
    assert sorted(world.jobs) == ["rates-t1", "rates-t2", "rates-t3"]
    assert not world.status.get("counts")
    world.start()
    return world


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(
    "forged",
    [
        {"dataset": SECRET},
        {"podTemplate": POD},
        {"evaluation": {"customMetric": METRIC}},
        {"hyperparameters": {"learningRate": "1e-9", "seed": 42}},
        {"hyperparameters": {"learningRate": "1e-4", "seed": 43}},
        {"requestedBy": "mallory"},
    ],
    ids=["dataset", "podTemplate", "metric", "values", "seed", "requester"],
)
async def test_a_job_that_differs_from_the_next_trial_is_none(forged, is_large):
    world, job = await waits_with_one_trial(template=LARGE if is_large else {})
    put(world, {**job, "spec": {**job["spec"], **forged}}, uid="forged")
    for _ in range(3):
        await world.reconcile()
    assert is_whole(world.caches.finetunejobs.get(NAMESPACE, "rates-t2")) is not is_large
    assert list(states(world)) == ["rates-t1"]
    assert not world.jobs["rates-t2"]["spec"].get("prune")


async def test_a_job_that_is_padded_beyond_what_is_kept_of_it_is_no_trial():
    world, job = await waits_with_one_trial()
    padded = [{"name": f"A_{n}", "value": "x" * 3000} for n in range(4)]
    put(world, {**job, "spec": {**job["spec"], "podTemplate": {"env": padded}}}, uid="forged")
    await world.reconcile()
    assert not is_whole(world.caches.finetunejobs.get(NAMESPACE, "rates-t2"))
    assert list(states(world)) == ["rates-t1"]


async def test_a_large_forged_job_is_read_once():
    world, job = await waits_with_one_trial(template=LARGE)
    put(world, {**job, "spec": {**job["spec"], "dataset": SECRET}}, uid="forged")
    await world.reconcile()
    calls = world.client.num_calls
    await world.reconcile()
    # The sweep itself is large too, and read at each look.
    assert world.client.num_calls - calls == 1


async def test_nobody_ends_a_search_with_a_forged_replicate():
    world, job = await waits_with_one_trial(replicates=1)
    first = world.jobs["rates-t1"]["spec"]["hyperparameters"]
    spec = {**job["spec"], "hyperparameters": {**first, "seed": 44}}
    put(world, {**job, "spec": spec}, uid="forged")
    await world.reconcile()
    assert list(states(world)) == ["rates-t1"]
    assert world.status["phase"] == "Searching"


async def test_nobody_adds_trials_beyond_those_that_are_asked_for():
    options = {"search": "Random", "parameters": [DRAWN]}
    world = SweepWorld(sweep(parallelism=2, trials=2, **options))
    await world.reconcile()
    twin = SweepWorld(sweep(parallelism=3, trials=3, **options))
    await twin.reconcile()
    put(world, twin.jobs["rates-t3"], uid="forged")
    await world.reconcile()
    assert list(states(world)) == ["rates-t1", "rates-t2"]


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"requestedBy": "alice"},
        {"search": "Random", "parameters": [DRAWN], "replicates": 2},
        {"objective": {"metric": "exactMatch"}},
    ],
    ids=["grid", "requester", "replicates", "scored"],
)
async def test_a_trial_that_no_status_has_counted_is_suspended_with_its_sweep(spec, is_large):
    template = LARGE if is_large else {}
    if "objective" in spec:
        template = {**template, "goal": {"metric": "exactMatch", "atLeast": "0.5"}}
    world = await dies_before_the_status(template=template, **spec)
    world.edit(suspend=True)
    await world.reconcile()
    assert [job["spec"].get("suspend") for job in world.jobs.values()] == [True] * 3
    assert world.status["counts"]["created"] == 3


async def test_a_trial_that_no_status_has_counted_is_ended_by_a_lowered_budget():
    world = await dies_before_the_status(requestedBy="alice", template=LARGE)
    world.clock.advance(120)
    world.edit(budget={"durationSeconds": 60, "trials": 1})
    await world.reconcile()
    assert [job["spec"].get("prune") for job in world.jobs.values()] == [True] * 3


async def test_a_trial_that_the_server_has_given_defaults_is_one():
    world = await dies_before_the_status(requestedBy="alice")
    for name, job in world.jobs.items():
        spec = {"evaluation": {"maxSamples": None}, "tracking": None, **job["spec"]}
        spec = {key: value for key, value in spec.items() if value is not None}
        spec["evaluation"] = {**(spec.get("evaluation") or {}), "engine": "Transformers"}
        world.put(("finetunejobs", NAMESPACE, name), {**job, "spec": spec})
    world.edit(suspend=True)
    await world.reconcile()
    assert [job["spec"].get("suspend") for job in world.jobs.values()] == [True] * 3


async def test_a_replicate_that_no_status_has_counted_is_one_of_the_sweep():
    world = SweepWorld(sweep(replicates=2, parallelism=4))
    while "rates-t5" not in world.jobs:
        before = copy.deepcopy(world.sweep)
        await world.reconcile()
        world.work()
    world.put(("finetunesweeps", NAMESPACE, "rates"), before)
    world.start()
    world.edit(suspend=True)
    await world.reconcile()
    assert value_at(world.jobs["rates-t6"]["spec"], "suspend") is True
    assert world.status["counts"]["created"] == 6
    assert world.jobs["rates-t6"]["spec"]["hyperparameters"]["seed"] == 48
