"""Large objects: what is kept of them is small, and they live as the others do."""

from __future__ import annotations

import json
import sys
from typing import get_args

import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.size_rules import MAX_PART_LENGTHS
from finetune_api.v1alpha1.sweep_parameters import ParameterPath
from finetune_operator.controllers.caches import FINETUNEJOBS
from finetune_operator.finetunejob.excerpts import excerpt_of, is_whole
from finetune_operator.finetunejob.observed import trim_finetunejob
from finetune_operator.finetunesweep.trials import value_at
from support.spec_cases import FULL_SPEC
from unit.operator.builders import job
from unit.operator.sweep_world import KEY as SWEEP_KEY
from unit.operator.sweep_world import SweepWorld, sweep
from unit.operator.test_reconcile import KEY, world_of

TEXT = "\U0001f600" * 8000
LARGE = {
    "model": {"uri": "hf://a/b", "chatTemplate": {"text": "x" * 40000}},
    "dataset": {
        "sources": [{"uri": "s3://a/b.csv", "system": TEXT, "template": TEXT}],
        "approval": "Required",
    },
    "podTemplate": {
        "env": [{"name": f"APP_{n}", "value": "x" * 3000} for n in range(5)],
        "labels": {f"team-{n}": "a" for n in range(9)},
    },
    "queueName": "gpus",
    "ttlSecondsAfterFinished": 60,
}
KEPT_BYTES = 8 * 1024
"""More than what is kept of an object takes on the wire, without its status."""


def on_the_wire(obj):
    return len(json.dumps(obj, ensure_ascii=False).encode())


def large_job():
    spec = FineTuneJob.from_wire(job(**LARGE)).to_wire()["spec"]
    body = job(**spec)
    assert on_the_wire(body) > 100 * 1024
    return body


async def test_of_a_large_job_a_few_words_are_cached():
    world = world_of(large_job())
    cached = world.caches.finetunejobs.get(*KEY)
    assert not is_whole(cached)
    assert on_the_wire(cached) < KEPT_BYTES
    spec = cached["spec"]
    assert (spec["queueName"], spec["ttlSecondsAfterFinished"]) == ("gpus", 60)
    assert spec["dataset"]["approval"] == "Required"
    assert "podTemplate" not in spec


def test_an_excerpt_has_all_that_a_sweep_varies_and_that_is_read_of_jobs_at_rest():
    spec = {**FULL_SPEC, "model": {**FULL_SPEC["model"], "chatTemplate": {"text": "x" * 40000}}}
    spec["method"] = {"adapter": {"type": "LoRA", "rank": 8, "alpha": 16, "dropout": "0.1"}}
    spec["priorityClassName"] = "x" * 63
    excerpt = excerpt_of(spec)
    assert excerpt != spec
    for path in get_args(ParameterPath):
        assert value_at(excerpt, path) == value_at(spec, path), path
    for name in ("resources", "queueName", "suspend", "holdAfter", "priorityClassName"):
        assert excerpt.get(name) == spec.get(name), name


async def test_a_large_job_begins_as_a_small_one_does_and_is_read_once():
    world = world_of(large_job())
    for _ in range(3):
        await world.reconciler.reconcile(KEY)
    created = [sent for verb, sent in world.client.writes if verb == "create"]
    assert "headlines-prepare" in [sent["metadata"]["name"] for sent in created]
    (text,) = [sent["data"]["job.json"] for sent in created if "job.json" in sent.get("data", {})]
    assert json.loads(text)["spec"]["model"]["chatTemplate"]["text"] == "x" * 40000
    assert not is_whole(world.caches.finetunejobs.get(*KEY))
    assert world.reconciler._validated.has(world.caches.finetunejobs.get(*KEY))


async def test_a_large_job_that_is_gone_is_dropped_and_nothing_is_made():
    world = world_of(large_job())
    world.client.cluster.objects.clear()
    await world.reconciler.reconcile(KEY)
    assert world.caches.finetunejobs.get(*KEY) is None
    assert not world.client.writes


async def test_a_large_job_of_the_same_name_is_not_taken_for_the_one_that_is_gone():
    world = world_of(large_job())
    another = large_job()
    another["metadata"]["uid"] = "another"
    world.client.cluster.store((FINETUNEJOBS.plural, *KEY), another)
    await world.reconciler.reconcile(KEY)
    assert not world.client.writes


async def test_a_change_of_a_large_job_is_seen_although_the_cache_lags():
    world = world_of(large_job())
    stored = world.client.cluster.objects[FINETUNEJOBS.plural, *KEY]
    changed = {**stored, "spec": {**stored["spec"], "suspend": True}}
    changed["metadata"] = {**stored["metadata"], "generation": 2}
    world.client.cluster.store((FINETUNEJOBS.plural, *KEY), changed)
    await world.reconciler.reconcile(KEY)
    assert world.caches.finetunejobs.get(*KEY)["spec"]["suspend"] is True
    assert not [sent for verb, sent in world.client.writes if verb == "create"]


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_large_sweep_lives_as_a_small_one(is_large):
    template = {"model": LARGE["model"]} if is_large else {}
    world = SweepWorld(sweep(parallelism=2, template=template))
    await world.live()
    cached = world.caches.sweeps.informer.store.get(*SWEEP_KEY)
    assert is_whole(cached) is not is_large
    assert (world.has_ended, world.status["phase"]) == (True, "Succeeded")
    assert len(world.jobs) == 4
    texts = {
        (each["spec"]["model"].get("chatTemplate") or {}).get("text")
        for each in world.jobs.values()
    }
    assert texts == ({"x" * 40000} if is_large else {None})
    if is_large:
        assert "template" not in cached["spec"]


async def test_nothing_large_is_kept_of_a_sweep_that_waits():
    world = SweepWorld(sweep(parallelism=2, template={"model": LARGE["model"]}))
    await world.reconcile()
    (memory,) = world.reconciler._memories.values()
    assert memory.parsed is None


def test_metadata_that_nobody_reads_is_not_kept():
    body = job()
    body["metadata"] |= {
        "annotations": {"a": "x" * 200_000},
        "labels": {f"l-{n}": "" for n in range(50_000)} | {"finetune.dev/trial": "1"},
        "finalizers": [f"example.org/{n}" for n in range(10_000)],
        "managedFields": [{"manager": "m"}] * 1000,
        "ownerReferences": [{"uid": f"{n}", "name": "x" * 200} for n in range(1000)]
        + [{"uid": "sweep", "controller": True}],
    }
    kept = trim_finetunejob(body)
    assert kept["metadata"]["labels"] == {"finetune.dev/trial": "1"}
    assert kept["metadata"]["ownerReferences"] == [{"uid": "sweep", "controller": True}]
    assert sys.getsizeof(json.dumps(kept["metadata"])) < 1024


def test_the_objects_above_are_within_the_bounds_and_near_them():
    FineTuneJob.from_wire(job(**LARGE))
    assert len(LARGE["model"]["chatTemplate"]["text"]) > 0.9 * MAX_PART_LENGTHS["model"]
