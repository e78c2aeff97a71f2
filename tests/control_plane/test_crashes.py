"""The operator dies at any of its API calls, before or after the server took it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import uuid

import pytest

from control_plane.observer import Observer
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Resource
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.clock import SystemClock
from finetune_operator.manager import Manager
from kit.cluster.chart import install_crd
from kit.cluster.devcluster import use_existing_cluster
from kit.cluster.kubelet import Kubelet
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    child_jobs,
    connection_of,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)

NAMESPACES = Resource(
    group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False
)
NUM_CALLS_OF_A_LIFE = 34
"""More than a life takes, which the test checks."""
NUM_DEATHS = int(os.environ.get("FINETUNE_DEATHS", "120"))
"""The design promises 1,000, over 100 jobs: `make deaths`."""
NUM_JOBS = NUM_DEATHS // 10
NUM_ISLANDS = 10
"""Namespaces worked on at once: the machine has few cores, a death is mostly waiting."""


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
        if self.num_calls != self._dies_at:
            return await super().request(*args, **options)
        try:
            if self._after_sending:
                await super().request(*args, **options)
        finally:
            self.died.set()
        raise Crash


async def run_until_death(connection, config, *, dies_at: int, after_sending: bool, until) -> bool:
    """Run a replica until it dies or ``until`` returns; return whether it died."""
    transport = MortalTransport(connection, dies_at=dies_at, after_sending=after_sending)
    client = KubeClient(transport)
    manager = Manager(
        client,
        config,
        identity=f"mortal-{uuid.uuid4().hex[:6]}",
        clock=SystemClock(),
        rng=random.Random(dies_at),
    )
    host = Informer(client, FINETUNEJOBS, namespaces=config.namespaces, transform=lambda obj: obj)
    host.store.add_handler(
        lambda kind, old, new: manager.observe(str(kind), dict(new if new is not None else old))
    )
    await manager.start()
    watching = asyncio.create_task(host.run())
    waits = [asyncio.create_task(transport.died.wait()), asyncio.create_task(until())]
    try:
        async with asyncio.timeout(480):
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return transport.died.is_set()
    finally:
        # No flush, no release: what a killed process does.
        transport.died.set()
        for task in (watching, *waits):
            task.cancel()
        await asyncio.gather(watching, *waits, return_exceptions=True)
        await manager.stop()
        await client.aclose()


class Island:
    """A namespace with pods that succeed and an observer of what happens in it."""

    def __init__(self, connection, client, namespace: str) -> None:
        self.connection, self.client, self.namespace = connection, client, namespace
        self.kubelet = Kubelet(client, namespaces=(namespace,))
        self.observer = Observer(client, namespace)
        self.num_jobs = 0

    @contextlib.asynccontextmanager
    async def living(self):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await self.client.create(NAMESPACES, body)
        try:
            async with self.kubelet.running(), self.observer.watching():
                yield self
        finally:
            if use_existing_cluster():  # the tests' own cluster goes as a whole
                await self.client.delete(NAMESPACES, "", self.namespace)

    async def create_job(self) -> None:
        name = f"job-{self.num_jobs:03d}"
        await self.client.create(FINETUNEJOBS, finetunejob(name, self.namespace))
        self.num_jobs += 1

    def are_all_over(self) -> bool:
        return self.observer.num_ended() == self.num_jobs

    async def until_all_are_over(self) -> None:
        await eventually_async(self.are_all_over, timeout=120, interval=0.1)

    async def die(self, dies_at: int, *, after_sending: bool) -> bool:
        return await run_until_death(
            self.connection,
            test_config(self.namespace, num_workers=4),
            dies_at=dies_at,
            after_sending=after_sending,
            until=self.until_all_are_over,
        )

    async def live_to_the_end(self) -> None:
        config = test_config(self.namespace)
        async with open_client(self.connection) as client, running_manager(client, config):
            await self.until_all_are_over()

    async def check(self) -> None:
        """What must hold whatever happened on the way."""
        assert self.observer.violations == []
        assert len(await child_jobs(self.client, self.namespace)) == 3 * self.num_jobs
        for index in range(self.num_jobs):
            job = await get_job(self.client, self.namespace, f"job-{index:03d}")
            assert holds(job, "Published")
            assert job["status"]["artifact"]["version"] == 1
            assert job["status"]["dataset"]["digest"] == "d" * 64
            # Nothing held the publication: it was the end of the evaluation, not a Job.
            stages = [entry["name"] for entry in job["status"]["stages"]]
            assert stages == [Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE]


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture(autouse=True)
def quiet():
    # A dying replica logs a trace for every worker it had.
    logging.getLogger("finetune_operator").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("finetune_operator").setLevel(logging.NOTSET)


async def on_islands(control_plane, names, live):
    """Run ``live(island, name)`` on an island per name, some at once; return the outcomes."""
    connection = connection_of(control_plane)
    places = asyncio.Semaphore(NUM_ISLANDS)

    async def visit(client, name):
        async with places, Island(connection, client, name).living() as island:
            return await live(island)

    async with open_client(connection) as client:
        prefix = f"test-{uuid.uuid4().hex[:6]}"
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(visit(client, f"{prefix}-{name}")) for name in names]
    return [task.result() for task in tasks]


@pytest.mark.parametrize("after_sending", [False, True], ids=["before sending", "after sending"])
async def test_death_at_any_call_of_a_life_changes_nothing(control_plane, after_sending):
    async def live(island):
        dies_at = int(island.namespace.rsplit("-", 1)[1])
        await island.create_job()
        has_died = await island.die(dies_at, after_sending=after_sending)
        await island.live_to_the_end()
        await island.check()
        return has_died

    died = await on_islands(control_plane, range(1, NUM_CALLS_OF_A_LIFE + 1), live)
    assert died[:16] == [True] * 16
    assert not died[-1], "a life takes more calls than were tried"


@pytest.mark.slow
async def test_many_deaths_make_no_second_job_and_lose_no_terminal_state(control_plane):
    async def live(island):
        rng = random.Random(int(island.namespace.rsplit("-", 1)[1]))
        num_deaths = 0
        while num_deaths < NUM_DEATHS / NUM_ISLANDS or island.num_jobs < NUM_JOBS / NUM_ISLANDS:
            if island.num_jobs - island.observer.num_ended() < 4:
                await island.create_job()
            # The caches take five calls to fill; a later death hits a reconcile.
            num_deaths += await island.die(rng.randint(5, 10), after_sending=rng.random() < 0.5)
        await island.live_to_the_end()
        await island.check()
        return num_deaths, island.num_jobs

    lived = await on_islands(control_plane, range(NUM_ISLANDS), live)
    num_deaths, num_jobs = (sum(column) for column in zip(*lived, strict=True))
    print(f"{num_deaths} deaths over {num_jobs} jobs")  # pytest -rP shows it
    assert num_deaths >= NUM_DEATHS
    assert num_jobs >= NUM_JOBS
