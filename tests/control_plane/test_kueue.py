"""The operator and a real Kueue: the API server, the Job controller and both of them decide, and
only the pods are played."""

from __future__ import annotations

import json
import os

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.integrations.kueue.workload import WORKLOADS
from finetune_operator.kube.api.errors import Invalid
from kit.cluster.chart import install_crd
from kit.cluster.devcluster import (
    remove_cluster,
    skip_where_unfit_for_control_plane,
    start_control_plane,
    start_kueue,
)
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    condition,
    connection_of,
    event_reasons,
    get_job,
    open_client,
    running_manager,
    test_config,
)

pytestmark = pytest.mark.slow

API = "kueue.x-k8s.io/v1beta2"
QUEUE = "team"
LOW, HIGH = "low", "high"
NUM_PREEMPTIONS = 5


@pytest.fixture(scope="module")
def cluster():
    """A control plane of these tests alone, with Kueue beside it."""
    skip_where_unfit_for_control_plane()
    found = start_control_plane(owner_pid=os.getpid())
    try:
        start_kueue(found)
        install_crd(found)
        apply(
            found,
            *(
                manifest("WorkloadPriorityClass", name, value=v)
                for name, v in ((LOW, 1), (HIGH, 9))
            ),
        )
        yield found
    finally:
        remove_cluster(found.name)


def manifest(kind, name, namespace="", **more):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, **more}


def apply(cluster, *documents):
    items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))


def offer(cluster, namespace, cpu, local_queues=(QUEUE,)):
    """Give a namespace a ClusterQueue of so many CPUs, and LocalQueues."""
    quotas = {"cpu": str(cpu), "memory": "1000Gi"}
    resources = [{"name": key, "nominalQuota": value} for key, value in quotas.items()]
    flavor = {"name": namespace, "resources": resources}
    spec = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": list(quotas), "flavors": [flavor]}],
    }
    local = {"clusterQueue": namespace}
    apply(
        cluster,
        manifest("ResourceFlavor", namespace),
        manifest("ClusterQueue", namespace, spec=spec),
        *(manifest("LocalQueue", name, namespace, spec=local) for name in local_queues),
    )


@pytest.fixture
async def world(cluster):
    """An API client, the pods' player and a namespace that the operator serves."""
    namespace = f"kueue-{os.urandom(3).hex()}"
    cluster.kubectl("create", "namespace", namespace)
    async with open_client(connection_of(cluster)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        config = test_config(namespace, kueue="on")
        async with kubelet.running(), running_manager(client, config):
            yield client, kubelet, namespace


async def told(world, name, check, timeout=60):
    """Wait for a status, and return the job."""
    client, _, namespace = world
    seen = {}

    async def is_so():
        job = await get_job(client, namespace, name)
        seen["status"] = job.get("status")
        return job if job.get("status") and check(job) else None

    try:
        return await eventually_async(is_so, timeout=timeout, interval=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {json.dumps(seen, indent=1)}") from None


def says(kind, status, reason):
    def check(job):
        found = condition(job, kind) or {}
        return (found.get("status"), found.get("reason")) == (status, reason)

    return check


async def edit(world, name, **spec):
    client, _, namespace = world
    await client.merge_patch(
        FINETUNEJOBS, namespace, name, {"spec": spec}, field_manager="kubectl-edit"
    )


async def activate(world, name, active):
    client, _, namespace = world
    await client.merge_patch(
        WORKLOADS, namespace, name, {"spec": {"active": active}}, field_manager="kubectl-patch"
    )


async def test_a_job_that_is_preempted_again_and_again_goes_on_and_nothing_is_counted(
    cluster, world
):
    client, kubelet, namespace = world

    def script(job, stage, attempt):
        if stage is Stage.TRAIN and attempt < NUM_PREEMPTIONS:
            return Fate()  # trains until something happens
        return success(stage, run_seconds=0.2)

    kubelet.script = script
    offer(cluster, namespace, 1)
    low = finetunejob("low", namespace, queueName=QUEUE, priorityClassName=LOW, backoffLimit=0)
    await client.create(FINETUNEJOBS, low)
    await told(world, "low", lambda job: job["status"]["phase"] == "Training")
    for number in range(1, NUM_PREEMPTIONS + 1):
        await told(world, "low", says("Training", "True", "Running"))
        other = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": f"urgent-{number}",
                "namespace": namespace,
                "labels": {
                    "kueue.x-k8s.io/queue-name": QUEUE,
                    "kueue.x-k8s.io/priority-class": HIGH,
                },
            },
            "spec": {"suspend": True, "template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "main", "image": "none", "resources": {"requests": {"cpu": "1"}},
                }],
            }}},
        }  # fmt: skip
        apply(cluster, other)
        job = await told(
            world, "low", lambda job, n=number: job["status"]["attempts"]["preemptions"] == n
        )
        assert job["status"]["phase"] == "Queued"
        assert condition(job, "Training")["reason"] == "Preempted"
        assert "prioritization in the ClusterQueue" in condition(job, "QuotaReserved")["message"]
        cluster.kubectl("-n", namespace, "delete", "job", f"urgent-{number}")
    job = await told(world, "low", lambda job: job["status"]["phase"] in ("Succeeded", "Failed"))
    assert job["status"]["phase"] == "Succeeded"
    attempts = job["status"]["attempts"]
    assert (attempts["counted"], attempts["preemptions"]) == (0, NUM_PREEMPTIONS), attempts
    assert "Preempted" in await event_reasons(client, namespace, "low")


async def test_a_waiting_job_is_moved_held_and_released(cluster, world):
    client, _, namespace = world
    offer(cluster, namespace, 0, (QUEUE, "other"))
    await client.create(FINETUNEJOBS, finetunejob("waits", namespace, queueName="nowhere"))
    job = await told(world, "waits", says("QuotaReserved", "False", "Inadmissible"))
    assert "LocalQueue nowhere doesn't exist" in condition(job, "QuotaReserved")["message"]
    await edit(world, "waits", queueName="other", priorityClassName=LOW)
    job = await told(world, "waits", says("QuotaReserved", "False", "Pending"))
    workload = job["status"]["queue"]["workload"]
    assert job["status"]["queue"] == {"localQueue": "other", "workload": workload}
    found = await client.get(WORKLOADS, namespace, workload)
    assert found["spec"]["priorityClassRef"]["name"] == LOW
    assert found["spec"]["queueName"] == "other"
    # Its user pauses and resumes it; an administrator's hold is another matter.
    await edit(world, "waits", suspend=True)
    await told(world, "waits", says("Suspended", "True", "SuspendedByUser"))
    await edit(world, "waits", suspend=False)
    await told(world, "waits", lambda job: job["status"]["phase"] == "Queued")
    await activate(world, workload, False)
    job = await told(world, "waits", says("Suspended", "True", "Deactivated"))
    assert "kubectl-patch has deactivated" in condition(job, "Suspended")["message"]
    for suspend, reason in ((True, "SuspendedByUser"), (False, "Deactivated")):
        await edit(world, "waits", suspend=suspend)
        await told(world, "waits", says("Suspended", "True", reason))
    found = await client.get(WORKLOADS, namespace, workload)
    assert found["spec"]["active"] is False
    await activate(world, workload, True)
    await told(world, "waits", says("Suspended", "False", "Reactivated"))
    offer(cluster, namespace, 1, (QUEUE, "other"))
    job = await told(world, "waits", lambda job: job["status"]["phase"] in ("Succeeded", "Failed"))
    assert job["status"]["phase"] == "Succeeded"
    assert job["status"]["attempts"]["preemptions"] == 0
    assert "queue" not in job["status"]


async def test_an_edit_that_kueue_cannot_follow_is_refused(cluster, world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: Fate() if stage is Stage.TRAIN else success(stage)
    offer(cluster, namespace, 1)
    await client.create(FINETUNEJOBS, finetunejob("runs", namespace, queueName=QUEUE))
    await told(world, "runs", says("Training", "True", "Running"))
    with pytest.raises(Invalid, match="Kueue moves only what waits"):
        await edit(world, "runs", queueName="other")
    with pytest.raises(Invalid, match="Kueue keeps every job"):
        await edit(world, "runs", queueName=None)


async def test_a_drained_queue_is_told_and_the_job_goes_on_when_it_is_started(cluster, world):
    client, kubelet, namespace = world
    kubelet.script = lambda job, stage, attempt: (
        Fate() if stage is Stage.TRAIN and attempt == 0 else success(stage)
    )
    offer(cluster, namespace, 1)
    await client.create(FINETUNEJOBS, finetunejob("drained", namespace, queueName=QUEUE))
    await told(world, "drained", says("Training", "True", "Running"))

    def stop(policy):
        patch = json.dumps({"spec": {"stopPolicy": policy}})
        cluster.kubectl("-n", namespace, "patch", "localqueue", QUEUE, "--type=merge", "-p", patch)

    stop("HoldAndDrain")
    job = await told(world, "drained", says("QuotaReserved", "False", "LocalQueueStopped"))
    assert condition(job, "Training")["reason"] == "LocalQueueStopped"
    await told(world, "drained", lambda job: job["status"]["attempts"]["preemptions"] == 1)
    stop("None")
    await told(world, "drained", lambda job: job["status"]["phase"] == "Succeeded")


async def test_a_namespaces_default_queue_takes_jobs_that_name_none(cluster, world):
    client, _, namespace = world
    offer(cluster, namespace, 0, ("default",))
    await client.create(FINETUNEJOBS, finetunejob("unnamed", namespace))
    job = await told(world, "unnamed", says("QuotaReserved", "False", "Pending"))
    assert job["status"]["phase"] == "Queued"
    assert job["status"]["queue"]["localQueue"] == "default"
    offer(cluster, namespace, 9, ("default",))
    await told(world, "unnamed", lambda job: job["status"]["phase"] == "Succeeded")
