"""Durable control on a real API server: evictions, an outage, and child Jobs deleted by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from control_plane.test_lifecycle import phase_is
from control_plane.test_progress import push, token_of
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.finetunejob.pods import outages
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import JOBS, PODS
from finetune_operator.kube.clock import to_timestamp
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import ended_status, finetunejob, waiting_status
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    condition,
    connection_of,
    event_reasons,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)

NUM_WITH_STEPS = 20
"""Evictions of the job that makes steps: twice what ends one that makes none."""
STEP = 1000
AWAY = waiting_status("ErrImagePull", "503 Service Unavailable")
REACHED = {
    "trainerStatus": {"progressPercentage": 58},
    "finetune": {"step": STEP, "totalSteps": 2 * STEP},
}


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture
async def world(control_plane, namespace):
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        async with kubelet.running():
            yield client, kubelet, namespace


def evicted(number, *, step=None):
    """Return the status of a pod that its kubelet evicts, from a node whose clock is behind.

    The Job controller waits for longer after each end, counted from the time that the pod tells:
    of ends that are ten minutes old no wait is left.
    """
    end = to_timestamp(datetime.now(UTC) - timedelta(hours=2) + timedelta(minutes=number))
    why = "The node was low on resource: ephemeral-storage."
    disrupted = {
        "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
        "message": why, "lastTransitionTime": end,
    }  # fmt: skip
    words = TerminationMessage(
        stage=Stage.TRAIN, exit_code=ExitCode.STOPPED, reason="Stopped", step=step
    )
    status = ended_status(ExitCode.STOPPED, words.to_text(), conditions=[disrupted])
    for container in status["containerStatuses"]:
        container["state"]["terminated"] |= {"startedAt": end, "finishedAt": end}
    return {**status, "reason": "Evicted", "message": why}


def stage_of(job, name):
    """Return the entry of one stage in ``status.stages``."""
    return next(each for each in job["status"]["stages"] if each["name"] == name)


async def is_stopped(client, namespace, name):
    """Return whether a child Job is suspended and no pod of it is left that holds a GPU."""
    child = await client.get(JOBS, namespace, name)
    selector = f"batch.kubernetes.io/job-name={name}"
    pods = (await client.list(PODS, namespace, label_selector=selector)).items
    held = [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
    return child["spec"]["suspend"] and not child["status"].get("active") and not held


async def test_evictions_without_a_step_end_a_job_and_with_steps_between_do_not(world, monkeypatch):
    monkeypatch.setattr(outages, "FIRST_SECONDS", 0.0)
    client, kubelet, namespace = world
    config = test_config(namespace)
    num_fruitless = config.max_fruitless_evictions + 1
    assert num_fruitless < NUM_WITH_STEPS

    def script(job, stage, attempt):
        if stage is not Stage.TRAIN:
            return success(stage)
        if job == "starved":
            # A pod that is made before the operator has counted runs until it is stopped.
            return Fate(status=evicted(attempt)) if attempt < num_fruitless else Fate()
        is_evicted = attempt < NUM_WITH_STEPS
        return Fate(status=evicted(attempt, step=attempt + 1)) if is_evicted else success(stage)

    kubelet.script = script
    async with running_manager(client, config):
        for name in ("starved", "moving"):
            await client.create(FINETUNEJOBS, finetunejob(name, namespace, backoffLimit=0))
        starved = await phase_is(client, namespace, "starved", "Failed", timeout=90)
        moving = await phase_is(client, namespace, "moving", "Succeeded", timeout=90)
        await eventually_async(lambda: is_stopped(client, namespace, "starved-train"), timeout=30)
    assert condition(starved, "Failed")["reason"] == "Evicted"
    failure = starved["status"]["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Evicted", "TerminationByKubelet")
    assert stage_of(starved, "train")["fruitless"] == {"step": 0, "evictions": num_fruitless}
    assert kubelet.attempts[namespace, "starved", "train"] <= num_fruitless + 1
    assert starved["status"]["attempts"]["counted"] == 0
    assert kubelet.attempts[namespace, "moving", "train"] == NUM_WITH_STEPS + 1
    attempts = moving["status"]["attempts"]
    assert (attempts["counted"], attempts["preemptions"]) == (0, NUM_WITH_STEPS)


async def test_an_image_outage_after_step_1000_releases_the_gpus_and_costs_nothing(
    control_plane, world, monkeypatch
):
    monkeypatch.setattr(outages, "FIRST_SECONDS", 2.0)
    client, kubelet, namespace = world
    is_away = True

    def script(job, stage, attempt):
        if stage is not Stage.TRAIN:
            return success(stage)
        if attempt == 0:
            return Fate()
        if attempt == 2:
            # The next pause lasts until somebody ends it.
            monkeypatch.setattr(outages, "FIRST_SECONDS", outages.LONGEST_SECONDS)
        return Fate(starts=False, status=AWAY) if is_away else success(stage)

    kubelet.script = script
    config = test_config(
        namespace, progress_url="http://progress:8090", image_pull_deadline_seconds=1
    )
    async with running_manager(client, config) as manager:
        await client.create(FINETUNEJOBS, finetunejob("away", namespace, backoffLimit=0))

        async def is_training():
            return holds(await get_job(client, namespace, "away"), "Training")

        await eventually_async(is_training, timeout=30, interval=0.1)
        await reach_step(control_plane, client, namespace, manager)

        async def is_released(num_releases):
            job = await get_job(client, namespace, "away")
            outage = stage_of(job, "train").get("outage") or {}
            told = outage.get("releases", 0) >= num_releases
            return told and await is_stopped(client, namespace, "away-train") and job

        job = await eventually_async(lambda: is_released(1), timeout=30, interval=0.1)
        told = condition(job, "Training")
        assert (told["status"], told["reason"]) == ("False", "Outage")
        assert job["status"]["lastFailure"]["reason"] == "ErrImagePull"
        await eventually_async(lambda: is_released(2), timeout=30, interval=0.1)
        assert kubelet.attempts[namespace, "away", "train"] == 3
        is_away = False
        # A person who knows that the registry is back does not wait: a resume is the next try.
        for suspend, phase in ((True, "Suspended"), (False, "Succeeded")):
            patch = {"spec": {"suspend": suspend}}
            await client.merge_patch(FINETUNEJOBS, namespace, "away", patch)
            job = await phase_is(client, namespace, "away", phase)
        assert "Outage" in await event_reasons(client, namespace, "away")
    assert job["status"]["attempts"]["counted"] == 0
    assert stage_of(job, "train")["outage"]["step"] == STEP


async def reach_step(control_plane, client, namespace, manager):
    """Have the pod of the training report a step; then its kubelet evicts it."""
    selector = "finetune.dev/stage=train"
    (pod,) = (await client.list(PODS, namespace, label_selector=selector)).items
    token = await token_of(connection_of(control_plane), namespace, pod)

    async def is_reported():
        if await push(manager, namespace, "away", token, body=REACHED) >= 300:
            return False
        progress = (await get_job(client, namespace, "away"))["status"].get("progress") or {}
        return progress.get("step") == STEP

    await eventually_async(is_reported, timeout=30, interval=0.5)
    name = pod["metadata"]["name"]
    await client.merge_patch(
        PODS, namespace, name, {"status": evicted(0, step=STEP)}, subresource="status"
    )


@pytest.mark.parametrize("propagation", ["Background", "Orphan"])
async def test_a_child_job_that_is_deleted_by_hand_is_made_again(world, propagation):
    client, kubelet, namespace = world

    def script(job, stage, attempt):
        is_first = stage in (Stage.TRAIN, Stage.EVALUATE) and attempt == 0
        return Fate() if is_first else success(stage)

    kubelet.script = script
    async with running_manager(client, test_config(namespace)):
        spec = {"backoffLimit": 0, "podTemplate": {"terminationGracePeriodSeconds": 1}}
        await client.create(FINETUNEJOBS, finetunejob("deleted", namespace, **spec))
        for stage in ("train", "evaluate"):
            await delete_once_it_runs(client, namespace, f"deleted-{stage}", propagation)
        job = await phase_is(client, namespace, "deleted", "Succeeded", timeout=60)
        assert "JobDeleted" in await event_reasons(client, namespace, "deleted")
    attempts = job["status"]["attempts"]
    assert attempts["counted"] == 0
    told = [(entry["reason"], entry["stage"]) for entry in attempts["history"]]
    assert told == [("JobDeleted", "train"), ("JobDeleted", "evaluate")]
    assert job["status"]["artifact"]["version"] == 1


async def delete_once_it_runs(client, namespace, name, propagation):
    """Delete a child Job whose pod runs; return once there is another one of its name."""

    async def runs():
        try:
            child = await client.get(JOBS, namespace, name)
        except NotFound:
            return None
        return child if child["status"].get("active") else None

    before = await eventually_async(runs, timeout=30, interval=0.1)
    await client.delete(JOBS, namespace, name, propagation=propagation)

    async def is_back():
        try:
            child = await client.get(JOBS, namespace, name)
        except NotFound:
            return False
        return child["metadata"]["uid"] != before["metadata"]["uid"]

    await eventually_async(is_back, timeout=30, interval=0.1)
