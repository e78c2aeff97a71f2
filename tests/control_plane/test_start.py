"""An operator that is started before anything it needs is there."""

from __future__ import annotations

import aiohttp

from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Kubelet, success
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    OperatorProcess,
    condition,
    connection_of,
    get_job,
    holds,
    open_client,
)
from kit.servers.ports import free_port

NAMESPACE = "default"


async def ask(port: int, path: str) -> tuple[int, str]:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as response,
        ):
            return response.status, await response.text()
    except aiohttp.ClientConnectionError as error:
        return 0, str(error)


async def test_it_waits_for_its_crd_alive_and_does_without_a_kueue_that_is_not_there(
    private_control_plane, tmp_path
):
    port = free_port()
    operator = OperatorProcess(
        private_control_plane,
        tmp_path,
        namespaces=[NAMESPACE],
        leaderElectionNamespace=NAMESPACE,
        probePort=port,
        kueue="on",
    )
    try:

        async def readiness_tells(words):
            status, text = await ask(port, "/readyz")
            return words in text and status

        told = "CustomResourceDefinition of FineTuneJob is not installed"
        assert await eventually_async(lambda: readiness_tells(told), timeout=40) == 503
        assert await ask(port, "/healthz") == (200, "ok")
        install_crd(private_control_plane)
        assert await eventually_async(lambda: readiness_tells("leading"), timeout=60) == 200

        async with open_client(connection_of(private_control_plane)) as client:
            kubelet = Kubelet(
                client,
                namespaces=(NAMESPACE,),
                script=lambda job, stage, attempt: success(stage, run_seconds=0.2),
            )
            queued = finetunejob("queued", NAMESPACE)
            queued["spec"]["queueName"] = "team-a"
            unqueued = finetunejob("unqueued", NAMESPACE)
            unqueued["spec"].pop("queueName", None)
            async with kubelet.running():
                for job in (queued, unqueued):
                    await client.create(FINETUNEJOBS, job)

                async def waits_for_kueue():
                    seen = condition(await get_job(client, NAMESPACE, "queued"), "QuotaReserved")
                    return seen is not None and seen["reason"] == "KueueNotInstalled"

                async def is_complete():
                    return holds(await get_job(client, NAMESPACE, "unqueued"), "Complete")

                await eventually_async(waits_for_kueue, timeout=60)
                await eventually_async(is_complete, timeout=60)
        assert operator.process.poll() is None, operator.tail()
    finally:
        operator.stop()
