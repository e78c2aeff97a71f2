"""The API server refuses, breaks, restarts; watches are cut while objects vanish."""

from __future__ import annotations

import logging
import random

import aiohttp
import pytest

from control_plane.fault_proxy import FaultProxy
from control_plane.observer import Observer
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Kubelet, success
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    OperatorProcess,
    child_jobs,
    condition,
    connection_of,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)
from kit.servers.ports import free_port


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("finetune_operator").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("finetune_operator").setLevel(logging.NOTSET)


@pytest.mark.parametrize("fault", [403, 409, 429, 503, "reset", "lost answer"])
async def test_jobs_complete_although_every_fourth_request_fails(control_plane, namespace, fault):
    rng = random.Random(str(fault))

    def decide(request):
        is_watch = request.query.get("watch") in ("1", "true")
        return fault if not is_watch and rng.random() < 0.25 else None

    connection = connection_of(control_plane)
    proxy = FaultProxy(connection, decide)
    async with open_client(connection) as client, proxy.running():
        kubelet, observer = Kubelet(client, namespaces=(namespace,)), Observer(client, namespace)
        through_proxy = connection_of(control_plane, server=proxy.url)
        async with (
            kubelet.running(),
            observer.watching(),
            open_client(through_proxy) as faulty,
            running_manager(faulty, test_config(namespace)),
        ):
            for index in range(3):
                await client.create(FINETUNEJOBS, finetunejob(f"job-{index}", namespace))
            await eventually_async(lambda: observer.num_ended() == 3, timeout=120, interval=0.2)
        assert observer.violations == []
        assert proxy.faults[fault] > 5
        assert len(await child_jobs(client, namespace)) == 9


async def test_a_refused_creation_is_told_in_the_status_and_tried_again(control_plane, namespace):
    forbidden = True

    def decide(request):
        is_job = request.path.endswith(f"/namespaces/{namespace}/jobs")
        return 403 if forbidden and request.method == "POST" and is_job else None

    connection = connection_of(control_plane)
    proxy = FaultProxy(connection, decide)
    async with open_client(connection) as client, proxy.running():
        kubelet = Kubelet(client, namespaces=(namespace,))
        through_proxy = connection_of(control_plane, server=proxy.url)
        async with (
            kubelet.running(),
            open_client(through_proxy) as faulty,
            running_manager(faulty, test_config(namespace)),
        ):
            await client.create(FINETUNEJOBS, finetunejob("refused", namespace))

            async def is_told():
                found = condition(await get_job(client, namespace, "refused"), "DatasetReady")
                return found and found["reason"] == "Forbidden" and found

            told = await eventually_async(is_told, timeout=20)
            assert "injected by the test" in told["message"]
            forbidden = False

            async def is_complete():
                return holds(await get_job(client, namespace, "refused"), "Complete")

            await eventually_async(is_complete, timeout=60, interval=0.2)


async def test_jobs_deleted_while_the_watch_was_cut_are_forgotten(
    control_plane, namespace, tmp_path
):
    """kopf never tells of objects that vanished during a 410; the repair of the cache does."""
    is_cut = False
    resumed: set[str] = set()

    def decide(request):
        if request.query.get("watch") not in ("1", "true"):
            return None
        if is_cut:
            return 503
        if request.path in resumed:
            resumed.discard(request.path)
            return 410
        watched.add(request.path)
        return None

    watched: set[str] = set()

    connection = connection_of(control_plane)
    proxy = FaultProxy(connection, decide)
    async with open_client(connection) as client, proxy.running():
        kubeconfig = plain_kubeconfig(tmp_path, proxy.url)
        operator = OperatorProcess(
            control_plane,
            tmp_path,
            namespaces=[namespace],
            leaderElection=False,
            resyncSeconds=2,
            metricsPort=free_port(),
            kubeconfig=str(kubeconfig),
        )
        try:
            for index in range(6):
                body = finetunejob(f"job-{index}", namespace, suspend=True)
                await client.create(FINETUNEJOBS, body)
            count = lambda: num_jobs(operator.settings["metricsPort"])  # noqa: E731
            await eventually_async(lambda: is_equal(count, 6), timeout=40, interval=0.2)
            is_cut = True
            proxy.cut_watches()
            for index in range(4):
                await client.delete(FINETUNEJOBS, namespace, f"job-{index}")
            resumed |= watched
            is_cut = False
            await eventually_async(lambda: is_equal(count, 2), timeout=60, interval=0.2)
            await client.create(FINETUNEJOBS, finetunejob("late", namespace, suspend=True))
            await eventually_async(lambda: is_equal(count, 3), timeout=60, interval=0.2)
            assert proxy.faults[410] >= 3
            assert operator.process.poll() is None, operator.tail()
        finally:
            operator.stop()


async def test_a_restart_of_the_api_server_loses_nothing(private_control_plane, tmp_path):
    cluster = private_control_plane
    install_crd(cluster)
    cluster.kubectl("create", "namespace", "restart")
    connection = connection_of(cluster)
    async with open_client(connection) as client:
        kubelet = Kubelet(
            client,
            namespaces=("restart",),
            script=lambda job, stage, attempt: success(stage, run_seconds=1.0),
        )
        observer = Observer(client, "restart")
        operator = OperatorProcess(cluster, tmp_path, namespaces=["restart"])
        try:
            async with kubelet.running(), observer.watching():
                for index in range(10):
                    await client.create(FINETUNEJOBS, finetunejob(f"job-{index}", "restart"))
                await eventually_async(lambda: len(observer.jobs) >= 10, timeout=40)
                cluster.stop_api_server()
                cluster.start_api_server()

                def all_done_or_restart():
                    operator.restart_if_ended()
                    return observer.num_ended() == 10

                await eventually_async(all_done_or_restart, timeout=180, interval=0.5)
                assert observer.violations == []
                assert len(observer.jobs) == 30
        finally:
            operator.stop()


def plain_kubeconfig(folder, url):
    path = folder / "kubeconfig-proxy"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: proxy\n"
        f"clusters: [{{name: proxy, cluster: {{server: '{url}'}}}}]\n"
        "users: [{name: nobody, user: {}}]\n"
        "contexts: [{name: proxy, context: {cluster: proxy, user: nobody}}]\n"
    )
    return path


async def num_jobs(port: int) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith("finetune_jobs{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


async def is_equal(count, expected: int) -> bool:
    return await count() == expected
