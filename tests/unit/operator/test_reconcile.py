"""The reconciler around the plan: what it reads, and what it tells when it cannot go on."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from finetune_operator.controllers import finetunejob as controller
from finetune_operator.controllers.caches import Caches
from finetune_operator.controllers.finetunejob import FineTuneJobReconciler
from finetune_operator.kube.workqueue import WorkQueue
from support.clock import FakeClock
from support.fake_client import FakeClient
from unit.operator.builders import CONFIG, NOW, condition, job

KEY = ("team-a", "headlines")


class Recorder:
    """Keeps what is recorded."""

    def __init__(self):
        self.events = []

    def record(self, resource, obj, kind, reason, message):
        self.events.append((obj["metadata"]["name"], kind, reason, message))


def world_of(body):
    """Return a reconciler whose cache holds one FineTuneJob, its client and its Events."""
    client, recorder, rng = FakeClient(), Recorder(), random.Random(1)
    caches = Caches(
        client,
        CONFIG,
        wake=lambda key, priority: None,
        forget=lambda gone: None,
        has_kueue=False,
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
        client=client, caches=caches, reconciler=reconciler, events=recorder.events
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
