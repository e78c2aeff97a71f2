"""How the parts of a replica are wired: what reaches the queue of FineTuneJobs."""

from __future__ import annotations

import random

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory import caches as caches_module
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.clock import SystemClock
from finetune_operator.manager import Manager
from finetune_operator.progress import writer
from finetune_operator.progress.report import Report
from kit.builders.jobs import job
from kit.cluster.workloads import kueue_workload
from kit.processes.eventually import eventually_async
from kit.servers.scripted_server import reply, reply_list, reply_status, scripted_server, stream

CONFIG = OperatorConfig(
    kueue="on",
    leader_election=False,
    bind_address="127.0.0.1",
    **dict.fromkeys(("progress_port", "probe_port", "metrics_port"), 0),
)


def child(name: str, version: int, **status: object) -> dict[str, object]:
    labels = {"finetune.dev/job": "headlines", "finetune.dev/stage": "train"}
    metadata = {"name": name, "namespace": "team-a", "uid": f"uid-{name}", "labels": labels}
    return {"metadata": {**metadata, "resourceVersion": str(version)}, "spec": {}, "status": status}


def workload(version: int) -> dict[str, object]:
    found = kueue_workload("waiting")
    found["metadata"] |= {"namespace": "team-a", "name": "w", "resourceVersion": str(version)}
    found["metadata"]["ownerReferences"][0]["name"] = "train"
    return found


@pytest.fixture
async def manager():
    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(reply_list(version="5"))
        server.watches.append(stream(then="hold"))
        found = Manager(client, CONFIG, identity="x", clock=SystemClock(), rng=random.Random(1))
        await found.start()
        try:
            await eventually_async(lambda: found.is_ready)
            yield found
        finally:
            await found.stop()


async def test_changes_of_jobs_pods_and_workloads_wake_the_finetunejob_they_belong_to(manager):
    caches, queue = manager.caches, manager._finetunejobs.queue
    stores = {
        "job": (caches.jobs, child("train", 11, active=1)),
        "pod": (caches.pods, child("train-0", 12, phase="Running")),
        "workload": (caches.workloads_informer.store, workload(13)),
    }
    for store, obj in stores.values():
        store.observe("ADDED", obj)
    assert queue.num_delayed == 0, "nobody's: there is no such FineTuneJob yet"
    # Placed without waking: only what follows is looked at.
    with caches.quiet():
        caches.finetunejobs.observe("ADDED", job())
        for number, (store, obj) in enumerate(stores.values()):
            obj["metadata"]["resourceVersion"] = str(20 + number)
            store.observe("MODIFIED", obj)
    assert queue.num_delayed == 0
    for name, (store, obj) in stores.items():
        store.observe("DELETED", {**obj, "metadata": {**obj["metadata"], "resourceVersion": "40"}})
        assert queue.num_delayed == 1, name
        await eventually_async(lambda: queue.num_delayed == 0, timeout=5)
        if name == "job":
            # The Workload is found through its Job.
            store.observe("ADDED", child("train", 50))


async def test_every_kind_is_told_to_prometheus(manager):
    told = {family.name for family in manager.registry.collect()}
    assert {"finetune_jobs", "finetune_sweeps", "finetune_endpoints"} <= told


async def test_the_progress_of_a_job_is_forgotten_after_its_end(manager, monkeypatch):
    monkeypatch.setattr(writer, "CURVE_DELAY_SECONDS", 0.0)
    store, body = manager.caches.finetunejobs, job()
    store.observe("ADDED", body)
    report = Report.model_validate({"finetune": {"step": 20, "totalSteps": 50}})
    assert manager._writer.accept(body, Stage.TRAIN, report)
    assert manager._writer._latest
    metadata = {**body["metadata"], "resourceVersion": "90"}
    status = {"conditions": [{"type": "Failed", "status": "True", "reason": "Crashed"}]}
    store.observe("MODIFIED", {**body, "metadata": metadata, "status": status})
    await eventually_async(lambda: not manager._writer._latest)


def one_namespace_is_gone(request):
    return (403, "Forbidden") if "/namespaces/team-b/" in request.path else None


def kueue_is_down(request):
    return (500, "InternalError") if "/workloads" in request.path else None


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        (one_namespace_is_gone, {"kueue": "off", "namespaces": ["team-b", "team-a"]}),
        (kueue_is_down, {"kueue": "on"}),
    ],
)
async def test_what_cannot_be_listed_elsewhere_keeps_no_job_waiting(fault, settings, monkeypatch):
    monkeypatch.setattr(caches_module, "KUEUE_PATIENCE_SECONDS", 0.2)
    body = job()
    body["metadata"]["resourceVersion"] = "3"
    made = []

    async def list_kind(request):
        if refused := fault(request):
            return await reply_status(*refused)(request)
        is_job = request.path.endswith("/finetunejobs")
        return await reply_list(*([body] if is_job else []), version="5")(request)

    async def answer(request):
        if request.method == "GET":
            return await reply(body)(request)
        sent = await request.json()
        made.append(sent.get("kind"))
        metadata = sent.setdefault("metadata", {})
        metadata |= {"uid": f"uid-{len(made)}", "resourceVersion": str(100 + len(made))}
        return await reply({"spec": {}, **sent})(request)

    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(list_kind)
        server.watches.append(stream(then="hold"))
        server.others.append(answer)
        config = CONFIG.model_copy(update=settings)
        found = Manager(client, config, identity="x", clock=SystemClock(), rng=random.Random(1))
        await found.start()
        found.observe("ADDED", body)
        try:
            await eventually_async(lambda: "Job" in made, timeout=30)
            assert found.is_ready
        finally:
            await found.stop()
