"""The caches of a cluster that does without Kueue although the configuration says otherwise."""

from __future__ import annotations

import asyncio
import random

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.caches import Caches
from finetune_operator.integrations.kueue.workload import WORKLOADS
from finetune_operator.kube import informer as informer_module
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.connection import Connection
from finetune_operator.kube.transport import Transport
from support.eventually import eventually_async
from support.scripted_server import reply_list, reply_status, scripted_server, stream


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
    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(list_kind)
        server.watches.append(stream(then="hold"))
        caches = Caches(
            client,
            OperatorConfig(),
            wake=lambda key, priority: woken.append(key[1]),
            forget=lambda job: None,
            has_kueue=True,
            rng=random.Random(1),
        )
        running = [asyncio.create_task(informer.run()) for informer in caches.informers]
        try:
            await eventually_async(lambda: caches.is_synced)
            assert caches.workloads_informer is None, "jobs with a queue are told: no Kueue"
            assert caches.workload_of("uid-1") is None
            caches.observe("ADDED", finetunejob("queued", 6, queueName="q"))
            caches.observe("ADDED", finetunejob("unqueued", 7))
            woken.clear()
            kueue_is_there.set()
            await eventually_async(lambda: caches.workloads_informer is not None)
            assert woken == ["queued"]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
