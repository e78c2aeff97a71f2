"""One tenant's crowd on a real API server: others are served meanwhile."""

from __future__ import annotations

import secrets

import pytest

from finetune_api.names import JOB_LABEL
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.kube.api.errors import Invalid
from finetune_operator.kube.api.resource import JOBS
from kit.cases.crowd import spec_at_the_limit, sweep_at_the_limit
from kit.cluster.chart import install_crd
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import connection_of, open_client, running_manager, test_config

NUM_SMALL, NUM_LARGE = 100, 20
REQUESTS_PER_SECOND = 40
"""So few that the crowd takes many times as long as one job, on any machine."""


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture
def other(control_plane):
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


async def test_a_new_job_gets_its_first_job_before_the_crowd_of_another_tenant(
    control_plane, namespace, other
):
    async with open_client(connection_of(control_plane)) as client:
        bodies = [
            *(finetunejob(f"small-{n}", namespace) for n in range(NUM_SMALL)),
            *(
                finetunejob(f"large-{n}", namespace, **spec_at_the_limit(f"large-{n}"))
                for n in range(NUM_LARGE)
            ),
        ]
        for body in bodies:
            await client.create(FINETUNEJOBS, body)
        await client.create(FINETUNESWEEPS, sweep_at_the_limit("crowd", namespace))

        async def begun(where):
            listed = await client.list(JOBS, where, label_selector=JOB_LABEL)
            metas = [job["metadata"] for job in listed.items]
            return {meta["labels"][JOB_LABEL]: meta["creationTimestamp"] for meta in metas}

        async with open_client(
            connection_of(control_plane), qps=REQUESTS_PER_SECOND, burst=1
        ) as limited:
            config = test_config(namespace, namespaces=[namespace, other], num_workers=8)
            async with running_manager(limited, config) as manager:
                await eventually_async(lambda: begun(namespace), timeout=60)
                await client.create(FINETUNEJOBS, finetunejob("patient", other))
                await eventually_async(lambda: begun(other), timeout=60)
                # By the server's clock: it does not matter how late this test looks.
                first = min((await begun(other)).values())
                crowd = (await begun(namespace)).values()
                assert sum(time <= first for time in crowd) < NUM_SMALL / 2
                jobs = manager.caches.finetunejobs
                large = [jobs.get(namespace, f"large-{n}") for n in range(NUM_LARGE)]
                assert not any(is_whole(job) for job in large if job is not None)


async def test_large_jobs_begin_as_small_ones_do(control_plane, namespace):
    async with open_client(connection_of(control_plane)) as client:
        for n in range(3):
            body = finetunejob(f"large-{n}", namespace, **spec_at_the_limit(f"large-{n}"))
            await client.create(FINETUNEJOBS, body)

        async def num_begun():
            listed = await client.list(JOBS, namespace, label_selector=JOB_LABEL)
            return len(listed.items) == 3

        async with running_manager(client, test_config(namespace)):
            await eventually_async(num_begun, timeout=60)


async def test_what_is_larger_is_refused_at_apply(control_plane, namespace):
    async with open_client(connection_of(control_plane)) as client:
        terms: list[dict[str, object]] = [{}] * 9
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        bodies = {
            "podTemplate.affinity": {"podTemplate": {"affinity": {"nodeAffinity": required}}},
            "dataset": {
                "dataset": {
                    "sources": [{"uri": f"s3://a/{n}", "system": "x" * 8000} for n in range(5)]
                }
            },
        }
        for field, spec in bodies.items():
            with pytest.raises(Invalid) as refused:
                await client.create(FINETUNEJOBS, finetunejob("large", namespace, **spec))
            assert field in str(refused.value)
