"""The caches of a cluster that lacks what the configuration or this version expects."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory import caches as caches_module
from finetune_operator.controllers.memory.approvals import FINETUNEAPPROVALS
from finetune_operator.controllers.memory.caches import Caches
from finetune_operator.integrations.kueue.workload import WORKLOADS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache import informer as informer_module
from kit.cluster.workloads import kueue_workload
from kit.processes.eventually import eventually_async
from kit.servers.scripted_server import reply_list, reply_status, scripted_server, stream


def finetunejob(name: str, version: int, **spec: object) -> dict[str, object]:
    return {
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
        },
        "spec": spec,
    }


@asynccontextmanager
async def running_caches(list_kind, woken, *, has_kueue, config=None):
    """Run caches whose lists ``list_kind`` answers; names of woken jobs go to ``woken``."""
    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(list_kind)
        server.watches.append(stream(then="hold"))
        caches = Caches(
            client,
            config or OperatorConfig(),
            wake=lambda key, priority: woken.append(key[1]),
            forget=lambda job: None,
            has_kueue=has_kueue,
            rng=random.Random(1),
        )
        running = [asyncio.create_task(informer.run()) for informer in caches.informers]
        try:
            await eventually_async(lambda: caches.is_synced)
            yield caches
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def test_without_kueue_all_is_synced_and_queued_jobs_are_looked_at_when_it_comes(
    monkeypatch,
):
    monkeypatch.setattr(informer_module, "ABSENT_RETRY_SECONDS", 0.02)
    kueue_is_there = asyncio.Event()

    async def list_kind(request):
        if WORKLOADS.root in request.path and not kueue_is_there.is_set():
            return await reply_status(404, "NotFound")(request)
        return await reply_list(version="5")(request)

    woken: list[str] = []
    async with running_caches(list_kind, woken, has_kueue=True) as caches:
        assert caches.workloads_informer is None, "jobs with a queue are told: no Kueue"
        assert caches.workload_of("uid-1") is None
        caches.observe("ADDED", finetunejob("queued", 6, queueName="q"))
        caches.observe("ADDED", finetunejob("unqueued", 7))
        woken.clear()
        kueue_is_there.set()
        await eventually_async(lambda: caches.workloads_informer is not None)
        assert woken == ["queued"]


async def test_the_jobs_of_workloads_that_wait_are_known_and_woken_by_their_workload(monkeypatch):
    def job(name, label):
        labels = {"finetune.dev/job": label, "finetune.dev/stage": "train"} if label else {}
        metadata = {"name": name, "namespace": "a", "uid": f"uid-{name}", "labels": labels}
        return {"metadata": {**metadata, "resourceVersion": "1"}, "spec": {}, "status": {}}

    woken = []
    async with KubeClient(Transport(Connection(server="http://127.0.0.1:9"))) as client:
        caches = Caches(
            client,
            OperatorConfig(),
            wake=lambda key, priority: woken.append(key),
            forget=lambda job: None,
            has_kueue=True,
            rng=random.Random(1),
        )
        informer = caches.informers[-1]
        monkeypatch.setattr(informer_module.Informer, "is_served", False)
        assert caches.waiting_queues() == set(), "Kueue is not served yet"
        monkeypatch.setattr(informer_module.Informer, "is_served", True)
        caches.jobs.absorb(job("mine-train", "mine"))
        caches.jobs.absorb(job("runs-train", "runs"))
        for state, owner in (("waiting", "mine-train"), ("admitted", "runs-train")):
            workload = kueue_workload(state)
            workload["metadata"] |= {
                "namespace": "a",
                "name": f"job-{owner}",
                "resourceVersion": "5",
            }
            workload["metadata"]["ownerReferences"][0]["name"] = owner
            informer.store.absorb(workload)
        foreign = kueue_workload("waiting")
        foreign["metadata"] |= {"namespace": "a", "name": "foreign", "resourceVersion": "6"}
        informer.store.absorb(foreign)
        assert caches.waiting_queues() == {("a", "small")}
        woken.clear()
        caches.wake_workload(("a", "job-mine-train"))
        caches.wake_workload(("a", "foreign"))
        caches.wake_workload(("a", "gone"))
        assert woken == [("a", "mine")]


def approval(name: str, version: int, job: str) -> dict[str, object]:
    spec = {"job": job, "subject": "DataSet", "digest": "d" * 64, "decision": "Approved"}
    metadata = {"name": name, "namespace": "team-a", "uid": f"uid-{name}"}
    return {"metadata": {**metadata, "resourceVersion": str(version)}, "spec": spec}


@pytest.mark.parametrize(("status", "reason"), [(404, "NotFound"), (403, "Forbidden")])
async def test_without_approvals_all_is_synced_and_jobs_that_need_one_are_looked_at_when_they_come(
    monkeypatch, status, reason
):
    monkeypatch.setattr(informer_module, "ABSENT_RETRY_SECONDS", 0.02)
    is_readable = asyncio.Event()

    async def list_kind(request):
        if FINETUNEAPPROVALS.plural in request.path:
            if not is_readable.is_set():
                return await reply_status(status, reason)(request)
            return await reply_list(approval("a", 4, "held"), version="5")(request)
        return await reply_list(version="5")(request)

    woken: list[str] = []
    async with running_caches(list_kind, woken, has_kueue=False) as caches:
        assert caches.approvals.of(("team-a", "held")) is None, "unknown, not: nobody has"
        caches.observe("ADDED", finetunejob("held", 6, dataset={"approval": "Required"}))
        caches.observe("ADDED", finetunejob("free", 7, dataset={}))
        woken.clear()
        is_readable.set()
        await eventually_async(lambda: caches.approvals.of(("team-a", "held")))
        assert set(woken) == {"held"}
        assert caches.approvals.of(("team-a", "free")) == []
        woken.clear()
        caches.approvals.informer.store.observe("ADDED", approval("b", 8, "free"))
        caches.approvals.informer.store.observe("ADDED", approval("c", 9, "later"))
        caches.approvals.informer.store.observe("DELETED", approval("a", 10, "held"))
        assert woken == ["free", "held"], "of jobs that exist, at once, also when one goes"
        assert caches.approvals.of(("team-a", "held")) == []
        (early,) = caches.approvals.of(("team-a", "later"))
        assert early["metadata"]["name"] == "c", "kept for a job that comes later"


async def test_approvals_are_unreadable_only_in_the_namespace_that_may_not_be_listed():
    async def list_kind(request):
        if "/namespaces/team-b/" in request.path:
            return await reply_status(403, "Forbidden")(request)
        return await reply_list(version="5")(request)

    woken: list[str] = []
    config = OperatorConfig(namespaces=["team-a", "team-b"])
    async with running_caches(list_kind, woken, has_kueue=True, config=config) as caches:
        assert caches.approvals.of(("team-a", "held")) == []
        assert caches.approvals.of(("team-b", "held")) is None
        assert caches.has_kueue_in("team-a")
        assert not caches.has_kueue_in("team-b")
        assert [caches.hides_workloads(each) for each in config.namespaces] == [False, True]


async def test_workloads_that_cannot_be_listed_at_first_hold_up_jobs_with_a_queue_only(
    monkeypatch,
):
    monkeypatch.setattr(caches_module, "KUEUE_PATIENCE_SECONDS", 0.1)
    kueue_is_well = asyncio.Event()

    async def list_kind(request):
        if WORKLOADS.root in request.path and not kueue_is_well.is_set():
            answer = reply_status(500, "InternalError", "conversion webhook failed")
            return await answer(request)
        return await reply_list(version="5")(request)

    woken: list[str] = []
    async with running_caches(list_kind, woken, has_kueue=True) as caches:
        assert not caches.has_kueue_in("team-a")
        assert caches.hides_workloads("team-a")
        caches.observe("ADDED", finetunejob("queued", 6, queueName="q"))
        caches.observe("ADDED", finetunejob("unqueued", 7))
        woken.clear()
        kueue_is_well.set()
        await eventually_async(lambda: caches.has_kueue_in("team-a"))
        assert not caches.hides_workloads("team-a")
        assert woken == ["queued"]


async def test_jobs_that_ask_for_the_same_keep_it_once():
    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        caches = Caches(
            client,
            OperatorConfig(),
            wake=lambda key, priority: None,
            forget=lambda job: None,
            has_kueue=False,
            rng=random.Random(1),
        )
        for version, name in enumerate(("a", "b", "c"), start=1):
            training = {"epochs": "3" if name == "c" else "2", "seed": 1}
            body = finetunejob(name, version, training=training, model={"uri": f"hf://{name}"})
            caches.observe("ADDED", body)
        a, b, c = (caches.finetunejobs.get("team-a", name)["spec"] for name in "abc")
    assert a["training"] is b["training"]
    assert c["training"] == {"epochs": "3", "seed": 1}
    assert [spec["model"]["uri"] for spec in (a, b, c)] == ["hf://a", "hf://b", "hf://c"]
