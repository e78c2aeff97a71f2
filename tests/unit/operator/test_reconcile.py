"""The reconciler around the plan: what it reads, and what it tells when it cannot go on."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from finetune_api.trainer import Stage
from finetune_operator.controllers import finetunejob as controller
from finetune_operator.controllers.caches import Caches
from finetune_operator.controllers.children import Children
from finetune_operator.controllers.finetunejob import FineTuneJobReconciler
from finetune_operator.finetunejob.actions import ActivateWorkload, LookUpWarnings
from finetune_operator.kube.workqueue import WorkQueue
from finetune_operator.status.conditions import timestamp
from support.clock import FakeClock
from support.fake_client import FakeClient
from unit.operator.builders import CONFIG, NOW, at, condition, job, observe

KEY = ("team-a", "headlines")


class Recorder:
    """Keeps what is recorded."""

    def __init__(self):
        self.events = []

    def record(self, resource, obj, kind, reason, message):
        self.events.append((obj["metadata"]["name"], kind, reason, message))


def world_of(body, *, has_kueue=False):
    """Return a reconciler whose cache holds one FineTuneJob, its client and its Events."""
    client, recorder, rng = FakeClient(), Recorder(), random.Random(1)
    caches = Caches(
        client,
        CONFIG,
        wake=lambda key, priority: None,
        forget=lambda gone: None,
        has_kueue=has_kueue,
        rng=rng,
    )
    caches.observe("ADDED", body)
    stored = client.cluster.store(("finetunejobs", *KEY), body)
    caches.finetunejobs.absorb(stored)
    reconciler = FineTuneJobReconciler(
        client,
        caches,
        CONFIG,
        clock=FakeClock(NOW),
        recorder=recorder,
        queue=WorkQueue("finetunejob", rng=rng),
    )
    return SimpleNamespace(
        children=Children(client, caches),
        client=client,
        caches=caches,
        reconciler=reconciler,
        events=recorder.events,
    )


async def test_a_defect_of_the_operator_is_told_on_the_job(monkeypatch):
    def crash(*args):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(controller, "plan", crash)
    world = world_of(job())
    with pytest.raises(ZeroDivisionError):
        await world.reconciler.reconcile(KEY)
    ((name, kind, reason, message),) = world.events
    assert (name, kind, reason) == ("headlines", "Warning", "ReconcileError")
    assert "ZeroDivisionError: division by zero" in message


async def test_fields_of_a_newer_crd_are_ignored_in_stored_objects():
    body = job(newerDefault="x", resources={"nodes": 1, "newerDefault": True})
    body["metadata"]["newerField"] = 1
    world = world_of(body)
    await world.reconciler.reconcile(KEY)
    kinds = [sent["kind"] for verb, sent in world.client.writes if verb == "create"]
    assert kinds == ["ConfigMap", "Job"]
    stored = world.client.cluster.objects["configmaps", "team-a", "headlines-job"]
    assert "newer" not in stored["data"]["job.json"]
    status = world.client.cluster.objects["finetunejobs", *KEY]["status"]
    assert condition({"status": status}, "Accepted")["status"] == "True"


def event(seconds, reason, message="", kind="Normal"):
    return {
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": timestamp(at(seconds)),
    }


def warning(seconds, message, reason="FailedMount"):
    return event(seconds, reason, message, "Warning")


class Events:
    """A client that lists one pod's Events."""

    def __init__(self, items):
        self.items = items

    async def list(self, resource, namespace, *, field_selector, limit):
        assert field_selector == "involvedObject.kind=Pod,involvedObject.name=p"
        return self


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], ""),
        ([warning(190, "no secret")], "no secret"),
        ([warning(190, "later"), warning(185, "earlier")], "later"),
        ([warning(190, "no secret"), event(100, "Pulling")], "no secret"),
        ([warning(190, "no nodes", "FailedScheduling")], ""),
        ([warning(10, "not mounted yet")], ""),
        ([warning(190, "not mounted yet"), event(191, "Pulling")], ""),
        ([event(190, "Pulling"), warning(190, "not mounted yet")], ""),
        ([event(195, "Scheduled"), warning(190, "no secret")], "no secret"),
    ],
    ids=[
        "none", "present", "latest", "after an earlier container", "the scheduler's", "stale",
        "mounted since", "mounted in the same second", "another normal event",
    ],
)  # fmt: skip
async def test_a_warning_counts_while_it_lasts(events, expected):
    children = Children(Events(events), caches=None)
    action = LookUpWarnings(pods=("p",), since=at(20))
    found = await children.look_up_warnings(observe(job()), action)
    assert found.warnings == {"p": expected}


async def test_a_paused_workload_is_known_as_such_before_the_watch_tells():
    world = world_of(job(), has_kueue=True)
    workload = {
        "metadata": {
            "name": "w",
            "namespace": "team-a",
            "labels": {"kueue.x-k8s.io/job-uid": "uid-train"},
        },
        "spec": {"active": True},
    }
    world.caches.workloads_informer.store.absorb(
        world.client.cluster.store(("workloads", "team-a", "w"), workload)
    )
    action = ActivateWorkload(stage=Stage.TRAIN, name="w", active=False)
    await world.children.perform(observe(job()), action)
    assert world.caches.workload_of("uid-train")["spec"]["active"] is False
