"""The operator dies at any of its API calls, before or after the server took it."""

from __future__ import annotations

import asyncio
import random
import uuid

import pytest
from benchmarks.control_plane.simulation import finetunejob

from control_plane.cluster import (
    child_jobs,
    connection_of,
    get_job,
    holds,
    install_crd,
    open_client,
    running_manager,
    test_config,
)
from control_plane.kubelet import Kubelet
from control_plane.observer import Observer
from finetune_api.trainer import Stage
from finetune_operator.controllers.caches import FINETUNEJOBS
from finetune_operator.controllers.manager import Manager
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.clock import SystemClock
from finetune_operator.kube.informer import Informer
from finetune_operator.kube.transport import Transport
from support.eventually import eventually_async

MAX_CALLS_OF_A_LIFE = 40


class Crash(Exception):
    """The process is dead."""


class MortalTransport(Transport):
    """Dies at its n-th request; from then on nothing goes through."""

    def __init__(self, connection, *, dies_at: int, after_sending: bool) -> None:
        super().__init__(connection, user_agent="finetune-operator")
        self.num_calls = 0
        self.died = asyncio.Event()
        self._dies_at = dies_at
        self._after_sending = after_sending

    async def request(self, *args, **options):
        if self.died.is_set():
            raise Crash
        self.num_calls += 1
        if self.num_calls == self._dies_at:
            if self._after_sending:
                await super().request(*args, **options)
            self.died.set()
            raise Crash
        return await super().request(*args, **options)


async def run_until_death(connection, config, *, dies_at: int, after_sending: bool, until=None):
    """Run a replica until it dies or ``until`` holds; return whether it died."""
    transport = MortalTransport(connection, dies_at=dies_at, after_sending=after_sending)
    client = KubeClient(transport)
    manager = Manager(
        client,
        config,
        identity=f"mortal-{uuid.uuid4().hex[:6]}",
        clock=SystemClock(),
        rng=random.Random(dies_at),
    )
    host = None
    try:
        await manager.start()
        host = Informer(
            client, FINETUNEJOBS, namespaces=config.namespaces, transform=lambda obj: obj
        )
        host.store.add_handler(
            lambda kind, old, new: manager.observe(str(kind), dict(new if new is not None else old))
        )
        task = asyncio.create_task(host.run())
        died = asyncio.create_task(transport.died.wait())
        waits = [died]
        if until is not None:
            waits.append(asyncio.create_task(until()))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=120)
        for each in (task, *waits):
            each.cancel()
        await asyncio.gather(task, *waits, return_exceptions=True)
    except Crash:
        pass
    finally:
        # No flush, no release: what a killed process does.
        transport.died.set()
        await manager.stop()
        await client.aclose()
    return transport.num_calls >= dies_at


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture(autouse=True)
def quiet(caplog):
    # A dying replica logs a trace for every worker it had.
    import logging

    logging.getLogger("finetune_operator").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("finetune_operator").setLevel(logging.NOTSET)


async def completed(client, namespace, name):
    async def is_complete():
        job = await get_job(client, namespace, name)
        return job if holds(job, "Complete") else None

    return await eventually_async(is_complete, timeout=90, interval=0.3)


@pytest.mark.parametrize("after_sending", [False, True], ids=["before sending", "after sending"])
async def test_death_at_any_call_of_a_life_changes_nothing(control_plane, namespace, after_sending):
    """One job per crash point, all in one namespace, each with a replica that dies for it.

    The replicas serve the whole namespace, so every death hits whatever call comes then.
    """
    connection = connection_of(control_plane)
    async with open_client(connection) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        observer = Observer(client, namespace)
        async with kubelet.running(), observer.watching():
            for dies_at in range(1, MAX_CALLS_OF_A_LIFE + 1):
                name = f"crash-{dies_at:03d}"
                await client.create(FINETUNEJOBS, finetunejob(name, namespace))
                await run_until_death(
                    connection,
                    test_config(namespace),
                    dies_at=dies_at,
                    after_sending=after_sending,
                    until=lambda name=name: _ended(observer, name),
                )
            async with running_manager(client, test_config(namespace)):
                await eventually_async(
                    lambda: observer.num_ended() == MAX_CALLS_OF_A_LIFE, timeout=240, interval=0.3
                )
            assert observer.violations == []
            jobs = await child_jobs(client, namespace)
            assert len(jobs) == 3 * MAX_CALLS_OF_A_LIFE
            for dies_at in range(1, MAX_CALLS_OF_A_LIFE + 1):
                job = await get_job(client, namespace, f"crash-{dies_at:03d}")
                assert job["status"]["artifact"]["version"] == 1
                assert job["status"]["dataset"]["digest"] == "d" * 64
                assert [entry["name"] for entry in job["status"]["stages"]] == list(Stage)


async def _ended(observer: Observer, name: str) -> None:
    while True:
        for job in observer.finetunejobs.objects():
            if job["metadata"]["name"] == name and holds(job, "Complete"):
                return
        await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_thousand_deaths_make_no_second_job_and_lose_no_terminal_state(
    control_plane, namespace
):
    connection = connection_of(control_plane)
    rng = random.Random(20261124)
    num_jobs, num_deaths = 150, 0
    async with open_client(connection) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        observer = Observer(client, namespace)
        async with kubelet.running(), observer.watching():
            for index in range(num_jobs):
                await client.create(FINETUNEJOBS, finetunejob(f"job-{index:03d}", namespace))
            # The caches take four calls to fill; a death later than that hits a reconcile.
            while observer.num_ended() < num_jobs:
                died = await run_until_death(
                    connection,
                    test_config(namespace, num_workers=4),
                    dies_at=rng.randint(4, 9),
                    after_sending=rng.random() < 0.5,
                    until=lambda: _all_ended(observer, num_jobs),
                )
                num_deaths += died
            assert num_deaths >= 1000
            assert observer.violations == []
            assert len(await child_jobs(client, namespace)) == 3 * num_jobs


async def _all_ended(observer: Observer, count: int) -> None:
    while observer.num_ended() < count:
        await asyncio.sleep(0.1)
