"""The life of a FineTuneJob on a real API server with the real Job controller."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import datetime

import pytest

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.errors import Invalid, NotFound
from finetune_operator.kube.api.resource import CONFIG_MAPS, JOBS, PODS, SERVICES
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import ended_status, finetunejob, waiting_status
from kit.processes.eventually import eventually_async, patient
from kit.processes.operators import (
    child_jobs,
    condition,
    connection_of,
    event_reasons,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)

ROUNDING_SECONDS = 5.0
"""Running time is counted from timestamps without fractions: of three stages and a pause."""


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
    client, kubelet, namespace = world
    # As long as it takes to be seen: changes of children are gathered.
    kubelet.script = lambda job, stage, attempt: success(stage, run_seconds=0.5)
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
    return {"Accepted", "TrainingStarted", "Published"} <= set(reasons)


def last_words(stage, code, failure_class, reason, message):
    return TerminationMessage(
        stage=stage, exit_code=code, failure_class=failure_class, reason=reason, message=message
    ).to_text()


async def phase_is(client, namespace, name, phase, timeout=60):
    async def reached():
        job = await get_job(client, namespace, name)
        return job if (job.get("status") or {}).get("phase") == phase else None

    return await eventually_async(reached, timeout=timeout, interval=0.2)


async def test_bad_data_fails_the_job_at_once_and_says_where(world):
    client, kubelet, namespace = world
    text = last_words(
        Stage.PREPARE,
        ExitCode.DATA_ERROR,
        FailureClass.DATA_ERROR,
        "InvalidRows",
        "headlines.jsonl:17: not JSON; set dataset.maxInvalidRows to leave rows out",
    )
    kubelet.script = lambda job, stage, attempt: Fate(status=ended_status(65, text))
    async with running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("bad-data", namespace))
        job = await phase_is(client, namespace, "bad-data", "Failed")

        async def is_announced():
            return "Failed" in await event_reasons(client, namespace, "bad-data")

        await eventually_async(is_announced)
    failure = job["status"]["lastFailure"]
    assert failure["class"] == "DataError"
    assert failure["reason"] == "InvalidRows"
    assert failure["exitCode"] == 65
    assert "headlines.jsonl:17" in failure["message"]
    assert condition(job, "Stalled")["status"] == "True"
    assert kubelet.attempts[namespace, "bad-data", "prepare"] == 1
    assert len(await child_jobs(client, namespace)) == 1


async def test_a_retryable_failure_is_retried_told_and_survived(world):
    client, kubelet, namespace = world
    text = last_words(
        Stage.PREPARE, ExitCode.STORAGE, FailureClass.STORAGE_ERROR, "Unreachable", "no answer"
    )

    def script(job, stage, attempt):
        if stage is Stage.PREPARE and attempt == 0:
            return Fate(status=ended_status(73, text))
        return success(stage)

    kubelet.script = script
    async with running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("flaky", namespace))
        job = await phase_is(client, namespace, "flaky", "Succeeded", timeout=90)
    assert job["status"]["lastFailure"]["reason"] == "Unreachable"
    attempts = job["status"]["attempts"]
    (incident,) = attempts.pop("history")
    assert attempts == {"total": 4, "counted": 1, "preemptions": 0}
    assert (incident["class"], incident["reason"]) == ("Storage", "Unreachable")
    assert (incident["stage"], incident["counted"]) == ("prepare", True)


async def test_one_failing_rank_of_three_is_given_up_after_backoff_limit_incidents(world):
    client, kubelet, namespace = world
    ranks = []

    def script(job, stage, attempt):
        if stage is not Stage.TRAIN:
            return success(stage)
        # Three pods an attempt, in whatever order: the first one seen of each fails of itself.
        ranks.append(attempt)
        code = 77 if attempt % 3 == 0 else 75
        return Fate(status=ended_status(code, ""), run_seconds=0.5)

    kubelet.script = script
    async with running_manager(client, test_config(namespace)):
        wide = {"resources": {"nodes": 3, "gpusPerNode": 0}, "backoffLimit": 1}
        await client.create(FINETUNEJOBS, finetunejob("oom", namespace, **wide))
        job = await phase_is(client, namespace, "oom", "Failed", timeout=90)

        async def is_stopped():
            return (await client.get(JOBS, namespace, "oom-train"))["spec"]["suspend"]

        # After the status, and once more if the Job has changed in the meantime.
        await eventually_async(is_stopped)
    assert job["status"]["attempts"]["counted"] == 2
    assert [item["class"] for item in job["status"]["attempts"]["history"]] == ["OutOfMemory"] * 2
    assert "backoffLimit (1)" in condition(job, "Failed")["message"]
    assert len(ranks) <= 9


async def test_a_pod_whose_node_does_not_answer_is_replaced(world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: Fate() if attempt == 0 else success(stage)
    async with running_manager(client, test_config(namespace, lost_pod_seconds=1)):
        await client.create(FINETUNEJOBS, finetunejob("cut-off", namespace))
        await pod_is_stuck_in_deletion(client, namespace, "cut-off")
        job = await phase_is(client, namespace, "cut-off", "Training", timeout=90)
    (incident,) = job["status"]["attempts"]["history"]
    assert (incident["class"], incident["reason"]) == ("Infrastructure", "NodeLost")
    assert job["status"]["attempts"]["counted"] == 0


async def pod_is_stuck_in_deletion(client, namespace, job):
    """Delete the first pod that runs: a finalizer holds it, as a kubelet that does not answer.

    An answer that is lost may be that of a deletion, after which no finalizer can be added.
    """
    selector = f"finetune.dev/job={job}"

    async def is_deleted():
        for pod in (await client.list(PODS, namespace, label_selector=selector)).items:
            name, metadata = pod["metadata"]["name"], pod["metadata"]
            if "deletionTimestamp" in metadata:
                return True
            if pod["status"].get("phase") == "Running":
                finalizers = ["example.com/kubelet", *(metadata.get("finalizers") or [])]
                held = {"metadata": {"finalizers": finalizers}}
                await client.merge_patch(PODS, namespace, name, held)
                await client.delete(PODS, namespace, name)
                return True
        return False

    await eventually_async(is_deleted, timeout=60, interval=0.2)


async def test_a_missed_goal_fails_and_publishes_nothing(world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: success(stage, goal_met=False)
    async with running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("missed", namespace))
        job = await phase_is(client, namespace, "missed", "Failed")
    assert condition(job, "Failed")["reason"] == "GoalNotMet"
    assert condition(job, "Published")["status"] == "False"
    assert "version" not in job["status"]["artifact"]


async def test_suspend_stops_the_pods_and_resume_goes_on_with_the_same_job(world):
    client, kubelet, namespace = world

    def script(job, stage, attempt):
        if stage is Stage.TRAIN and attempt == 0:
            return Fate()  # runs until it is stopped
        return success(stage)

    kubelet.script = script
    async with running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("paused", namespace))

        async def is_training():
            return holds(await get_job(client, namespace, "paused"), "Training")

        await eventually_async(is_training, timeout=60, interval=0.2)
        before = await client.get(JOBS, namespace, "paused-train")
        await client.merge_patch(FINETUNEJOBS, namespace, "paused", {"spec": {"suspend": True}})
        await phase_is(client, namespace, "paused", "Suspended")

        async def has_stopped():
            child = await client.get(JOBS, namespace, "paused-train")
            return child["spec"]["suspend"] and not child["status"].get("active")

        await eventually_async(has_stopped, timeout=30, interval=0.2)
        await client.merge_patch(FINETUNEJOBS, namespace, "paused", {"spec": {"suspend": False}})
        job = await phase_is(client, namespace, "paused", "Succeeded", timeout=90)
        after = await client.get(JOBS, namespace, "paused-train")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert job["status"]["attempts"]["counted"] == 0
    assert condition(job, "Suspended")["reason"] == "Resumed"


async def test_a_pause_longer_than_the_deadline_costs_no_running_time(world):
    """Older Job controllers keep ``startTime`` during a pause; this one clears it."""
    client, kubelet, namespace = world

    has_looked = asyncio.Event()

    def script(job, stage, attempt):
        if stage is not Stage.TRAIN:
            return success(stage)
        return Fate() if attempt == 0 else success(stage, until=has_looked.wait)

    async def change(**spec):
        await client.merge_patch(FINETUNEJOBS, namespace, "patient", {"spec": spec})

    async def is_training():
        return holds(await get_job(client, namespace, "patient"), "Training")

    kubelet.script = script
    async with running_manager(client, test_config(namespace)):
        created = time.monotonic()
        await client.create(FINETUNEJOBS, finetunejob("patient", namespace))
        await eventually_async(is_training, timeout=60, interval=0.2)
        child = await client.get(JOBS, namespace, "patient-train")
        began = datetime.fromisoformat(child["status"]["startTime"])
        await change(suspend=True)
        await phase_is(client, namespace, "patient", "Suspended")
        paused = time.monotonic()
        # The slower this machine is, the longer both.
        deadline = math.ceil(patient(paused - created))
        await change(activeDeadlineSeconds=deadline)

        async def is_over_the_deadline():
            return time.monotonic() - paused > deadline + ROUNDING_SECONDS

        await eventually_async(is_over_the_deadline, timeout=deadline, interval=0.5)
        await change(suspend=False)
        await phase_is(client, namespace, "patient", "Training")
        await eventually_async(is_training, timeout=60, interval=0.2)
        await change(activeDeadlineSeconds=3600)
        has_looked.set()
        job = await phase_is(client, namespace, "patient", "Succeeded", timeout=60)
        elapsed = time.monotonic() - created
        child = await client.get(JOBS, namespace, "patient-train")
    assert datetime.fromisoformat(child["status"]["startTime"]) > began
    assert condition(job, "Failed") is None
    counted = sum(stage["activeSeconds"] for stage in job["status"]["stages"])
    assert counted <= elapsed - deadline


async def test_deleting_the_job_takes_its_children_with_it(world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: Fate()
    async with running_manager(client, test_config(namespace)):
        body = finetunejob("gone", namespace)
        await client.create(FINETUNEJOBS, body)

        async def has_pod():
            return (await client.list(PODS, namespace)).items

        await eventually_async(has_pod, timeout=60, interval=0.2)
        await client.delete(FINETUNEJOBS, namespace, "gone")

        async def all_gone():
            for kind in (JOBS, PODS):
                if (await client.list(kind, namespace)).items:
                    return False
            try:
                await client.get(CONFIG_MAPS, namespace, "gone-job")
            except NotFound:
                return True
            return False

        await eventually_async(all_gone, timeout=60, interval=0.3)
        # The same name again is another job, and not hindered by what the first one left.
        kubelet.script = lambda job, stage, attempt: success(stage)
        await client.create(FINETUNEJOBS, body)
        await phase_is(client, namespace, "gone", "Succeeded", timeout=90)


async def test_a_finished_job_deletes_itself_when_its_time_is_over(world):
    client, _, namespace = world
    async with running_manager(client, test_config(namespace)):
        await client.create(
            FINETUNEJOBS, finetunejob("short", namespace, ttlSecondsAfterFinished=2)
        )

        async def is_gone():
            try:
                await get_job(client, namespace, "short")
            except NotFound:
                return True
            return False

        await eventually_async(is_gone, timeout=90, interval=0.3)


async def test_two_nodes_get_two_pods_a_service_and_all_results(world):
    client, kubelet, namespace = world
    async with running_manager(client, test_config(namespace)):
        body = finetunejob("wide", namespace, resources={"nodes": 2, "gpusPerNode": 0})
        await client.create(FINETUNEJOBS, body)
        await phase_is(client, namespace, "wide", "Succeeded", timeout=90)
        service = await client.get(SERVICES, namespace, "wide-train")
        child = await client.get(JOBS, namespace, "wide-train")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert child["status"]["succeeded"] == 2
    assert kubelet.attempts[namespace, "wide", "train"] == 2


async def test_an_image_that_cannot_be_pulled_is_told_with_its_reason(world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: Fate(
        starts=False, status=waiting_status("ImagePullBackOff", "manifest unknown")
    )
    async with running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("no-image", namespace))

        async def is_told():
            job = await get_job(client, namespace, "no-image")
            found = condition(job, "DatasetReady")
            return found and found["reason"] == "ImagePullBackOff" and job

        job = await eventually_async(is_told, timeout=60, interval=0.2)
    assert "manifest unknown" in job["status"]["lastFailure"]["message"]
    assert job["status"]["lastFailure"]["class"] == "ImageError"


async def test_a_deadline_stops_the_job(world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: Fate() if stage is Stage.TRAIN else success(stage)
    async with running_manager(client, test_config(namespace)):
        created = time.monotonic()
        spec = {"activeDeadlineSeconds": 3600}
        await client.create(FINETUNEJOBS, finetunejob("late", namespace, **spec))

        async def is_training():
            return holds(await get_job(client, namespace, "late"), "Training")

        await eventually_async(is_training, timeout=60, interval=0.2)
        # A few seconds away, however long it took to get here.
        spec["activeDeadlineSeconds"] = math.ceil(time.monotonic() - created) + 5
        await client.merge_patch(FINETUNEJOBS, namespace, "late", {"spec": spec})
        job = await phase_is(client, namespace, "late", "Failed", timeout=60)

        async def has_stopped():
            child = await client.get(JOBS, namespace, "late-train")
            return child["spec"]["suspend"] and not child["status"].get("active")

        await eventually_async(has_stopped, timeout=30, interval=0.2)
    assert condition(job, "Failed")["reason"] == "DeadlineExceeded"


async def test_a_refused_edit_says_why(world):
    client, _, namespace = world
    await client.create(FINETUNEJOBS, finetunejob("fixed", namespace, suspend=True))
    patch = {"spec": {"model": {"uri": "hf://other/model"}}}
    with pytest.raises(Invalid, match="fixed once the job exists"):
        await client.merge_patch(FINETUNEJOBS, namespace, "fixed", patch)
