"""Large objects: what is kept of them is small, and they live as the others do."""

from __future__ import annotations

import json
import sys
import tracemalloc
from typing import get_args

import pytest

from finetune_api.names import (
    ACTIVE_SECONDS_ANNOTATION,
    CONTAINER,
    PAUSED_ANNOTATION,
    SCHEDULE_LABEL,
    Owner,
)
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.rules.sizes import MAX_PART_LENGTHS
from finetune_api.v1alpha1.spec.sweep_parameters import ParameterPath
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.finetunejob.render.config import JOB_FILE, render_config_map
from finetune_operator.finetunejob.state.excerpts import excerpt_of, is_whole
from finetune_operator.finetunejob.state.observed import trim_finetunejob
from finetune_operator.finetunejob.state.trimming import trim_job, trim_pod
from finetune_operator.finetunesweep.trials.trial import value_at
from finetune_operator.integrations.kueue.workload import trim_workload
from kit.builders.jobs import PREPARE, child, job
from kit.builders.sweeps import KEY as SWEEP_KEY
from kit.builders.sweeps import SweepWorld, sweep
from kit.cases.spec_cases import FULL_SPEC
from kit.cluster.workloads import kueue_workload
from unit.operator.controllers.test_reconcile import KEY, world_of

TEXT = "\U0001f600" * 7000
LARGE = {
    "model": {"uri": "hf://a/b", "chatTemplate": {"text": "x" * 20000}},
    "dataset": {
        "sources": [{"uri": "s3://a/b.csv", "system": TEXT, "template": TEXT}],
        "approval": "Required",
    },
    "podTemplate": {
        "env": [{"name": f"APP_{n}", "value": "x" * 3000} for n in range(5)],
        "nodeSelector": {f"team-{n}": "a" for n in range(9)},
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
    assert on_the_wire(body) > 80 * 1024
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
    spec = {**FULL_SPEC, "model": {**FULL_SPEC["model"], "chatTemplate": {"text": "x" * 20000}}}
    spec["method"] = {"adapter": {"type": "LoRA", "rank": 8, "alpha": 16, "dropout": "0.1"}}
    spec["priorityClassName"] = "x" * 63
    excerpt = excerpt_of(spec)
    assert excerpt != spec
    for path in get_args(ParameterPath):
        assert value_at(excerpt, path) == value_at(spec, path), path
    for name, value in spec["resources"].items():
        # The network is read where pods are made, from whole specs.
        assert name == "network" or excerpt["resources"].get(name) == value, name
    for name in ("queueName", "suspend", "holdAfter", "priorityClassName"):
        assert excerpt.get(name) == spec.get(name), name


async def test_a_large_job_begins_as_a_small_one_does_and_is_read_once():
    world = world_of(large_job())
    for _ in range(3):
        await world.reconciler.reconcile(KEY)
    created = [sent for verb, sent in world.client.writes if verb == "create"]
    assert "headlines-prepare" in [sent["metadata"]["name"] for sent in created]
    (text,) = [sent["data"]["job.json"] for sent in created if "job.json" in sent.get("data", {})]
    assert json.loads(text)["spec"]["model"]["chatTemplate"]["text"] == "x" * 20000
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
    assert texts == ({"x" * 20000} if is_large else {None})
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


def test_the_stages_of_a_cycle_are_told_the_schedule_whose_rows_they_seal():
    body = job()
    body["metadata"]["labels"] = {SCHEDULE_LABEL: "weekly"}
    owner = Owner(namespace=body["metadata"]["namespace"], name=body["metadata"]["name"], uid="u")
    config = render_config_map(FineTuneJob.from_wire(trim_finetunejob(body)), owner)
    assert ResolvedJob.from_json(config["data"][JOB_FILE]).schedule == "weekly"


@pytest.mark.parametrize("name", ["finetune.dev/skip-steps", "finetune.dev/trigger"])
def test_annotations_that_ask_for_something_are_kept_unless_they_are_long(name):
    body = job()
    body["metadata"]["annotations"] = {name: "4", "other": "x"}
    assert trim_finetunejob(body)["metadata"]["annotations"] == {name: "4"}
    body["metadata"]["annotations"] = {name: "4" * 64}
    assert "annotations" not in trim_finetunejob(body)["metadata"]


HUGE = "A" * 1_400_000
"""What fits into one object of an API server and is bounded by nothing else."""
OWNER = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSweep", "name": "s", "uid": "u"}


@pytest.mark.parametrize("field", ["apiVersion", "kind", "name", "uid"])
def test_a_controller_with_a_huge_field_is_not_kept(field):
    body = job()
    body["metadata"]["ownerReferences"] = [{**OWNER, field: HUGE, "controller": True}]
    assert "ownerReferences" not in trim_finetunejob(body)["metadata"]


def test_of_a_controller_only_its_identity_is_kept():
    body = job()
    extra = {"controller": True, "blockOwnerDeletion": True}
    body["metadata"]["ownerReferences"] = [{**OWNER, **extra}]
    assert trim_finetunejob(body)["metadata"]["ownerReferences"] == [{**OWNER, "controller": True}]


@pytest.mark.parametrize("plural", ["finetunejobs", "finetunesweeps"])
async def test_nothing_is_left_of_jobs_with_huge_owners_that_are_gone(plural):
    world = SweepWorld(sweep())
    caches = world.caches
    stores = {"finetunejobs": caches.finetunejobs, "finetunesweeps": caches.sweeps.informer.store}
    tracemalloc.start()
    try:
        for number in range(20):
            body = job() if plural == "finetunejobs" else sweep()
            body["metadata"] |= {"name": f"huge-{number}", "resourceVersion": f"{100 + 2 * number}"}
            owner = {**OWNER, "kind": f"{number}{HUGE}", "controller": True}
            body["metadata"]["ownerReferences"] = [owner]
            stores[plural].observe("ADDED", body)
            gone = {**body, "metadata": {**body["metadata"], "resourceVersion": "1000"}}
            stores[plural].observe("DELETED", gone)
            assert stores[plural].get(body["metadata"]["namespace"], f"huge-{number}") is None
        del body, gone, owner
        assert tracemalloc.get_traced_memory()[0] < 2 * len(HUGE)
    finally:
        tracemalloc.stop()


def labelled(**fields):
    """Return a Job or pod that anybody may create and call a child of a FineTuneJob."""
    body = child(PREPARE)
    body["metadata"] = {
        **{key: text for key, text in body["metadata"].items() if key != "owner"},
        "ownerReferences": [{"kind": "Job", "name": "n", "uid": "u", "controller": True}],
        **fields.pop("metadata", {}),
    }
    return {**body, **fields}


@pytest.mark.parametrize("field", ["kind", "name", "uid"])
def test_a_child_with_a_huge_owner_has_none(field):
    owner = {"kind": "Job", "name": "n", "uid": "u", field: HUGE, "controller": True}
    body = labelled(metadata={"ownerReferences": [owner]})
    for trim in (trim_job, trim_pod):
        assert "owner" not in trim(body)["metadata"]


def test_huge_texts_of_pods_and_jobs_are_left_out_or_cut():
    annotations = dict.fromkeys((PAUSED_ANNOTATION, ACTIVE_SECONDS_ANNOTATION), HUGE)
    spec = {
        "schedulerName": HUGE,
        "containers": [{"name": CONTAINER, "image": HUGE}],
    }
    state = {"terminated": {"exitCode": 1, "reason": HUGE, "message": HUGE}}
    status = {
        "phase": "Failed",
        "message": HUGE,
        "conditions": [{"type": kind, "message": HUGE} for kind in ("PodScheduled", "Failed")],
        "containerStatuses": [{"name": CONTAINER, "imageID": HUGE, "state": state}],
    }
    body = labelled(metadata={"annotations": annotations}, spec=spec, status=status)
    pod, batch_job = trim_pod(body), trim_job(body)
    assert "image" not in pod["spec"]
    assert "schedulerName" not in pod["spec"]
    assert "annotations" not in pod["metadata"]
    assert pod["status"]["container"]["terminated"]["exitCode"] == 1
    assert on_the_wire(pod) < 6 * 4096
    assert on_the_wire(batch_job) < 2 * 4096


def test_names_of_usual_length_are_kept_whole():
    annotations = {ACTIVE_SECONDS_ANNOTATION: "3600"}
    image = f"registry.example.org/{'team/' * 20}trainer@sha256:{'0' * 64}"
    spec = {"schedulerName": "batch", "containers": [{"name": CONTAINER, "image": image}]}
    pod = trim_pod(labelled(metadata={"annotations": annotations}, spec=spec, status={}))
    assert pod["spec"] == {"nodeName": "", "schedulerName": "batch", "image": image}
    assert pod["metadata"]["annotations"] == annotations
    assert pod["metadata"]["owner"] == {"kind": "Job", "name": "n", "uid": "u"}


def test_of_a_workload_with_a_huge_owner_the_job_is_not_known():
    workload = kueue_workload("admitted")
    owner = {"kind": "Job", "name": HUGE, "uid": "u", "controller": True}
    workload["metadata"]["ownerReferences"] = [owner]
    workload["status"] = {"conditions": [{"type": "Evicted", "message": HUGE}]}
    kept = trim_workload(workload)
    assert kept["metadata"]["job"] == ""
    assert on_the_wire(kept) < 2 * 4096


def test_the_objects_above_are_within_the_bounds_and_near_them():
    FineTuneJob.from_wire(job(**LARGE))
    assert len(LARGE["model"]["chatTemplate"]["text"]) > 0.9 * MAX_PART_LENGTHS["model"]
