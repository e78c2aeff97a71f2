"""One tenant with 500 FineTuneJobs at the size limit and a sweep of 100 such trials, and another.

What is measured is the operator's memory, with all of it under way and after a start with all of it
there, and how long jobs of the other tenant wait for their first Job in the middle of the crowd.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from benchmarks.control_plane.driver import JobDriver
from benchmarks.control_plane.measure import FirstJobs, first_jobs, percentile
from benchmarks.control_plane.world import World, until

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import load_kubeconfig
from finetune_operator.kube.api.transport import Transport
from kit.cases.crowd import NUM_TRIALS, spec_at_the_limit, sweep_at_the_limit
from kit.cluster.chart import IMAGES, render_chart
from kit.cluster.simulation import finetunejob

NUM_PARALLEL_CREATES = 8
NUM_ALONE = 10
"""Jobs of the other tenant before there is a crowd."""
PROBE_SECONDS = 2.0
"""Time between two jobs of the other tenant."""
PATIENCE_SECONDS = 900.0
TENANT = "tenant"
RESOURCES = "finetunejobs.finetune.dev,finetunesweeps.finetune.dev"


async def measure_crowd(name: str, world: World, count: int) -> dict[str, Any]:
    """Let one tenant create all it may, and another a job now and then."""
    for each in render_chart([IMAGES]):
        if each["kind"] in ("PriorityLevelConfiguration", "FlowSchema"):
            world.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(each))
    async with (
        _client_of_tenant(world, world.namespace) as tenant,
        _client_of_tenant(world, world.other) as other,
    ):
        return await _measure(name, world, count, tenant, other)


async def _measure(
    name: str, world: World, count: int, tenant: KubeClient, other: KubeClient
) -> dict[str, Any]:
    driver = JobDriver(world.client, world.namespace, hold=Stage.PREPARE)
    task = asyncio.create_task(driver.run())
    await driver.synced()
    world.audit.mark()
    await _probe(world, other, "alone", NUM_ALONE)
    before, started = world.operator.usage(), time.monotonic()
    await tenant.create(FINETUNESWEEPS, sweep_at_the_limit("crowd", world.namespace))
    slots = asyncio.Semaphore(NUM_PARALLEL_CREATES)

    async def create(number: int) -> None:
        async with slots:
            job = f"job-{number:05d}"
            body = finetunejob(job, world.namespace, **spec_at_the_limit(job))
            await tenant.create(FINETUNEJOBS, body)

    creating = asyncio.gather(*(create(number) for number in range(count)))
    probing = asyncio.create_task(_probe(world, other, "probe", 10_000))
    await creating
    created = time.monotonic() - started
    expected = count + NUM_TRIALS
    await until(lambda: len(driver.held) >= expected, PATIENCE_SECONDS)
    probing.cancel()
    seconds, under_way = time.monotonic() - started, world.operator.usage()
    firsts = first_jobs(world.audit.entries())
    waits = _waits_of(firsts, "probe-")
    await world.begin_again()
    await asyncio.sleep(5.0)
    anew = world.operator.usage()
    task.cancel()
    return {
        "scenario": name,
        "jobs": expected,
        "probes": len(waits),
        "alone_first_job_p50_ms": round(1000 * percentile(_waits_of(firsts, "alone-"), 50), 1),
        "other_first_job_p50_ms": round(1000 * percentile(waits, 50), 1),
        "other_first_job_max_ms": round(1000 * max(waits), 1),
        "crowd_first_job_max_ms": round(
            1000 * max(_waits_of(firsts, "job-") + _waits_of(firsts, "crowd-")), 1
        ),
        "creating_seconds": round(created, 1),
        "all_begun_seconds": round(seconds, 1),
        "idle_rss_mib": round(before.rss_mib, 1),
        "rss_mib": round(under_way.rss_mib, 1),
        "peak_rss_mib": round(under_way.peak_rss_mib, 1),
        "restarts": world.operator.num_restarts,
        "peak_rss_after_start_mib": round(anew.peak_rss_mib, 1),
        "rss_after_start_mib": round(anew.rss_mib, 1),
        "cpu_seconds_per_job": round((under_way.cpu_seconds - before.cpu_seconds) / expected, 5),
    }


def _waits_of(firsts: FirstJobs, prefix: str) -> list[float]:
    """Return how long jobs waited for their first Job; those without one wait still."""
    return [
        firsts.children.get(job, time.time()) - at
        for job, at in firsts.created.items()
        if job.startswith(prefix)
    ]


@asynccontextmanager
async def _client_of_tenant(world: World, namespace: str) -> AsyncIterator[KubeClient]:
    """Open a client of somebody who may write jobs and sweeps of a namespace, and nothing else."""
    kubectl = partial(world.cluster.kubectl, "-n", namespace)
    kubectl("create", "serviceaccount", TENANT)
    kubectl("create", "role", TENANT, "--verb=*", f"--resource={RESOURCES}")
    kubectl(
        "create",
        "rolebinding",
        TENANT,
        f"--role={TENANT}",
        f"--serviceaccount={namespace}:{TENANT}",
    )
    config = yaml.safe_load(Path(world.cluster.kubeconfig).read_text())
    for user in config["users"]:
        user["user"] = {"token": kubectl("create", "token", TENANT).strip()}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(config))
        file.flush()
        connection = load_kubeconfig([Path(file.name)])
    transport = Transport(
        connection, user_agent=TENANT, qps=5000, burst=5000, max_connections=48,
        request_timeout_seconds=120,
    )  # fmt: skip
    async with KubeClient(transport) as client:
        yield client


async def _probe(world: World, client: KubeClient, prefix: str, count: int) -> None:
    """Create a small job of the other tenant every two seconds."""
    for number in range(count):
        await client.create(FINETUNEJOBS, finetunejob(f"{prefix}-{number:03d}", world.other))
        await asyncio.sleep(PROBE_SECONDS)
