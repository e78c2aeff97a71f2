"""Progress pushes with real projected tokens, reviewed by a real API server."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.resource import PODS
from finetune_operator.progress import endpoint
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    connection_of,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture(autouse=True)
def prompt_refusals(monkeypatch):
    monkeypatch.setattr(endpoint, "REFUSAL_DELAY_SECONDS", 0.0)


async def token_of(connection, namespace, pod, *, audience="finetune.dev") -> str:
    """What the kubelet does for a projected volume."""
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [audience],
            "expirationSeconds": 3600,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"],
            },
        },
    }
    url = f"{connection.server}/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    session = connection.open_session(
        max_connections=1, user_agent="finetune-test", attach_credentials=True
    )
    async with session, session.post(url, json=request) as response:
        return (await response.json())["status"]["token"]


REPORT = {
    "trainerStatus": {
        "progressPercentage": 42,
        "estimatedRemainingSeconds": 60,
        "metrics": [
            {"name": "loss", "value": "0.5123"},
            {"name": "grad_norm", "value": "nan"},
            {"name": "total_steps", "value": "171"},
        ],
        "lastUpdatedTime": "2026-11-24T00:00:00+00:00",
    },
    "finetune": {"step": 72, "epoch": 1.25},
}


@pytest.fixture
async def training(control_plane, namespace):
    """Two jobs in training, a leading replica and one that only serves progress."""
    connection = connection_of(control_plane)

    def script(job, stage, attempt):
        return Fate() if stage is Stage.TRAIN else success(stage)

    async with open_client(connection) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        config = test_config(namespace, progress_url="http://progress:8090")
        waits = test_config(
            namespace, leader_election=True, leader_election_namespace="no-such-namespace"
        )
        async with (
            kubelet.running(),
            open_client(connection) as client_of_leader,
            open_client(connection) as client_of_standby,
            running_manager(client_of_leader, config) as leader,
            running_manager(client_of_standby, waits) as standby,
        ):
            for name in ("one", "two"):
                await client.create(FINETUNEJOBS, finetunejob(name, namespace))
            for name in ("one", "two"):

                async def is_training(name=name):
                    return holds(await get_job(client, namespace, name), "Training")

                await eventually_async(is_training, timeout=60, interval=0.2)
            pods = {
                pod["metadata"]["labels"]["finetune.dev/job"]: pod
                for pod in (await client.list(PODS, namespace)).items
                if pod["metadata"]["labels"]["finetune.dev/stage"] == "train"
            }
            yield connection, client, namespace, pods, leader, standby


async def push(manager, namespace, job, token, *, stage="train", body=REPORT) -> int:
    url = f"http://127.0.0.1:{manager.ports['progress']}/progress/{namespace}/{job}/{stage}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers) as response,
    ):
        return response.status


async def test_a_pod_reports_its_own_job_through_any_replica_and_nothing_else(training):
    connection, client, namespace, pods, leader, standby = training
    token = await token_of(connection, namespace, pods["one"])
    assert await push(standby, namespace, "one", token) == 200

    async def is_reported():
        status = (await get_job(client, namespace, "one"))["status"]
        return status if status.get("progress") else None

    status = await eventually_async(is_reported, timeout=20)
    assert status["progress"]["step"] == 72
    assert status["progress"]["totalSteps"] == 171
    assert status["progress"]["percent"] == 42
    assert status["progress"]["epoch"] == "1.25"
    assert status["metrics"] == [{"name": "loss", "value": "0.5123", "step": 72}]
    managers = {
        entry["manager"]
        for entry in (await get_job(client, namespace, "one"))["metadata"]["managedFields"]
    }
    assert {"finetune-operator", "finetune-progress"} <= managers
    assert await push(leader, namespace, "two", token) == 403
    assert await push(leader, namespace, "one", token, stage="prepare") == 403
    assert await push(leader, "default", "one", token) == 403
    assert await push(leader, namespace, "one", "") == 401
    assert await push(leader, namespace, "one", "nonsense") == 401
    assert await push(leader, namespace, "one", token, stage="bogus") == 404
    wrong = await token_of(connection, namespace, pods["one"], audience="vault")
    assert await push(leader, namespace, "one", wrong) == 401
    assert await push(leader, namespace, "one", token, body=[1]) == 400


async def test_progress_is_coalesced_to_one_write_per_interval(training):
    connection, client, namespace, pods, leader, _ = training
    token = await token_of(connection, namespace, pods["one"])
    written = leader.registry.get_sample_value
    for step in range(30):
        body = {**REPORT, "finetune": {"step": step}}
        assert await push(leader, namespace, "one", token, body=body) == 200

    async def is_reported():
        return (await get_job(client, namespace, "one"))["status"].get("progress")

    await eventually_async(is_reported, timeout=20)
    assert written("status_writes_total", {"outcome": "written"}) <= 2


async def test_progress_starts_again_with_the_next_stage(control_plane, namespace):
    connection = connection_of(control_plane)

    has_looked = asyncio.Event()

    def script(job, stage, attempt):
        return Fate() if stage is Stage.TRAIN else success(stage, until=has_looked.wait)

    async with open_client(connection) as client, open_client(connection) as own:
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        config = test_config(namespace, progress_url="http://progress:8090")
        async with kubelet.running(), running_manager(own, config) as manager:
            await client.create(FINETUNEJOBS, finetunejob("one", namespace))

            async def prepare_pod():
                found = (await client.list(PODS, namespace)).items
                return found[0] if found and found[0]["status"]["phase"] == "Running" else None

            pod = await eventually_async(prepare_pod, timeout=30)
            token = await token_of(connection, namespace, pod)
            body = {"trainerStatus": {"progressPercentage": 100}, "finetune": {"step": 450}}

            async def is_accepted():
                return (
                    await push(manager, namespace, "one", token, stage="prepare", body=body) < 300
                )

            await eventually_async(is_accepted)

            async def shown():
                job = await get_job(client, namespace, "one")
                return (job.get("status") or {}).get("progress") or {}

            async def is_prepared():
                progress = await shown()
                return progress.get("percent") == 100 and "step" not in progress

            await eventually_async(is_prepared)
            has_looked.set()

            async def is_training():
                return holds(await get_job(client, namespace, "one"), "Training")

            await eventually_async(is_training, timeout=60, interval=0.1)
            progress = await shown()
            assert (progress["stage"], progress["percent"]) == ("train", 0)
            assert (await get_job(client, namespace, "one"))["status"]["reason"] == "Running"
