"""Two replicas as processes, with kopf and a Lease; one of them is stopped in its tracks."""

from __future__ import annotations

import signal

import pytest

from control_plane.observer import Observer
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import LEASES
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Kubelet, success
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import OperatorProcess, connection_of, open_client

LEASE = {
    "leaseDurationSeconds": 15,
    "renewDeadlineSeconds": 12,
    "retryPeriodSeconds": 0.5,
}


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


async def holder(client, namespace):
    try:
        lease = await client.get(LEASES, namespace, "finetune-operator")
    except NotFound:
        return ""
    return lease["spec"].get("holderIdentity") or ""


async def test_a_leader_that_was_frozen_beyond_its_lease_does_no_harm_when_it_wakes(
    control_plane, namespace, tmp_path
):
    operators = {}
    settings = {"namespaces": [namespace], "leaderElectionNamespace": namespace, **LEASE}
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(
            client,
            namespaces=(namespace,),
            script=lambda job, stage, attempt: success(stage, run_seconds=0.5),
        )
        observer = Observer(client, namespace)
        try:
            for name in ("one", "two"):
                operators[name] = OperatorProcess(
                    control_plane, tmp_path / name, pod_name=name, **settings
                )
            async with kubelet.running(), observer.watching():
                first = await eventually_async(lambda: holder(client, namespace), timeout=40)
                frozen, other = operators.values()
                if first.startswith("two"):
                    frozen, other = other, frozen
                for index in range(20):
                    await client.create(FINETUNEJOBS, finetunejob(f"job-{index:02d}", namespace))
                await eventually_async(lambda: len(observer.jobs) >= 3, timeout=30)
                frozen.signal(signal.SIGSTOP)

                async def is_taken_over():
                    now = await holder(client, namespace)
                    return now and now != first

                def have_ended(num_jobs):
                    # On a busy machine it may fail to renew so short a lease, and end.
                    other.restart_if_ended()
                    return observer.num_ended() >= num_jobs

                await eventually_async(is_taken_over, timeout=40)
                await eventually_async(lambda: have_ended(10), timeout=90)
                frozen.signal(signal.SIGCONT)
                await eventually_async(lambda: have_ended(20), timeout=120)
                await eventually_async(lambda: frozen.process.poll() is not None, timeout=30)
                assert observer.num_ended() == 20
                assert other.log.read_text().count("election ended: ") >= other.num_restarts
                assert observer.violations == []
                assert len(observer.jobs) == 60
                assert await holder(client, namespace) != first
                assert frozen.process.returncode == 1
        finally:
            for operator in operators.values():
                operator.stop()


async def test_a_leader_that_is_asked_to_stop_hands_over_at_once(
    control_plane, namespace, tmp_path
):
    settings = {
        "namespaces": [namespace],
        "leaderElectionNamespace": namespace,
        # So long that waiting for it to run out would fail the test.
        "leaseDurationSeconds": 120,
        "renewDeadlineSeconds": 60,
        "retryPeriodSeconds": 0.5,
    }
    async with open_client(connection_of(control_plane)) as client:
        observer = Observer(client, namespace)
        first = OperatorProcess(control_plane, tmp_path / "one", **settings)
        second = None
        try:
            before = await eventually_async(lambda: holder(client, namespace), timeout=40)
            second = OperatorProcess(control_plane, tmp_path / "two", **settings)
            assert first.stop() == 0, first.tail()

            async def is_taken_over():
                now = await holder(client, namespace)
                return now and now != before

            await eventually_async(is_taken_over, timeout=30)
            async with observer.watching():
                await client.create(FINETUNEJOBS, finetunejob("after", namespace))
                await eventually_async(lambda: len(observer.jobs) == 1, timeout=30)
        finally:
            for operator in (first, second):
                if operator is not None:
                    operator.stop()
