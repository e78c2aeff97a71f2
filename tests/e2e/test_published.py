"""From `kubectl apply` to a published adapter, and what happens on the way."""

from __future__ import annotations

import json
import os

import pytest

from kit.processes.eventually import eventually
from kit.processes.installation import RESUMED, Body, Job, Tenant, is_training
from kit.processes.stages import Workbench

pytestmark = pytest.mark.slow

STAGE = "finetune.dev/stage"
TWO_NODES = {
    "resources": {"nodes": 2, "gpusPerNode": 1},
    "output": {"uri": "s3://team-b/two-nodes"},
}
ALONE = "1500m"  # these run when the node is free
ZERO = {"resources": {"strategy": "ZeRO2", "gpusPerNode": 2, "cpu": ALONE}}
INTERRUPTED = {
    "hyperparameters": {"maxSteps": 300},
    "checkpoint": {"everySteps": 20},
    "resources": {"cpu": ALONE},
}


@pytest.fixture(scope="module")
def one_node(team_a: Tenant, spec: Body) -> Job:
    return team_a.submit("one-node", spec)


@pytest.fixture(scope="module")
def two_nodes(team_b: Tenant, spec: Body) -> Job:
    return team_b.submit("two-nodes", spec, TWO_NODES)


def test_one_node_publishes_the_adapter_that_a_local_run_makes(
    one_node: Job,
    two_nodes: Job,  # runs meanwhile
    materials: Workbench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = materials.run_to("prepare", "train").result
    status = one_node.wait_published()
    assert status["artifact"]["version"] == 1
    assert {s["name"] for s in status["evaluation"]["scores"]}
    assert status["progress"]["step"] == 12
    digests = one_node.verify(status, monkeypatch)
    assert digests["adapter_model.safetensors"] == status["artifact"]["sha256"]
    assert status["artifact"]["sha256"] == here["sha256"]


def test_two_nodes_meet_over_their_service_and_publish(
    two_nodes: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = two_nodes.wait_published()
    pods = [p for p in two_nodes.list("pods") if p["metadata"]["labels"][STAGE] == "train"]
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        # Bound to what the pod of `prepare` ran.
        assert container["image"] == status["trainerImage"]["name"]
    assert two_nodes.list("services")
    two_nodes.verify(status, monkeypatch)


def test_zero2_publishes(
    one_node: Job, two_nodes: Job, team_b: Tenant, spec: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_node.wait_published()
    two_nodes.wait_published()
    job = team_b.submit("zero2", spec, ZERO)
    job.verify(job.wait_published(), monkeypatch)
    assert "ZeRO2 on CPU" in job.kubectl("logs", f"job/{job.name}-train")


def test_a_node_of_several_gpus_trains_and_evaluates_on_all_and_publishes(
    one_node: Job, two_nodes: Job, team_b: Tenant, spec: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = 8
    one_node.wait_published()
    two_nodes.wait_published()
    change = {
        "hyperparameters": {"globalBatchSize": 8, "maxSteps": 4},
        "evaluation": {"batchSize": 2},
        # Each rank, and each process of the evaluation, loads its own libraries and model.
        "resources": {"gpusPerNode": gpus, "cpu": ALONE, "memory": f"{4 + gpus}Gi"},
    }
    job = team_b.submit(f"gpus-{gpus}", spec, change)
    job.verify(job.wait_published(), monkeypatch)
    asked = {
        pod["metadata"]["labels"][STAGE]: pod["spec"]["containers"][0]["resources"]["limits"].get(
            "nvidia.com/gpu"
        )
        for pod in job.list("pods")
    }
    assert asked == {"prepare": None, "train": str(gpus), "evaluate": str(gpus)}
    assert f"x {gpus} rank(s)" in job.logs("train")
    # The node has no such devices: a process takes the place of each, as far as there are cores.
    processes = min(gpus, len(os.sched_getaffinity(0)))
    assert f", on {processes} process" in job.logs("evaluate")


def test_an_evicted_pod_costs_no_retry_and_its_job_resumes_and_publishes(
    team_a: Tenant, spec: Body
) -> None:
    job = team_a.submit("evicted", spec, {**INTERRUPTED, "backoffLimit": 0})
    job.wait(is_training)
    (pod,) = job.running_pods()
    name, namespace = pod["metadata"]["name"], team_a.namespace
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    job.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    status = job.wait(lambda s: s["attempts"]["preemptions"])
    failure = status["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Evicted", "EvictionByEvictionAPI")
    assert (failure["stage"], failure["pod"], failure["node"]) == ("train", name, "devcluster")
    assert "does not count against backoffLimit" in failure["message"]
    told = [e["message"] for e in job.events() if e["reason"] == "Retrying"]
    assert any(name in message and failure["message"] in message for message in told)
    eventually(lambda: RESUMED.search(job.logs("train")), timeout=120, interval=1)
    attempts = job.wait_published()["attempts"]
    assert (attempts["counted"], attempts["preemptions"]) == (0, 1)
