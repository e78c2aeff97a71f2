"""The life of a FineTuneJob on a real API server with the real Job controller."""

from __future__ import annotations

import pytest
from benchmarks.control_plane.simulation import finetunejob

from control_plane.cluster import (
    child_jobs,
    condition,
    connection_of,
    event_reasons,
    get_job,
    holds,
    install_crd,
    open_client,
    running_manager,
    test_config,
)
from control_plane.kubelet import Kubelet
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.controllers.caches import FINETUNEJOBS
from support.eventually import eventually_async


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture
async def world(control_plane, namespace):
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        async with kubelet.running():
            yield client, kubelet, namespace


async def test_a_job_runs_its_three_stages_and_is_published(world):
    client, _, namespace = world
    async with running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("headlines", namespace))

        async def is_complete():
            job = await get_job(client, namespace, "headlines")
            return job if holds(job, "Complete") else None

        job = await eventually_async(is_complete, timeout=60, interval=0.2)
        await eventually_async(lambda: _has_events(client, namespace), timeout=10)
    status = FineTuneJobStatus.model_validate(job["status"])
    assert status.phase == "Succeeded"
    assert status.dataset.digest == "d" * 64
    assert status.artifact.version == 1
    assert status.artifact.sha256 == "a" * 64
    assert status.evaluation.goal_met is True
    assert status.progress.percent == 100
    assert status.progress.step == 171
    assert [entry.name for entry in status.stages] == ["prepare", "train", "evaluate"]
    assert status.observed_generation == 1
    assert holds(job, "Published")
    assert holds(job, "GoalMet")
    assert condition(job, "Failed") is None
    jobs = await child_jobs(client, namespace)
    assert sorted(child["metadata"]["name"] for child in jobs) == [
        "headlines-evaluate",
        "headlines-prepare",
        "headlines-train",
    ]
    assert "managedFields" not in str(job["metadata"].get("finalizers"))
    assert not job["metadata"].get("finalizers")
    assert not job["metadata"].get("annotations")


async def _has_events(client, namespace):
    reasons = await event_reasons(client, namespace, "headlines")
    wanted = {"Accepted", "DatasetReady", "TrainingStarted", "Trained", "Published"}
    return wanted <= set(reasons)
